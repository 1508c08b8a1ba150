"""What of a TFDS data set is on disk: read from its files, without TensorFlow.

TFDS writes a data set to <data_dir>/<builder>[/<config>]/<version>/, under
another name until it is complete, with dataset_info.json among its files. It
would answer a data set that is missing by downloading it; here the absence is
said at once, with the command that ends it.
"""

import dataclasses
import json
import os
from collections.abc import Mapping

from etils import epath

from gqa_flax.data import catalogue


class MissingDataError(FileNotFoundError):
  """A data set is not on disk."""


@dataclasses.dataclass(frozen=True)
class OnDisk:
  """A data set as it lies on disk.

  Attributes:
    tfds_name: builder, configuration and version.
    folder: where it is, or would be.
    examples: from the name of a split to its size; empty if it is not there.
    num_bytes: of the records of all splits.
    missing_files: record files that dataset_info.json names and that are gone.
    other_versions: what there is of the same data set in other versions.
  """

  tfds_name: str
  folder: epath.Path
  examples: Mapping[str, int]
  num_bytes: int
  missing_files: tuple[str, ...]
  other_versions: tuple[str, ...]

  @property
  def is_whole(self) -> bool:
    return bool(self.examples) and not self.missing_files


def data_dir(chosen: str | os.PathLike | None = None) -> epath.Path:
  """Returns where data sets lie: as chosen, else TFDS_DATA_DIR, else TFDS's."""
  default = os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'
  return epath.Path(chosen or default).expanduser()


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
  info = json.loads(info_file.read_text()) if info_file.exists() else {}
  splits = info.get('splits', [])
  present = {path.name for path in folder.iterdir()} if splits else set()
  return OnDisk(
    tfds_name,
    folder,
    {s['name']: sum(map(int, s['shardLengths'])) for s in splits},
    sum(int(s['numBytes']) for s in splits),
    tuple(f for s in splits for f in _files(info, s) if f not in present),
    others,
  )


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
  published = catalogue.published(tfds_name)
  by_hand = published is not None and published.by_hand
  remedy = (
    f'see what to do with `gqa-flax data check {task_name}`'
    if by_hand
    else f'fetch it with `gqa-flax data prepare {task_name}`'
  )
  where = data_dir(data_dir_)
  if found.missing_files:
    raise MissingDataError(
      f'The data set {tfds_name} of task {task_name!r} lacks '
      f'{len(found.missing_files)} of its files in {found.folder}, such as '
      f'{found.missing_files[0]}: remove that folder, and {remedy}.'
    )
  others = (
    f' (only version {", ".join(found.other_versions)} is there)'
    if found.other_versions
    else ''
  )
  raise MissingDataError(
    f'The data set {tfds_name} of task {task_name!r} is not in {where}'
    f'{others}: {remedy}, or say with --tfds_data_dir where it is.'
  )


def _files(info: Mapping, split: Mapping) -> list[str]:
  """Returns the names of a split's record files."""
  template = split.get(
    'filepathTemplate', '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}'
  )
  num_shards = len(split['shardLengths'])
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
