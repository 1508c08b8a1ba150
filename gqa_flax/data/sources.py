"""Where the raw examples of a task come from, and what else makes a task."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from gqa_flax.data import on_disk

Preprocessor = Callable[..., tf.data.Dataset]


@dataclasses.dataclass(frozen=True)
class TaskSpec:
  """What makes a task, but for the vocabulary.

  Attributes:
    source: makes the seqio source of the raw examples; it is called late, for
      a source may need data that is not on disk.
    preprocessors: seqio preprocessors from raw examples to 'inputs' and
      'targets' of token ids.
    metric: 'rouge', 'bleu', 'chrf', 'trivia_qa', or None where the loss is all.
    name: the only name that the task may go by; None for any.
    choices: what else decides the examples, for JSON: neither a cache nor a
      position in the data made with others is taken for this task's.
  """

  source: Callable[[], seqio.DataSource]
  preprocessors: Sequence[Preprocessor]
  metric: str | None
  name: str | None = None
  choices: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class TextSource(seqio.DataSource):
  """A seqio source of texts held in memory.

  seqio's FunctionDataSource would do, but it can neither shard nor shuffle at
  the source, and says so in a warning on every run.
  """

  def __init__(
    self,
    rows: Callable[[str], Mapping[str, Sequence[str] | tf.Tensor]],
    splits: Sequence[str],
  ):
    """Makes the source.

    Args:
      rows: from the name of a split to its columns, all of one length: texts,
        or a tensor of them, ragged where each row has several.
      splits: the names of the splits.
    """
    super().__init__(splits=splits)
    self._rows = rows

  @property
  def supports_arbitrary_sharding(self) -> bool:
    return True

  def list_shards(self, split: str) -> Sequence[str]:
    return [split]

  def get_dataset(
    self, split='train', shuffle=True, seed=None, shard_info=None, **unused
  ) -> tf.data.Dataset:
    """Returns a dataset of strings; see seqio.DataSource.

    Raises:
      ValueError: the split is none of the source's, such as a part of one.
    """
    if split not in self.splits:
      raise ValueError(
        f'There is no split {split!r}, but {", ".join(self.splits)}; parts and '
        'sums of splits are for data sets of TFDS.'
      )
    columns = {
      name: column if tf.is_tensor(column) else tf.constant(column, tf.string)
      for name, column in self._rows(split).items()
    }
    num_rows = len(next(iter(columns.values())))
    # Row numbers are shuffled, not rows: the whole split can be, and a saved
    # iterator stays small.
    dataset = tf.data.Dataset.range(num_rows)
    if shard_info is not None:
      dataset = dataset.shard(shard_info.num_shards, shard_info.index)
    if shuffle and num_rows:
      dataset = dataset.shuffle(num_rows, seed=seed)
    return dataset.map(
      lambda row: {name: column[row] for name, column in columns.items()}
    )


class _Loader(seqio.utils.LazyTfdsLoader):
  """seqio's loader, without a copy in memory and with ids.

  TFDS keeps a copy of data sets under 250 MB, and every saved position of an
  iterator would hold it. An id, in 'tfds_id', names file and place.
  """

  @property
  def read_config(self) -> tfds.ReadConfig:
    return tfds.ReadConfig(try_autocache=False, add_tfds_id=True)


class TfdsSource(seqio.TfdsDataSource):
  """A seqio source of a data set that TFDS has prepared.

  TFDS itself would begin to download what is missing; this says what to do.
  """

  def __init__(
    self,
    tfds_name: str,
    task_name: str,
    splits: Mapping[str, str],
  ):
    """Makes the source; that the data is there is seen when it is first read.

    Args:
      tfds_name: builder, configuration and version.
      task_name: of the task that reads it, for the error's remedy.
      splits: from our names of the splits to TFDS's.
    """
    super().__init__(tfds_name, splits=dict(splits))
    self._tfds_dataset = _Loader(
      tfds_name,
      data_dir=str(on_disk.data_dir()),
      split_map=dict(splits),
      read_only=True,
    )
    self._task_name = task_name

  @property
  def tfds_dataset(self) -> seqio.utils.LazyTfdsLoader:
    """The loader, through which everything is read.

    Raises:
      MissingDataError: the data set is not on disk.
    """
    loader = super().tfds_dataset
    on_disk.require(loader.name, self._task_name, loader.data_dir)
    return loader
