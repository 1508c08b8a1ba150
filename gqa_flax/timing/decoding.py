"""Decoding as it is timed and compiled: encode, fill the cache, take steps.

Three phases: the encoder, in parts of the batch, for its attention weights are
large; the cross-attention's cache, projected once; and the decode steps, greedy
and all of the same number, so that every model does the same work.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gqa_flax import partitioning
from gqa_flax.checkpoints.architecture import abstract_params
from gqa_flax.config import T5Config, divisors
from gqa_flax.inference import decode, precision
from gqa_flax.inference.sampling import Greedy
from gqa_flax.model.network import Transformer

LAYOUTS = ('heads', 'batch')
# Sequences a device that are tried; the paper went up to 32.
BATCHES = (32, 24, 16, 12, 8, 6, 4, 3, 2, 1)
# Of a device, for one layer's attention weights in the encoder.
_WEIGHTS_BYTES = 2**31


@dataclasses.dataclass(frozen=True)
class Decoding:
  """What fixes the programs, the mesh apart.

  Attributes:
    config: the architecture, the activations' dtype and the cache's sharding.
    batch_size: sequences of all devices together.
    source_length: encoder positions a sequence, S.
    target_length: tokens that are decoded, T.
    encoded_rows: sequences that the encoder takes at once, a divisor of
      batch_size.
    param_dtype: of the parameters, see `inference.precision.prepare`.

  Raises:
    ValueError: if a size is below 1, the parts are not equal, or the dtype is
      unknown.
  """

  config: T5Config
  batch_size: int
  source_length: int
  target_length: int
  encoded_rows: int
  param_dtype: str = 'bfloat16'

  def __post_init__(self):
    precision.check_param_dtype(self.param_dtype)
    for name in ('batch_size', 'source_length', 'target_length'):
      if getattr(self, name) < 1:
        raise ValueError(
          f'The {name} of what is decoded is {getattr(self, name)}; give 1 or '
          'more.'
        )
    if self.batch_size % self.encoded_rows:
      raise ValueError(
        f'A batch of {self.batch_size} cannot be encoded in parts of '
        f'{self.encoded_rows}; give a divisor.'
      )

  @property
  def parts(self) -> int:
    """How often the encoder runs."""
    return self.batch_size // self.encoded_rows

  def to_dict(self) -> dict[str, Any]:
    """Returns the fields as JSON can hold them."""
    return {**dataclasses.asdict(self), 'config': self.config.to_dict()}

  @classmethod
  def from_dict(cls, fields: Mapping[str, Any]) -> 'Decoding':
    """Reads what `to_dict` wrote."""
    return cls(**{**fields, 'config': T5Config.from_dict(fields['config'])})


def read_lengths(sequence_length: Mapping[str, int]) -> tuple[int, int]:
  """Returns S and T of {'inputs': S, 'targets': T}.

  Raises:
    ValueError: if it is something else, or they are no integers of 1 or more.
  """
  given = sequence_length if isinstance(sequence_length, Mapping) else {}
  S, T = given.get('inputs'), given.get('targets')
  if not (_is_count(S) and _is_count(T)):
    raise ValueError(
      f'TASK_FEATURE_LENGTHS is {sequence_length!r}; give '
      "{'inputs': S, 'targets': T} with integers of 1 or more."
    )
  return S, T


def sizes_to_try(batch_size: int | None, num_devices: int) -> list[int]:
  """Returns batch sizes of all devices together, the largest first.

  Args:
    batch_size: the only one; None is BATCHES for each device.
    num_devices: that share a batch.

  Raises:
    ValueError: if it is neither None nor an integer of 1 or more.
  """
  if batch_size is None:
    return [num_devices * n for n in BATCHES]
  check_count('BATCH_SIZE', batch_size)
  return [batch_size]


def check_count(name: str, value: int):
  """Raises ValueError if a value is no integer of 1 or more."""
  if not _is_count(value):
    raise ValueError(f'{name} is {value!r}; give an integer of 1 or more.')


def _is_count(value) -> bool:
  return isinstance(value, int | np.integer) and int(value) >= 1


def rows_at_once(
  config: T5Config, batch_size: int, source_length: int, data: int, model: int
) -> int:
  """Returns how many sequences the encoder should take at once.

  Args:
    config: the architecture.
    batch_size: sequences in all.
    source_length: positions of each.
    data: parts that divide the batch.
    model: parts that divide the heads.

  Returns:
    A divisor of batch_size, a multiple of data where that divides it: the
    largest whose attention weights of one layer, in float32, take no more than
    2 GiB of a device.
  """
  heads = -(-config.num_heads // model)
  row = 4 * heads * source_length**2
  own = max(1, _WEIGHTS_BYTES // row)
  if batch_size % data:
    data = 1
  share = batch_size // data
  return data * max(d for d in divisors(share) if d <= own)


def describe(mesh: tuple[int, int, int], cache_sharding: str) -> str:
  """Returns a mesh, and what it divides of the cache, for people."""
  sizes = ' x '.join(map(str, mesh))
  return f'{sizes} (data x fsdp x model), cache divided by {cache_sharding}'


def meshes(
  config: T5Config,
  num_devices: int,
  shape: partitioning.MeshShape | None = None,
) -> list[tuple[int, int, int]]:
  """Returns the meshes worth trying, those that divide the model most first.

  Parameters are not divided over `fsdp`, unless asked for: they would be
  gathered in each step.

  Args:
    config: the architecture.
    num_devices: of the mesh.
    shape: sizes that are fixed; None is none.

  Raises:
    ValueError: if no mesh has the sizes.
  """
  shape = shape or partitioning.MeshShape()
  fsdp = 1 if shape.fsdp == 'auto' else int(shape.fsdp)
  found = [
    (num_devices // (fsdp * model), fsdp, model)
    for model in sorted(divisors(num_devices), reverse=True)
    if num_devices % (fsdp * model) == 0
    and shape.model in ('auto', model)
    and shape.data in ('auto', num_devices // (fsdp * model))
    and (shape.model == model or config.num_heads % model == 0)
  ]
  if not found:
    raise ValueError(
      f'No mesh of data={shape.data}, fsdp={shape.fsdp}, model={shape.model} '
      f'has {num_devices} devices; set MESH_DATA, MESH_FSDP and MESH_MODEL so '
      "that their product is, or to 'auto'."
    )
  return found


def layouts(config: T5Config, mesh: tuple[int, int, int]) -> tuple[str, ...]:
  """Returns how the cache can be divided over `model`, if that is more than 1.

  Where the heads do not divide, 'heads' is a copy of all on every part. A
  cache_sharding of the config that is not 'auto' is the only one.
  """
  if config.cache_sharding != 'auto':
    return (config.cache_sharding,)
  return LAYOUTS if mesh[2] > 1 else LAYOUTS[:1]


def functions(decoding: Decoding) -> dict[str, Callable]:
  """Returns the three programs, to be compiled; all take parameters first.

  'encode' (params, tokens) -> [rows, S, D]
  'fill_cache' (params, encoded, tokens) -> DecoderCache
  'decode' (params, encoded, tokens) -> int32 [batch, T]: the cache is filled,
  and all steps are taken.
  """
  model = Transformer(decoding.config)

  def encode(params, tokens):
    params = precision.weights(params)
    return model.apply({'params': params}, tokens, method='encode')

  def fill_cache(params, encoded, tokens):
    return model.apply(
      {'params': precision.weights(params)},
      encoded,
      tokens,
      decoding.target_length,
      method='fill_cache',
    )

  def decode_all(params, encoded, tokens):
    cache = fill_cache(params, encoded, tokens)
    rng = jax.random.key(0)
    return decode.generate(
      model, params, cache, Greedy(), rng, stop_at_eos=False
    )

  return {'encode': encode, 'fill_cache': fill_cache, 'decode': decode_all}


def arguments(decoding: Decoding, mesh) -> dict[str, tuple]:
  """Returns each program's arguments as ShapeDtypeStructs with shardings."""
  config = decoding.config
  params = prepared_params(config, decoding.param_dtype, mesh)
  S, D = decoding.source_length, config.emb_dim

  def placed(shape, dtype):
    sharding = partitioning.batch_sharding(mesh, shape[0])
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

  B = decoding.batch_size
  encoded = placed((B, S, D), jnp.dtype(config.dtype))
  tokens = placed((B, S), jnp.int32)
  part = placed((decoding.encoded_rows, S), jnp.int32)
  return {
    'encode': (params, part),
    'fill_cache': (params, encoded, tokens),
    'decode': (params, encoded, tokens),
  }


def prepared_params(config: T5Config, dtype: str, mesh):
  """Returns the parameters' shapes and shardings; nothing is allocated."""
  prepare = functools.partial(precision.prepare, dtype=dtype)
  shapes = jax.eval_shape(prepare, abstract_params(config))
  return jax.tree.map(
    lambda x, sharding: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=sharding
    ),
    shapes,
    partitioning.param_shardings(shapes, config, mesh),
  )


def lower(decoding: Decoding, mesh, name: str):
  """Lowers one of the programs of `functions`.

  Args:
    decoding: what is decoded.
    mesh: a Mesh; its devices may be a topology's.
    name: of the program.

  Returns:
    What `jax.jit(...).lower(...)` gives, ready to `compile`.
  """
  # While it decodes a chip holds all parameters; what the encoder needs does
  # not depend on the decoder, and is compiled once for all numbers of heads.
  function = jax.jit(functions(decoding)[name], keep_unused=name != 'encode')
  given = arguments(decoding, mesh)[name]
  with jax.set_mesh(mesh):
    return function.lower(*given)
