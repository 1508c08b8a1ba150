"""What of a TFDS data set is on disk: read from its files, without TensorFlow.

TFDS writes a data set to <data_dir>/<builder>[/<config>]/<version>/, under
another name until it is complete, with dataset_info.json among its files. It
would answer a data set that is missing by downloading it; here the absence is
said at once, with the command that ends it.
"""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence

from etils import epath

from gqa_flax.data import catalogue

# Of a cached task: what we add to seqio's files, and in it their bytes.
CACHE_RECORD = 'gqa_flax.json'
CACHE_SIZES = 'sizes'


class MissingDataError(FileNotFoundError):
  """A data set is not on disk."""


@dataclasses.dataclass(frozen=True)
class Split:
  """A split as dataset_info.json describes it."""

  name: str
  num_examples: int
  num_bytes: int
  files: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class OnDisk:
  """A data set as it lies on disk.

  Attributes:
    tfds_name: builder, configuration and version.
    folder: where it is, or would be.
    splits: what it holds; empty if it is not there.
    missing_files: record files that dataset_info.json names and that are gone.
    other_versions: what there is of the same data set in other versions.
  """

  tfds_name: str
  folder: epath.Path
  splits: tuple[Split, ...]
  missing_files: tuple[str, ...]
  other_versions: tuple[str, ...]

  @property
  def examples(self) -> dict[str, int]:
    """From the name of a split to its size."""
    return {split.name: split.num_examples for split in self.splits}

  @property
  def num_bytes(self) -> int:
    """Of the records of all splits."""
    return sum(split.num_bytes for split in self.splits)

  @property
  def is_whole(self) -> bool:
    """Whether every file is there."""
    return bool(self.splits) and not self.missing_files

  def damaged_splits(self) -> list[str]:
    """Returns the splits whose files are not as large as their records.

    Only for TFRecord, which adds 16 bytes of length and checksums to each.
    """
    damaged = []
    for split in self.splits:
      if not all('.tfrecord' in file for file in split.files):
        continue
      found = sum((self.folder / file).stat().length for file in split.files)
      if found != split.num_bytes + 16 * split.num_examples:
        damaged.append(split.name)
    return damaged


def data_dir(chosen: str | os.PathLike | None = None) -> epath.Path:
  """Returns where data sets lie: as chosen, else TFDS_DATA_DIR, else TFDS's.

  Raises:
    NotADirectoryError: it is a file.
  """
  default = os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'
  folder = epath.Path(chosen or default).expanduser()
  if folder.exists() and not folder.is_dir():
    raise NotADirectoryError(
      f'The data sets cannot be in {folder}, which is a file: give a folder as '
      '--tfds_data_dir, or in TFDS_DATA_DIR.'
    )
  return folder


def manual_dir(data_dir_: str | os.PathLike | None = None) -> epath.Path:
  """Returns where TFDS looks for files that were fetched by hand."""
  return data_dir(data_dir_) / 'downloads' / 'manual'


def cache_dir(data_dir_: str | os.PathLike | None = None) -> epath.Path:
  """Returns where tokenized tasks are cached, if nothing else is said."""
  return data_dir(data_dir_) / 'cached_tasks'


def is_cached(
  task_name: str, data_dir_: str | os.PathLike | None = None
) -> bool:
  """Whether a complete cache of a task is in `cache_dir`."""
  return (cache_dir(data_dir_) / task_name / 'COMPLETED').exists()


def require_cache(
  task_name: str,
  folders: Sequence[str] = (),
  data_dir_: str | os.PathLike | None = None,
) -> epath.Path:
  """Returns the folder of a task's cache, if it is whole.

  Args:
    task_name: of the task.
    folders: where to look, besides `cache_dir`.
    data_dir_: see `data_dir`.

  Raises:
    MissingDataError: there is none, or only a part of one.
  """
  roots = [epath.Path(f) for f in folders]
  roots += [r for r in [cache_dir(data_dir_)] if r not in roots]
  # As seqio names it, whose names of tasks may have a version.
  paths = [root / task_name.replace(':', '/') for root in roots]
  found = next((p for p in paths if (p / 'COMPLETED').exists()), None)
  remedy = (
    f'write the cache with `gqa-flax data prepare {task_name} --cache`, say '
    'with --seqio_additional_cache_dirs where it is, or set USE_CACHED_TASKS '
    'to False.'
  )
  if found is None:
    searched = ', '.join(map(str, roots))
    raise MissingDataError(
      f'Task {task_name!r} is not cached in {searched}: {remedy}'
    )
  if damaged := _damaged_in_cache(found):
    raise MissingDataError(
      f'Of the files of the cache {found}, {len(damaged)} are missing or cut, '
      f'such as {damaged[0]}: remove that folder, and {remedy}'
    )
  return found


def _damaged_in_cache(folder: epath.Path) -> list[str]:
  """Returns the files of records that are not there or not as written."""
  wanted = []
  for info in sorted(folder.glob('info.*.json')):
    split = info.name.split('.')[1]
    number = json.loads(info.read_text())['num_shards']
    wanted += [f'{split}.tfrecord-{i:05}-of-{number:05}' for i in range(number)]
  record = folder / CACHE_RECORD  # seqio alone writes none
  sizes = json.loads(record.read_text()) if record.exists() else {}
  sizes = sizes.get(CACHE_SIZES, {})

  def is_whole(name):
    path = folder / name
    return path.exists() and path.stat().length == sizes.get(
      name, path.stat().length
    )

  return [x for x in wanted or ['info.train.json'] if not is_whole(x)]


