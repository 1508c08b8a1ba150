"""The paper's data sets as they were published, for `gqa-flax data`.

Loads no TensorFlow, so that what is missing can be said at once.
"""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class DataSet:
  """A data set of TFDS.

  Attributes:
    tfds_name: builder, configuration and version, as seqio wants them.
    examples: from TFDS's name of a split to its published size.
    download_bytes: what `download_and_prepare` fetches, by TFDS's own lists of
      checksums; None where it fetches nothing or the crawl has no fixed size.
    manual_files: what must be fetched by hand,
    by_hand: and how.
    beam: whether the builder needs Apache Beam.
    packages: what else it imports while it runs.
  """

  tfds_name: str
  examples: Mapping[str, int]
  download_bytes: int | None = None
  manual_files: tuple[str, ...] = ()
  by_hand: str = ''
  beam: bool = False
  packages: tuple[str, ...] = ()


def _splits(train: int, validation: int, test: int) -> dict[str, int]:
  return {'train': train, 'validation': validation, 'test': test}


_MEDIA_SUM_BY_HAND = """\
1. Open https://github.com/zcgzcgzcg1/MediaSum/tree/main/data and read the
   terms: the transcripts are for research only.
2. Download and unpack train_val_test_split.json and news_dialogue.json (some
   4 GB).
3. Put both files, under these names, into {manual_dir}.\
"""

# By the name of the task that reads it. Sizes as in TFDS's catalogue.
DATA_SETS: Mapping[str, DataSet] = {
  'cnn_dailymail': DataSet(
    'cnn_dailymail:3.4.0', _splits(287_113, 13_368, 11_490), 585_439_472
  ),
  # Either configuration downloads the archives of both.
  'arxiv': DataSet(
    'scientific_papers/arxiv:1.1.1',
    _splits(203_037, 6_436, 6_440),
    4_504_646_347,
  ),
  'pubmed': DataSet(
    'scientific_papers/pubmed:1.1.1',
    _splits(119_924, 6_633, 6_658),
    4_504_646_347,
  ),
  'media_sum': DataSet(
    'media_sum:1.0.0',
    {'train': 443_596, 'val': 10_000, 'test': 10_000},
    manual_files=('news_dialogue.json', 'train_val_test_split.json'),
    by_hand=_MEDIA_SUM_BY_HAND,
    beam=True,
  ),
  'multi_news': DataSet(
    'multi_news:2.1.0', _splits(44_972, 5_622, 5_622), 756_785_627
  ),
  'wmt14_en_de': DataSet(
    'wmt14_translate/de-en:1.0.0',
    _splits(4_508_785, 3_000, 3_003),
    1_695_017_123,
  ),
  'trivia_qa': DataSet(
    'trivia_qa/rc:1.1.0', _splits(138_384, 18_669, 17_210), 2_665_779_500
  ),
  'c4_span_corruption': DataSet(
    'c4/en:3.1.0',
    {'train': 364_868_892, 'validation': 364_608},
    beam=True,
    packages=('langdetect', 'nltk'),
  ),
}


def published(tfds_name: str) -> DataSet | None:
  """Returns what was published under this name; None for other data sets."""
  data_set = of_any_version(tfds_name)
  return data_set if data_set and data_set.tfds_name == tfds_name else None


def of_any_version(tfds_name: str) -> DataSet | None:
  """Returns the data set of this name, whatever the version."""

  def unversioned(name):
    return name.partition(':')[0]

  by_name = {unversioned(x.tfds_name): x for x in DATA_SETS.values()}
  return by_name.get(unversioned(tfds_name))
