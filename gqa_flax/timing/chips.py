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
    axes: of its slices: a torus of three dimensions, or of two.
    cores: that a slice's name counts for each chip, as in v4-16 of 8 chips.
  """

  peak_flops: float
  hbm_bytes: int
  hbm_bandwidth: float
  ici_bandwidth: float
  clock: float
  cores_setting: str
  accelerator_type: str
  axes: int
  cores: int


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
    axes=3,
    cores=2,
  ),
  'v5e': Chip(
    peak_flops=197e12,
    hbm_bytes=16 * _GIB,
    hbm_bandwidth=0.82e12,
    ici_bandwidth=200e9,
    clock=1.5e9,
    cores_setting='default',
    accelerator_type='v5litepod-16',
    axes=2,
    cores=1,
  ),
  'v5p': Chip(
    peak_flops=459e12,
    hbm_bytes=95 * _GIB,
    hbm_bandwidth=2.77e12,
    ici_bandwidth=600e9,
    clock=1.75e9,
    cores_setting='default',
    accelerator_type='v5p-16',
    axes=3,
    cores=2,
  ),
  'v6e': Chip(
    peak_flops=918e12,
    hbm_bytes=32 * _GIB,
    hbm_bandwidth=1.64e12,
    ici_bandwidth=400e9,
    clock=1.75e9,
    cores_setting='default',
    accelerator_type='v6e-16',
    axes=2,
    cores=1,
  ),
}


# Chips to the shape that a slice named by them has.
_SHAPES: Mapping[int, Mapping[int, tuple[int, ...]]] = {
  axes: {math.prod(shape): shape for shape in shapes}
  for axes, shapes in {
    3: (
      *((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4), (4, 4, 4), (4, 4, 8)),
      *((4, 8, 8), (8, 8, 8), (8, 8, 16), (8, 16, 16)),
    ),
    2: (*((2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16)),),
  }.items()
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
    """Reads a name such as 'v4:2x2x2' or 'v5e:16x16', or 'v4-16', 'v5e-256'.

    The second form counts cores, of which v4 and v5p have two a chip.

    Raises:
      ValueError: if the name is of another form, the generation unknown, or no
        slice has so many chips.
    """
    match = re.fullmatch(r'(\w+):([1-9]\d*(?:x[1-9]\d*){1,2})', name)
    if match and match[1] in CHIPS:
      shape = tuple(int(n) for n in match[2].split('x'))
      axes = CHIPS[match[1]].axes
      if len(shape) == axes and math.prod(shape) <= max(_SHAPES[axes]):
        return cls(match[1], shape)
    match = re.fullmatch(r'(\w+)-(\d+)', name)
    if match and match[1] in CHIPS:
      chip = CHIPS[match[1]]
      num_chips, rest = divmod(int(match[2]), chip.cores)
      if rest == 0 and num_chips in _SHAPES[chip.axes]:
        return cls(match[1], _SHAPES[chip.axes][num_chips])
    raise ValueError(
      f'There is no TPU slice {name!r}; give a generation of {list(CHIPS)} and '
      "the chips along its axes, as in 'v5e:4x4' or 'v4:2x2x2', or a name such "
      "as 'v4-16', 'v5e-8' or 'v6e-256'."
    )

  @property
  def name(self) -> str:
    """As `parse` reads it."""
    return f'{self.generation}:{"x".join(map(str, self.shape))}'

  @property
  def host_bounds(self) -> tuple[int, int, int]:
    """Chips of one host along the axes."""
    return (2, 4, 1) if self.shape == (2, 4) else (2, 2, 1)

  @property
  def chip(self) -> Chip:
    """The figures of one chip."""
    return CHIPS[self.generation]

  @property
  def num_chips(self) -> int:
    """Chips of the slice."""
    return math.prod(self.shape)
