"""Tasks tokenized ahead of training, in seqio's cached form.

What stands in a task before `seqio.CacheDatasetPlaceholder` is run once, with
Apache Beam, and written as shards of token ids; `use_cached` then reads those.
A cache lies in <folder>/<task>/. seqio takes one for complete when it holds a
file COMPLETED, and knows it by the name of the task alone; ours also hold
gqa_flax.json, which says what the task was, so that a cache of another
vocabulary, data set or text is not taken for the right one.
"""

import json
from collections.abc import Sequence
from typing import Any

import seqio
from etils import epath

from gqa_flax.data import on_disk, tasks
from gqa_flax.data.on_disk import CACHE_RECORD as _MADE_OF
from gqa_flax.data.vocabulary import fingerprint
from gqa_flax.runtime import interrupts
from gqa_flax.runtime.owner import Owner

# Beam's default, DirectRunner, may hand over to a runner that it downloads.
_LOCAL_RUNNER = (
  '--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner'
)


def add_folders(folders: Sequence[str]) -> None:
  """Adds folders in which caches are looked for, as T5X's flag does."""
  seqio.add_global_cache_dirs([*folders])


def find(task: seqio.Task) -> epath.Path | None:
  """Returns the folder of a task's complete cache, or None."""
  add_folders([str(on_disk.cache_dir())])
  return epath.Path(task.cache_dir) if task.cache_dir else None


def require(task: seqio.Task) -> epath.Path:
  """Returns the folder of a task's cache, of the same text and vocabulary.

  Raises:
    MissingDataError: there is none, or a part of one.
    ValueError: the task cannot be cached, or its cache was made with another
      vocabulary or other choices.
  """
  if not task.supports_caching:
    raise ValueError(
      f'Task {task.name!r} cannot be cached, as it has no '
      'CacheDatasetPlaceholder among its preprocessors: set USE_CACHED_TASKS '
      'to False.'
    )
  find(task)  # looks in the default folder, too
  folder = on_disk.require_cache(task.name, seqio.get_global_cache_dirs())
  # Caches that others made with seqio do not say what they were made of.
  record = folder / _MADE_OF
  if record.exists():
    then, now = json.loads(record.read_text()), made_of(task)
    for name, value in now.items():
      if then.get(name) != value:
        raise ValueError(
          f'The cache {folder} was made with {name} {then.get(name)}, but the '
          f'task has {value}: write it anew with `gqa-flax data prepare '
          f'{task.name} --cache --overwrite`, or set USE_CACHED_TASKS to False.'
        )
  return folder


def made_of(task: seqio.Task) -> dict[str, Any]:
  """Returns what a cache of the task depends on."""
  return {
    'vocabulary': {
      name: fingerprint(feature.vocabulary)
      for name, feature in task.output_features.items()
    },
    **tasks.choices(task),
  }


def write(
  task: seqio.Task,
  folder: str | None = None,
  *,
  pipeline_options: Sequence[str] = (),
  min_shards: int = 1,
  overwrite: bool = False,
) -> epath.Path:
  """Writes a task's cache, and returns its folder.

  Args:
    task: with a `seqio.CacheDatasetPlaceholder`.
    folder: gets <task>/; None is `on_disk.cache_dir`.
    pipeline_options: Beam's, such as '--runner=DataflowRunner'.
    min_shards: how many files each split has at least, so that as many hosts
      read different ones.
    overwrite: whether a cache that is there is replaced.

  Raises:
    FileExistsError: there is one already, or something else in its place.
    FolderInUseError: another process is writing it.
    ValueError: the task cannot be cached.
    MissingDataError: the task's data set is not on disk.
    ModuleNotFoundError: Apache Beam is not installed.
  """
  if not task.supports_caching:
    raise ValueError(
      f'Task {task.name!r} cannot be cached: it has no CacheDatasetPlaceholder '
      'among its preprocessors.'
    )
  root = epath.Path(folder) if folder else on_disk.cache_dir()
  output = root / seqio.get_task_dir_from_name(task.name)
  if (output / 'COMPLETED').exists() and not overwrite:
    raise FileExistsError(
      f'Task {task.name!r} is cached in {output} already; give --overwrite to '
      'write it anew.'
    )
  if output.exists() and not (output / 'COMPLETED').exists():
    raise FileExistsError(
      f'{output} is there and is no cache; perhaps a data set of that name: '
      'choose another --cache_dir.'
    )
  with Owner(output, '--cache_dir', beside=True):
    unfinished = output.with_name(f'{output.name}.incomplete')
    with interrupts.cleanup(unfinished.rmtree):
      _run_pipeline(task, unfinished, pipeline_options, min_shards)
    sizes = {
      path.name: path.stat().length for path in unfinished.glob('*.tfrecord-*')
    }
    record = {**made_of(task), on_disk.CACHE_SIZES: sizes}
    (unfinished / _MADE_OF).write_text(json.dumps(record, indent=2) + '\n')
    (unfinished / 'COMPLETED').write_text('')
    if output.exists():
      output.rmtree()
    unfinished.rename(output)
  return output


def _run_pipeline(task, output, pipeline_options, min_shards):
  options = beam_options(pipeline_options)
  import apache_beam as beam
  from seqio import beam_utils

  def setup():
    # A worker on another machine has not seen the task yet.
    if task.name not in seqio.TaskRegistry.names():
      seqio.TaskRegistry.add_provider(task.name, task)

  splits = {
    split: beam_utils.PreprocessTask(task, split, setup_fn=setup)
    for split in task.splits
  }
  if output.exists():  # of a run that was stopped
    output.rmtree()
  output.mkdir(parents=True)
  with beam.Pipeline(options=options) as pipeline:
    for split, preprocess in splits.items():
      num_shards = max(len(preprocess.shards), min_shards)
      examples = (
        pipeline
        | f'{split}: tokenize' >> preprocess
        | f'{split}: mix' >> beam.Reshuffle()
      )
      for name, step, path in (
        (
          'records',
          beam_utils.WriteExampleTfRecord(
            seqio.get_cached_tfrecord_prefix(str(output), split), num_shards
          ),
          None,
        ),
        (
          'info',
          beam_utils.GetInfo(num_shards),
          seqio.get_cached_info_path(str(output), split),
        ),
        (
          'statistics',
          beam_utils.GetStats(task.output_features),
          seqio.get_cached_stats_path(str(output), split),
        ),
      ):
        result = examples | f'{split}: {name}' >> step
        if path:
          _ = result | f'{split}: write {name}' >> beam_utils.WriteJson(path)


def beam_options(options: Sequence[str]) -> Any:
  """Returns Beam's PipelineOptions, of a runner on this machine if of none.

  Raises:
    ModuleNotFoundError: Apache Beam is not installed.
  """
  try:
    from apache_beam.options import pipeline_options
  except ModuleNotFoundError:
    raise ModuleNotFoundError(
      'This needs Apache Beam, which is not installed: run '
      "`pip install 'gqa_flax[beam]'`."
    ) from None
  return pipeline_options.PipelineOptions([*options] or [_LOCAL_RUNNER])


def statistics(folder: epath.Path) -> dict[str, dict[str, int]]:
  """Returns, for each split of a cache, its examples and tokens."""
  return {
    path.name.split('.')[1]: json.loads(path.read_text())
    for path in sorted(folder.glob('stats.*.json'))
  }
