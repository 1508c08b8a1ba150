"""The time to decode on a TPU slice that is not here, mesh by mesh.

For each way of dividing the model and its caches over the chips, the compiler
is given the programs of `timing.decoding` with the largest batch that fits.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from gqa_flax import partitioning
from gqa_flax.config import T5Config
from gqa_flax.runtime import status
from gqa_flax.timing import kv_cache, roofline, tpu_compile
from gqa_flax.timing.chips import Slice
from gqa_flax.timing.cost import Cost, Mesh
from gqa_flax.timing.decoding import (
  Decoding,
  describe,
  layouts,
  meshes,
  read_lengths,
  rows_at_once,
  sizes_to_try,
)

PHASES = ('encode', 'fill_cache', 'steps')

# (decoding, slice, mesh, program) to the costs of `compile_decoding`.
Compile = Callable[[Decoding, Slice, Mesh, str], Mapping[str, Cost]]


@dataclasses.dataclass(frozen=True)
class Estimate:
  """What decoding one batch needs of each chip, by the TPU's compiler.

  Attributes:
    decoding: what is decoded, and how its cache is divided.
    encode: of one part of the batch.
    decode: of filling the cache and all steps.
    step: of one of them; None if `decode` does not fit.
  """

  decoding: Decoding
  encode: Cost
  decode: Cost
  step: Cost | None

  @property
  def num_chips(self) -> int:
    """Chips that share the batch."""
    return self.decode.num_chips

  @property
  def batch_per_chip(self) -> float:
    """Sequences over chips."""
    return self.decoding.batch_size / self.num_chips

  @property
  def encode_bytes(self) -> int:
    """Memory while the last part is encoded.

    What `decode` is given is there: parameters, tokens, and what was encoded.
    """
    own = self.encode.temporary_bytes + self.encode.code_bytes
    return self.decode.argument_bytes + own

  @property
  def fits(self) -> bool:
    """Whether both programs fit in the memory of a chip."""
    return (
      self.encode.fits
      and self.decode.fits
      and self.encode_bytes <= self.decode.chip.hbm_bytes
    )

  @property
  def total_bytes(self) -> int:
    """Memory that decoding takes at once."""
    return max(self.encode_bytes, self.decode.total_bytes)

  def core_seconds(self) -> dict[str, float]:
    """The compiler's estimate of each phase, without exchanges.

    The compiler does not price what it copies beside its computations, such as
    kernels to the CMEM of a v4: where its steps are faster than the chip's
    memory is for this mesh, the memory's time counts.
    """
    cores = self._by_phase(lambda cost: cost.core_seconds)
    steps = self.decoding.target_length * self.mesh_bound_step_seconds()
    return {**cores, 'steps': max(cores['steps'], steps)}

  @property
  def step_seconds(self) -> float:
    """One step of `core_seconds`."""
    return self.core_seconds()['steps'] / self.decoding.target_length

  def exchange_seconds(self) -> dict[str, float]:
    """The least time that each phase's exchanges take, by the links' speed."""
    return self._by_phase(lambda cost: cost.collective_seconds)

  def seconds(self) -> dict[str, float]:
    """Cores and exchanges of each phase, one after the other."""
    core, exchange = self.core_seconds(), self.exchange_seconds()
    return {phase: core[phase] + exchange[phase] for phase in PHASES}

  def bound_seconds(self) -> dict[str, float]:
    """What no program can be faster than, phase by phase."""
    work = self.decoding
    S, T = work.source_length, work.target_length
    phases = {
      'encode': _bound(roofline.encode, work, S),
      'fill_cache': _bound(roofline.cache_fill, work, S),
      'steps': _bound(roofline.decode_step, work, S, T),
    }
    where = self.decode.chip, self.num_chips
    bounds = {name: phase.seconds(*where) for name, phase in phases.items()}
    return {**bounds, 'steps': T * bounds['steps']}

  def mesh_bound_step_seconds(self) -> float:
    """What no step on this mesh can be faster than that reads whole caches.

    Each chip reads its part of the kernels, which only `model` divides, and its
    part of the caches.
    """
    work, chip = self.decoding, self.decode.chip
    S, T = work.source_length, work.target_length
    step = _bound(roofline.decode_step, work, S, T)
    caches = _cache_bytes(work, S + T + 1)
    own = (step.bytes - caches) / self.decode.mesh[2]
    own += caches / _cache_parts(work.config, self.decode.mesh)
    computing = step.compute_seconds(chip, self.num_chips)
    return max(computing, own / chip.hbm_bandwidth)

  def a_sample(self, seconds: Mapping[str, float]) -> float:
    """Seconds a sample and chip, as the paper counts: its T_infer."""
    return sum(seconds.values()) * self.num_chips / self.decoding.batch_size

  def _by_phase(self, of: Callable[[Cost], float]) -> dict[str, float]:
    steps = self.decoding.target_length * of(self.step)
    return {
      'encode': self.decoding.parts * of(self.encode),
      'fill_cache': max(0.0, of(self.decode) - steps),
      'steps': steps,
    }

  def to_dict(self) -> dict[str, Any]:
    """Returns the fields as JSON can hold them."""
    return {
      'decoding': self.decoding.to_dict(),
      'encode': self.encode.to_dict(),
      'decode': self.decode.to_dict(),
      'step': self.step and self.step.to_dict(),
    }

  @classmethod
  def from_dict(cls, fields: Mapping[str, Any]) -> 'Estimate':
    """Reads what `to_dict` wrote."""
    return cls(
      decoding=Decoding.from_dict(fields['decoding']),
      encode=Cost.from_dict(fields['encode']),
      decode=Cost.from_dict(fields['decode']),
      step=fields['step'] and Cost.from_dict(fields['step']),
    )


_WIDTHS = {'float32': 4, 'bfloat16': 2, 'int8': 1}


def _bound(of: Callable[..., roofline.Work], work: Decoding, *lengths: int):
  return of(
    work.config,
    work.batch_size,
    *lengths,
    param_width=_WIDTHS[work.param_dtype],
    value_width=_value_width(work.config),
  )


def _value_width(config: T5Config) -> int:
  """Returns the bytes of an element of the caches, scales not counted."""
  return _WIDTHS[config.dtype if config.cache_dtype == 'auto' else 'int8']


def could_fit(decoding: Decoding, where: Slice, mesh: Mesh) -> bool:
  """Whether parameters and caches alone fit in the memory of a chip."""
  _, fsdp, model = mesh
  config = decoding.config
  width = _WIDTHS[decoding.param_dtype]
  params = width * kv_cache.num_params(config) / (fsdp * model)
  caches = _cache_bytes(
    decoding, decoding.source_length + decoding.target_length
  )
  own = params + caches / _cache_parts(config, mesh)
  return own <= where.chip.hbm_bytes


def _cache_bytes(decoding: Decoding, positions: int) -> int:
  """Returns the bytes of so many positions of all sequences."""
  config = decoding.config
  return kv_cache.cache_bytes(
    config,
    decoding.batch_size,
    positions,
    value_width=_value_width(config),
  )


def _cache_parts(config: T5Config, mesh: Mesh) -> int:
  """Returns in how many parts a mesh divides the caches."""
  data, fsdp, model = mesh
  heads_divide = config.num_kv_heads % model == 0
  if config.cache_sharding == 'batch' or heads_divide:
    return data * fsdp * model
  return data * fsdp


def largest(
  config: T5Config,
  where: Slice,
  mesh: Mesh,
  lengths: tuple[int, int],
  *,
  batch_sizes: Sequence[int] | None = None,
  param_dtype: str = 'bfloat16',
  compile: Compile | None = None,
) -> Estimate | None:
  """Returns the estimate for the largest batch that fits.

  Args:
    config: the architecture; its cache_sharding is what is tried.
    where: the slice.
    mesh: of its chips.
    lengths: S and T.
    batch_sizes: of all chips, descending; None is BATCHES for each chip.
    param_dtype: of the parameters.
    compile: compiles a program; None is `tpu_compile.compile_decoding`.

  Returns:
    None if no batch fits.

  Raises:
    RuntimeError: if a program does not compile for another reason.
  """
  compile = compile or _compile
  if batch_sizes is None:
    batch_sizes = sizes_to_try(None, where.num_chips)
  S, T = lengths
  for batch_size in batch_sizes:
    rows = rows_at_once(config, batch_size, S, mesh[0] * mesh[1], mesh[2])
    decoding = Decoding(config, batch_size, S, T, rows, param_dtype)
    if not could_fit(decoding, where, mesh):
      continue
    costs = compile(decoding, where, mesh, 'decode')
    if not costs['decode'].fits:
      continue
    encode = compile(decoding, where, mesh, 'encode')['encode']
    estimate = Estimate(decoding, encode, costs['decode'], costs['step'])
    if estimate.fits:
      return estimate
  return None


def search(
  where: Slice,
  *,
  config: T5Config,
  sequence_length: Mapping[str, int],
  mesh: partitioning.MeshShape | None = None,
  batch_size: int | None = None,
  param_dtype: str = 'bfloat16',
  compile: Compile | None = None,
) -> Iterator[tuple[Mesh, str, Estimate | None]]:
  """Yields mesh, layout of the cache, and `largest` for each pair.

  Args:
    where: the slice.
    config: the architecture; a cache_sharding that is not 'auto' is the only
      one tried.
    sequence_length: {'inputs': S, 'targets': T}.
    mesh: sizes that are fixed; what is 'auto' is tried in all ways.
    batch_size: of all chips; None is the largest that fits, up to 32 a chip.
    param_dtype: see `largest`.
    compile: see `largest`.

  Raises:
    ValueError: as `read_lengths` and `sizes_to_try`, or if no mesh has the
      sizes.
    RuntimeError: see `largest`.
  """
  lengths = read_lengths(sequence_length)
  batch_sizes = sizes_to_try(batch_size, where.num_chips)
  ways = [
    (sizes, layout)
    for sizes in meshes(config, where.num_chips, mesh)
    for layout in layouts(config, sizes)
  ]
  telling = _Telling(compile or _compile)
  for number, (sizes, layout) in enumerate(ways, 1):
    telling.what = f'{number} of {len(ways)}: {describe(sizes, layout)}'
    found = largest(
      dataclasses.replace(config, cache_sharding=layout),
      where,
      sizes,
      lengths,
      batch_sizes=batch_sizes,
      param_dtype=param_dtype,
      compile=telling,
    )
    yield sizes, layout, found


class _Telling:
  """Compiles, and says what, and how long the last program took.

  Attributes:
    what: is compiled.
  """

  def __init__(self, compile: Compile):
    self.what = ''
    self._compile = compile
    self._last = ''

  def __call__(self, decoding, where, mesh, program) -> Mapping[str, Cost]:
    name = {'decode': 'decoder', 'encode': 'encoder'}[program]
    size = decoding.batch_size
    status.tell(f'compiling {self.what}, batch {size:,}, {name}{self._last}')
    begin = time.monotonic()
    costs = self._compile(decoding, where, mesh, program)
    self._last = f' (the last took {time.monotonic() - begin:.0f} s)'
    return costs


def best(found: Sequence[Estimate]) -> Estimate:
  """Returns the estimate of the least time a sample."""
  return min(found, key=lambda e: e.a_sample(e.seconds()))


def _compile(decoding, where, mesh, program) -> Mapping[str, Cost]:
  return tpu_compile.compile_decoding(decoding, where, mesh, [program])
