"""AutoGraph is kept for what is not known to do without it."""

import pytest
import seqio
import tensorflow as tf
from tensorflow.python.data.ops import structured_function

from gqa_flax.data import reading, sources, tasks

LENGTHS = {'inputs': 20, 'targets': 20}


@pytest.fixture(autouse=True)
def clean():
  yield
  for name in ('theirs', 'both', *tasks.TASKS):
    seqio.TaskRegistry.remove(name)
    seqio.MixtureRegistry.remove(name)


def rows(split):
  return {'inputs': ['a', 'long'], 'targets': ['b', 'b']}


def shout(dataset):
  """Makes long inputs loud."""

  def change(example):
    text = example['inputs']
    if tf.strings.length(text) > 3:
      text = tf.strings.upper(text)
    return {**example, 'inputs': text}

  return dataset.map(change)


def function_source(split, shuffle_files, seed=None):
  return shout(tf.data.Dataset.from_tensor_slices(rows(split)))


def register(source, *preprocessors):
  vocabulary = seqio.ByteVocabulary()
  return seqio.TaskRegistry.add(
    'theirs',
    source=source,
    preprocessors=[*preprocessors, seqio.preprocessors.tokenize],
    output_features={name: seqio.Feature(vocabulary) for name in LENGTHS},
  )


def texts(task):
  dataset = reading.dataset(task, 'train', LENGTHS)
  return [
    seqio.ByteVocabulary().decode(example['inputs'].tolist())
    for example in dataset.take(2).as_numpy_iterator()
  ]


def test_a_user_s_preprocessor_may_have_python_s_if():
  task = register(sources.TextSource(rows, ['train']), shout)
  assert texts(task) == ['a', 'LONG']


def test_so_may_a_user_s_source():
  task = register(seqio.FunctionDataSource(function_source, ['train']))
  assert texts(task) == ['a', 'LONG']


def test_so_may_one_task_of_a_mixture():
  task = register(sources.TextSource(rows, ['train']), shout)
  tasks.get_task('wikipedia_summarization', seqio.ByteVocabulary())
  mixture = seqio.MixtureRegistry.add(
    'both', [(task.name, 1), ('wikipedia_summarization', 0)]
  )
  assert texts(mixture) == ['a', 'LONG']


@pytest.mark.parametrize(
  'name', ['wikipedia_span_corruption', 'wikipedia_summarization']
)
def test_our_own_are_not_rewritten(name, monkeypatch):
  rewritten = []
  convert = structured_function.autograph.tf_convert

  def spy(function, context, *args, **kwargs):
    if context.status.name != 'DISABLED':
      rewritten.append(function)
    return convert(function, context, *args, **kwargs)

  monkeypatch.setattr(structured_function.autograph, 'tf_convert', spy)
  task = tasks.get_task(name, seqio.ByteVocabulary())
  lengths = {'inputs': 64, 'targets': 64}
  next(iter(reading.dataset(task, 'train', lengths)))
  assert rewritten == []
