"""What one chip needs for one run of a program, and how long that takes."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from gqa_flax.timing.chips import Chip, Slice

# The model axis of a mesh comes last, as its neighbors talk most.
Mesh = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Cost:
  """What one chip needs for one run of a program; bytes, FLOPs and seconds.

  Attributes:
    slice: such as 'v4:4x4x4'.
    mesh: sizes of the axes data, fsdp and model.
    fits: whether the program compiled; if not, only `over_bytes`, which may be
      None, and `compile_seconds` mean anything.
    over_bytes: what was lacking, by the compiler's message.
    argument_bytes: state, batch and key.
    output_bytes: state and metrics.
    alias_bytes: of the outputs, those in the arguments' memory (donated).
    temporary_bytes: everything else but code.
    code_bytes: the program itself.
    flops: of matrix products, loops counted by their trips.
    compiler_flops: by the compiler, which counts a loop's body once.
    compiler_bytes: read and written by all operations, also so.
    cycles: the compiler's estimate, without exchanges; see `hlo`.
    collectives: kind to count, bytes (of whole arrays) and sent_bytes (by a
      chip, in a ring).
    compile_seconds: of wall clock.
    compile_peak_bytes: resident memory of the compiling process.
  """

  slice: str
  mesh: Mesh
  fits: bool
  compile_seconds: float = 0.0
  compile_peak_bytes: int = 0
  over_bytes: int | None = None
  argument_bytes: int = 0
  output_bytes: int = 0
  alias_bytes: int = 0
  temporary_bytes: int = 0
  code_bytes: int = 0
  flops: float = 0.0
  compiler_flops: float = 0.0
  compiler_bytes: float = 0.0
  cycles: float = 0.0
  collectives: Mapping[str, Mapping[str, float]] = dataclasses.field(
    default_factory=dict
  )

  @property
  def chip(self) -> Chip:
    """The chip's published figures."""
    return Slice.parse(self.slice).chip

  @property
  def num_chips(self) -> int:
    """Chips of the slice's mesh."""
    data, fsdp, model = self.mesh
    return data * fsdp * model

  @property
  def total_bytes(self) -> int:
    """Memory that the program takes at once."""
    return (
      self.argument_bytes
      + self.output_bytes
      - self.alias_bytes
      + self.temporary_bytes
      + self.code_bytes
    )

  @property
  def compute_seconds(self) -> float:
    """A bound: the program's matrix FLOPs at the chip's peak."""
    return self.flops / self.chip.peak_flops

  @property
  def memory_seconds(self) -> float:
    """A bound: what memory moves at least, at its bandwidth.

    Arguments are read, outputs written, and what temporaries take is written
    and read once. Most of it is used several times.
    """
    moved = self.argument_bytes + self.output_bytes + 2 * self.temporary_bytes
    return moved / self.chip.hbm_bandwidth

  @property
  def collective_seconds(self) -> float:
    """A bound: the bytes a chip sends, over all its links at once.

    An exchange along one axis of a slice can use a third of the links only (a
    half in two dimensions).
    """
    sent = sum(c['sent_bytes'] for c in self.collectives.values())
    return sent / self.chip.ici_bandwidth

  @property
  def core_seconds(self) -> float:
    """The compiler's estimate for the cores, without exchanges."""
    return self.cycles / self.chip.clock

  def step_seconds(self, overlap: bool = True) -> float:
    """An estimate of the whole, never below a bound.

    Args:
      overlap: whether exchanges run beside computation (the longer of the two
        counts) or after it (their sum).
    """
    core = max(self.core_seconds, self.compute_seconds, self.memory_seconds)
    if overlap:
      return max(core, self.collective_seconds)
    return core + self.collective_seconds

  def model_flops_utilisation(
    self, model_flops: float, overlap: bool = True
  ) -> float:
    """An estimate of MFU: model FLOPs over what the chips could do meanwhile.

    Args:
      model_flops: of one step on all chips, see `timing.flops`.
      overlap: see `step_seconds`.
    """
    possible = self.step_seconds(overlap) * self.num_chips
    return model_flops / (possible * self.chip.peak_flops)

  def to_dict(self) -> dict[str, Any]:
    """Returns the fields as JSON can hold them."""
    return dataclasses.asdict(self)

  @classmethod
  def from_dict(cls, fields: Mapping[str, Any]) -> 'Cost':
    """Reads what `to_dict` wrote."""
    return cls(**{**fields, 'mesh': tuple(fields['mesh'])})