def find(tfds_name: str, data_dir_: str | os.PathLike | None = None) -> OnDisk:
  """Returns what is there of a data set.

  Args:
    tfds_name: such as 'scientific_papers/arxiv:1.1.1'.
    data_dir_: where to look; see `data_dir`.

  Raises:
    ValueError: the name has no version.
  """
  name, colon, version = tfds_name.partition(':')
  if not colon:
    raise ValueError(
      f'The TFDS name {tfds_name!r} has no version; write it as in '
      "'cnn_dailymail:3.4.0'."
    )
  versions = data_dir(data_dir_) / name
  folder = versions / version
  others = ()
  if versions.exists():
    others = tuple(
      sorted(
        path.name
        for path in versions.iterdir()
        if path.name != version and (path / 'dataset_info.json').exists()
      )
    )
  info_file = folder / 'dataset_info.json'
  splits: tuple[Split, ...] = ()
  missing: tuple[str, ...] = ()
  if info_file.exists():
    try:
      splits = _splits(json.loads(info_file.read_text()))
    except (
      *(ValueError, KeyError, TypeError, AttributeError),
      *(RecursionError, OSError),
    ):
      raise MissingDataError(
        f'{info_file} is not what TFDS writes: remove its folder, and prepare '
        'the data set again with `gqa-flax data prepare`.'
      ) from None
    present = {path.name for path in folder.iterdir()}
    files = [file for split in splits for file in split.files]
    missing = tuple(file for file in files if file not in present)
  return OnDisk(tfds_name, folder, splits, missing, others)


def require(
  tfds_name: str,
  task_name: str,
  data_dir_: str | os.PathLike | None = None,
) -> OnDisk:
  """Returns what is there of a data set, if it is whole.

  Args:
    tfds_name: such as 'scientific_papers/arxiv:1.1.1'.
    task_name: of the task that reads it, for the remedy.
    data_dir_: where to look; see `data_dir`.

  Raises:
    MissingDataError: it is not on disk, or only in part.
  """
  found = find(tfds_name, data_dir_)
  if found.is_whole:
    return found
  if found.missing_files:
    raise incomplete(found)
  data_set = catalogue.of_any_version(tfds_name)
  by_hand = data_set is not None and data_set.by_hand
  remedy = (
    f'see what to do with `gqa-flax data check {task_name}`'
    if by_hand
    else f'fetch it with `gqa-flax data prepare {task_name}`'
  )
  if data_set is None:
    remedy += '; check TFDS_NAME'
  where = data_dir(data_dir_)
  others = (
    f' (only version {", ".join(found.other_versions)} is there)'
    if found.other_versions
    else ''
  )
  raise MissingDataError(
    f'The data set {tfds_name} of task {task_name!r} is not in {where}'
    f'{others}: {remedy}, or say with --tfds_data_dir where it is.'
  )


def incomplete(found: OnDisk) -> MissingDataError:
  """Returns the error of a data set of which files are gone."""
  return MissingDataError(
    f'The data set {found.tfds_name} lacks {len(found.missing_files)} of its '
    f'files in {found.folder}, such as {found.missing_files[0]}: remove that '
    'folder, and write it anew with `gqa-flax data prepare`.'
  )


def require_manual_files(tfds_name: str, folder: epath.Path) -> None:
  """Sees that what must be fetched by hand has been.

  Raises:
    MissingDataError: it has not; the steps are said.
  """
  data_set = catalogue.of_any_version(tfds_name)
  wanted = data_set.manual_files if data_set else ()
  missing = [file for file in wanted if not (folder / file).exists()]
  if missing:
    raise MissingDataError(
      f'{tfds_name} is made of files that must be fetched by hand, and '
      f'{folder} lacks {", ".join(missing)}:\n'
      + data_set.by_hand.format(manual_dir=folder)
    )


def _splits(info: Mapping) -> tuple[Split, ...]:
  """Reads the splits of a dataset_info.json."""
  return tuple(
    Split(
      split['name'],
      sum(map(int, split.get('shardLengths', ()))),
      int(split.get('numBytes', 0)),
      tuple(_files(info, split)),
    )
    for split in info['splits']
  )


def _files(info: Mapping, split: Mapping) -> list[str]:
  """Returns the names of a split's record files."""
  template = split.get(
    'filepathTemplate', '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}'
  )
  num_shards = len(split.get('shardLengths', ()))
  return [
    template.format(
      DATASET=info['name'],
      SPLIT=split['name'],
      FILEFORMAT=info.get('fileFormat', 'tfrecord'),
      SHARD_INDEX=f'{shard:05}',
      NUM_SHARDS=f'{num_shards:05}',
      SHARD_X_OF_Y=f'{shard:05}-of-{num_shards:05}',
    )
    for shard in range(num_shards)
  ]
