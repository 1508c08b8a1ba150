"""Published figures of TPU generations, and slices by name; no JAX."""

import dataclasses
import math
import re
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Chip:
  """One chip as its maker describes it (cloud.google.com/tpu/docs).

  Attributes:
    peak_flops: bfloat16 matrix FLOP/s.
    hbm_bytes: memory of a chip.
    hbm_bandwidth: bytes/s between memory and cores.
    ici_bandwidth: bytes/s that all its links to other chips send together, in
      one direction.
    clock: cycles/s, which follows from the peak and the FLOPs of a cycle: v4
      and v5p have 8 matrix units of 128 x 128, v5e 4, v6e as much as 16.
    cores_setting: the compiler's name for how the cores of a chip are joined.
    accelerator_type: a name that the compiler accepts for the machine it runs
      on; any slice of the generation will do.
    host_bounds: chips of one host along the axes of a slice.
  """

  peak_flops: float
  hbm_bytes: int
  hbm_bandwidth: float
  ici_bandwidth: float
  clock: float
  cores_setting: str
  accelerator_type: str
  host_bounds: tuple[int, int, int]


_GIB = 2**30

CHIPS: Mapping[str, Chip] = {
  'v4': Chip(
    peak_flops=275e12,
    hbm_bytes=32 * _GIB,
    hbm_bandwidth=1.2e12,
    ici_bandwidth=300e9,
    clock=1.05e9,
    cores_setting='megacore',
    accelerator_type='v4-16',
    host_bounds=(2, 2, 1),
  ),
  'v5e': Chip(
    peak_flops=197e12,
    hbm_bytes=16 * _GIB,
    hbm_bandwidth=0.82e12,
    ici_bandwidth=200e9,
    clock=1.5e9,
    cores_setting='default',
    accelerator_type='v5litepod-16',
    host_bounds=(2, 2, 1),
  ),
  'v5p': Chip(
    peak_flops=459e12,
    hbm_bytes=95 * _GIB,
    hbm_bandwidth=2.77e12,
    ici_bandwidth=600e9,
    clock=1.75e9,
    cores_setting='default',
    accelerator_type='v5p-16',
    host_bounds=(2, 2, 1),
  ),
  'v6e': Chip(
    peak_flops=918e12,
    hbm_bytes=32 * _GIB,
    hbm_bandwidth=1.64e12,
    ici_bandwidth=400e9,
    clock=1.75e9,
    cores_setting='default',
    accelerator_type='v6e-16',
    host_bounds=(2, 2, 1),
  ),
}


@dataclasses.dataclass(frozen=True)
class Slice:
  """A TPU slice, such as v4:4x4x4.

  Attributes:
    generation: a key of CHIPS.
    shape: chips along the axes of the slice.
  """

  generation: str
  shape: tuple[int, ...]

  @classmethod
  def parse(cls, name: str) -> 'Slice':
    """Reads a name such as 'v4:2x2x2' or 'v5e:16x16'.

    Raises:
      ValueError: if the name is of another form or the generation unknown.
    """
    match = re.fullmatch(r'(\w+):(\d+(?:x\d+){1,2})', name)
    if not match or match[1] not in CHIPS:
      raise ValueError(
        f'The TPU slice {name!r} is none; give a generation of {list(CHIPS)} '
        "and the chips along its axes, as in 'v4:2x2x2'."
      )
    return cls(match[1], tuple(int(n) for n in match[2].split('x')))

  @property
  def name(self) -> str:
    """As `parse` reads it."""
    return f'{self.generation}:{"x".join(map(str, self.shape))}'

  @property
  def chip(self) -> Chip:
    """The figures of one chip."""
    return CHIPS[self.generation]

  @property
  def num_chips(self) -> int:
    """Chips of the slice."""
    return math.prod(self.shape)
