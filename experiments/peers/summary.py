"""Numbers of the report from the records."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.training_knobs.cells import PAGES
from gqa_flax.timing.spread import Spread

_CELL = (
  *('what', 'size', 'batch_size', 'source_length', 'target_length'),
  *('dropout_rate', 'threads'),
)
# What of a record is compared: the whole of it.
WHOLE = {'decoding': 'decode', 'training': 'step'}
# Share of the processors taken by others, above which times decide nothing.
DISTURBED = 0.1


@dataclasses.dataclass(frozen=True)
class Target:
  """How many times as fast as transformers one of ours is to be.

  Attributes:
    cell: of the records; see `key`.
    name: of ours.
    times: as fast as the fastest of theirs, at least.
  """

  cell: tuple
  name: str
  times: float


_DECODING = ('decoding', 'small', 8, 512, 128, 0.0, 2)
_TRAINING = ('training', 'small', 8, 512, 114, 0.0, 2)
TARGETS = (
  Target(_DECODING, 'gqa_flax MHA', 1.5),
  Target(_DECODING, 'gqa_flax GQA-2', 2.0),
  Target(_DECODING, 'gqa_flax MQA', 2.0),
  Target(_TRAINING, 'gqa_flax MHA', 1.0),
)


@dataclasses.dataclass(frozen=True)
class Ratio:
  """How many times as fast one is as another.

  Attributes:
    of_medians: the other's median over its own.
    paired: the median of the ratios within a round.
    low: the lowest of these.
    high: the highest.
  """

  of_medians: float
  paired: float
  low: float
  high: float

  @classmethod
  def of(cls, others: Sequence[float], own: Sequence[float]) -> 'Ratio':
    """Returns that of seconds in the same rounds."""
    pairs = [other / mine for other, mine in zip(others, own, strict=True)]
    return cls(
      statistics.median(others) / statistics.median(own),
      statistics.median(pairs),
      min(pairs),
      max(pairs),
    )


@dataclasses.dataclass(frozen=True)
class Run:
  """One record."""

  record: Mapping[str, Any]

  @property
  def what(self) -> str:
    """'decoding' or 'training'."""
    return self.record['what']

  @property
  def parts(self) -> list[str]:
    """What was timed, the whole first."""
    return list(self.record['seconds'])

  @property
  def disturbed(self) -> bool:
    """Whether other programs took too much of the processors."""
    return (self.record['others_share'] or 0) > DISTURBED

  @property
  def pages(self) -> str:
    """Which of `PAGES` both libraries had; 'other' is none of them."""
    tunables = self.record['machine'].get('glibc_tunables', '')
    for kind, variables in PAGES.items():
      if variables.get('GLIBC_TUNABLES', '') == tunables:
        return kind
    return 'other'

  def names(self, library: str | None = None, part: str | None = None):
    """Returns who took part, of a library or of both."""
    return [
      name
      for name in self.record['seconds'][part or WHOLE[self.what]]
      if library in (None, self.record['contestants'][name]['library'])
    ]

  def seconds(self, name: str, part: str | None = None) -> Spread:
    """Returns those of one, of a part or of the whole."""
    return Spread.of(self._raw(name, part))

  def fastest_of_theirs(self) -> str:
    """Returns which of transformers' has the smallest median of the whole."""
    theirs = self.names('transformers')
    return min(theirs, key=lambda name: self.seconds(name).median)

  def ratio(self, name: str, other: str | None = None) -> Ratio:
    """Returns how many times as fast as another it is, in the whole.

    Args:
      name: whose ratio.
      other: with whom it is compared; None is the fastest of theirs.
    """
    other = self.fastest_of_theirs() if other is None else other
    return Ratio.of(self._raw(other, None), self._raw(name, None))

  def rest_seconds(self, name: str) -> float:
    """Returns the median of the whole without its measured part.

    That part is the encoder or the gradients; our grouped models have the
    encoder of the multi-head one, for which it was measured.
    """
    whole, part = self.parts
    library = self.record['contestants'][name]['library']
    measured = self.names(library, part)
    of_part = name if name in measured else measured[0]
    return self.seconds(name, whole).median - (
      self.seconds(of_part, part).median
    )

  def _raw(self, name, part):
    return self.record['seconds'][part or WHOLE[self.what]][name]


def key(record: Mapping[str, Any]) -> tuple:
  """Returns what tells apart what records measured."""
  return tuple(record[field] for field in _CELL)


def latest(found: Sequence[Mapping[str, Any]]) -> dict[tuple, Run]:
  """Returns the last run of everything measured; targets' cells come first."""
  runs = {key(record): Run(record) for record in found}
  first = [cell for cell in (_DECODING, _TRAINING) if cell in runs]
  return {cell: runs[cell] for cell in dict.fromkeys([*first, *runs])}
