"""Examples that a task cannot use: skipped, counted, and said once.

A public data set promises that a field exists, not that it holds anything: a
summary may be empty, an interview without a word. Such an example would train
a model to say nothing or to make something up, and be scored against nothing.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator, Mapping

import tensorflow as tf

from gqa_flax.runtime import status

# Characters that show nothing: separators, control and zero-width ones.
_BLANK = r'[\pZ\pC]*'

# From the names of what an example must have to the texts, in which something
# must be legible.
Needs = Callable[[Mapping[str, tf.Tensor]], Mapping[str, tf.Tensor]]

# Of this process: the tasks and what some of their examples lack.
_said: set[tuple[str, str]] = set()
_found: contextvars.ContextVar[dict[str, str] | None] = contextvars.ContextVar(
  'skipped examples', default=None
)


@contextlib.contextmanager
def collected() -> Iterator[dict[str, str]]:
  """Collects what is skipped by the datasets that are made meanwhile.

  Yields:
    From the id of each example skipped so far to what it lacks.
  """
  found: dict[str, str] = {}
  token = _found.set(found)
  try:
    yield found
  finally:
    _found.reset(token)


def keep_usable(
  dataset: tf.data.Dataset, needs: Needs, task_name: str
) -> tf.data.Dataset:
  """Drops the examples of a dataset that lack what a task needs.

  The first one of a task that lacks something is named on stderr.

  Args:
    dataset: of examples, with TFDS's 'tfds_id' if they have ids.
    needs: what must be legible in each.
    task_name: of the task that reads it.
  """
  # Bound here, as it is another thread that will read the dataset.
  skip = functools.partial(_skip, task_name, _found.get())

  def is_usable(example):
    lacking = tf.constant('')
    for name, text in reversed(needs(example).items()):
      blank = tf.strings.regex_full_match(text, _BLANK)
      lacking = tf.where(blank, name, lacking)

    def report():
      # Not stateful, for such a dataset's position cannot be saved.
      where = example.get('tfds_id', '')
      usable = tf.numpy_function(
        skip, [lacking, where], tf.bool, stateful=False
      )
      return tf.ensure_shape(usable, [])

    return tf.cond(lacking == '', lambda: tf.constant(True), report)

  return dataset.filter(tf.autograph.experimental.do_not_convert(is_usable))


def _skip(
  task_name: str, found: dict[str, str] | None, lacking: bytes, where: bytes
) -> bool:
  name, identity = lacking.decode(), where.decode()
  if found is not None:
    found[identity] = name
  if (task_name, name) not in _said:
    _said.add((task_name, name))
    status.say(
      f'Skipping examples of {task_name} that have no {name}, the first of '
      f'them {identity or "without an id"}; `gqa-flax data check {task_name} '
      '--all` counts them.'
    )
  return False
