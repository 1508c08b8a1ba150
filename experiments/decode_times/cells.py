"""The models and meshes whose decoding is compiled, and what comes of it."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from gqa_flax.config import T5Config
from gqa_flax.timing.chips import Slice
from gqa_flax.timing.decoding import layouts, meshes
from gqa_flax.timing.estimate import Estimate
from gqa_flax.timing.kv_cache import attention_name

# The paper's: eight TPU v4, 2048/512 tokens (section 3.1).
SLICE = 'v4:2x2x2'
LENGTHS = {'inputs': 2048, 'targets': 512}


@dataclasses.dataclass(frozen=True)
class Cell:
  """One model on one mesh.

  Attributes:
    size: of `T5Config.t5_1_1`.
    num_kv_heads: K.
    mesh: chips along data, fsdp and model.
    cache_sharding: what `model` divides of the cache.
    batch_per_chip: 0 is the largest that fits, up to 32.
    slice: of chips.
    source_length: S.
    target_length: T.
  """

  size: str
  num_kv_heads: int
  mesh: tuple[int, int, int]
  cache_sharding: str
  batch_per_chip: int = 0
  slice: str = SLICE
  source_length: int = LENGTHS['inputs']
  target_length: int = LENGTHS['targets']

  @property
  def config(self) -> T5Config:
    """The architecture, for inference."""
    return T5Config.t5_1_1(
      self.size,
      num_kv_heads=self.num_kv_heads,
      cache_sharding=self.cache_sharding,
      dtype='bfloat16',
      dropout_rate=0.0,
    )

  @property
  def model(self) -> str:
    """Such as 'GQA-8-XXL', as the paper writes it."""
    size = self.size.upper() if 'x' in self.size else self.size.capitalize()
    return f'{attention_name(self.config)}-{size}'

  @property
  def name(self) -> str:
    """Tells it from all other cells."""
    batch = 'largest batch'
    if self.batch_per_chip:
      batch = f'{self.batch_per_chip} a chip'
    return (
      f'decoding of {self.model}, {self.source_length}/{self.target_length} '
      f'tokens, {batch}, on {self.slice}, mesh '
      f'{" x ".join(map(str, self.mesh))}, cache by {self.cache_sharding}'
    )


@dataclasses.dataclass(frozen=True)
class Found:
  """What the records say of a cell.

  Attributes:
    cell: what was compiled.
    estimate: None if no batch fits.
    provenance: of the last record.
  """

  cell: Cell
  estimate: Estimate | None
  provenance: Mapping[str, Any]

  @property
  def seconds(self) -> float:
    """A sample on a chip, exchanges included; infinite if none fits."""
    if self.estimate is None:
      return float('inf')
    return self.estimate.a_sample(self.estimate.seconds())


def on_every_mesh(
  size: str, num_kv_heads: int, **fields: Any
) -> Iterator[Cell]:
  """Yields a model on each mesh, its cache divided in each way."""
  first = Cell(size, num_kv_heads, (1, 1, 1), 'auto', **fields)
  for mesh in meshes(first.config, Slice.parse(first.slice).num_chips):
    for layout in layouts(first.config, mesh):
      yield dataclasses.replace(first, mesh=mesh, cache_sharding=layout)


def fastest(
  found: Iterable[Found], size: str, num_kv_heads: int
) -> Found | None:
  """Returns the fastest cell of a model with the largest batch, if any."""
  own = [
    f
    for f in found
    if (f.cell.size, f.cell.num_kv_heads) == (size, num_kv_heads)
    and f.estimate
    and not f.cell.batch_per_chip
  ]
  return min(own, key=lambda f: f.seconds, default=None)
