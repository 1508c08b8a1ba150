"""The architecture of one T5.1.1 model, and the sizes that have a name."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

# T5's special tokens: padding, which also starts the decoder, and the end of a
# sequence.
PAD_ID, EOS_ID = 0, 1

_ACTIVATION_DTYPES = ('float32', 'bfloat16')
_REMAT_POLICIES = ('none', 'full', 'dots')
_CACHE_SHARDINGS = ('auto', 'heads', 'batch')
_CACHE_DTYPES = ('auto', 'int8')
_ACTIVATIONS = ('gelu', 'linear', 'relu', 'silu', 'tanh')


@dataclasses.dataclass(frozen=True)
class T5Config:
  """A T5.1.1 encoder-decoder; fields are named as T5X names them.

  Attributes:
    vocab_size: rows of the embedding, a multiple of 128 on accelerators.
    dtype: of the activations, 'float32' or 'bfloat16' (a NumPy or JAX dtype is
      accepted and stored by name); parameters are always float32.
    emb_dim: width of the residual stream, D.
    num_heads: query heads N, in encoder and decoder.
    num_kv_heads: key/value heads K of the decoder's self-attention and
      cross-attention (the paper's G in GQA-G). None means num_heads, which is
      multi-head attention; 1 is multi-query attention. The encoder always has
      num_heads of them.
    num_encoder_layers: layers of the encoder.
    num_decoder_layers: layers of the decoder.
    head_dim: width of one head, H.
    mlp_dim: width of the MLP, F.
    mlp_activations: one per branch of the gated MLP.
    dropout_rate: on attention weights, MLP activations, embeddings and the
      residual branches.
    logits_via_embedding: whether the output head is the embedding (T5.1.0).
    remat_policy: what a layer keeps for the backward pass: 'none' keeps all
      activations, 'dots' the matrix products, 'full' the layer's input alone.
    cache_sharding: what of the decoding cache the devices along `model`
      divide: its 'heads' or its 'batch'; see `partitioning.cache_layout`.
    cache_dtype: of the decoding cache: 'auto' is the activations', 'int8' keeps
      a scale for each position and head as well.

  Raises:
    ValueError: if a size is not positive, num_kv_heads does not divide
      num_heads, or what has a name has an unknown one.
  """

  vocab_size: int
  dtype: str = 'float32'
  emb_dim: int = 512
  num_heads: int = 8
  num_encoder_layers: int = 6
  num_decoder_layers: int = 6
  head_dim: int = 64
  mlp_dim: int = 2048
  mlp_activations: tuple[str, ...] = ('gelu', 'linear')
  dropout_rate: float = 0.1
  logits_via_embedding: bool = False
  num_kv_heads: int | None = None
  remat_policy: str = 'none'
  cache_sharding: str = 'auto'
  cache_dtype: str = 'auto'

  def __post_init__(self):
    object.__setattr__(self, 'dtype', _dtype_name(self.dtype))
    if not isinstance(self.mlp_activations, list | tuple):
      raise ValueError(
        f'T5Config.mlp_activations is {self.mlp_activations!r}; give a list of '
        f'{list(_ACTIVATIONS)}.'
      )
    object.__setattr__(self, 'mlp_activations', tuple(self.mlp_activations))
    if self.num_kv_heads is None:
      object.__setattr__(self, 'num_kv_heads', self.num_heads)
    for name in _POSITIVE_FIELDS:
      value = getattr(self, name)
      # In Python, True is an integer, too.
      is_integer = isinstance(value, int | np.integer) and value is not True
      if not is_integer or value < 1:
        raise ValueError(
          f'T5Config.{name} is {value!r}; set it to an integer of 1 or more.'
        )
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
        f'T5Config.num_kv_heads is {self.num_kv_heads}, which does not divide '
        f'num_heads = {self.num_heads}; choose one of '
        f'{divisors(self.num_heads)}.'
      )
    rate = self.dropout_rate
    is_number = isinstance(rate, int | float | np.number)
    if not is_number or not 0 <= rate < 1:
      raise ValueError(
        f'T5Config.dropout_rate is {rate!r}; set it to a number of at least 0 '
        'and below 1.'
      )
    if not isinstance(self.logits_via_embedding, bool):
      raise ValueError(
        f'T5Config.logits_via_embedding is {self.logits_via_embedding!r}; set '
        'it to True or False.'
      )
    for field, verb, value, known in (
      ('dtype', 'is', self.dtype, _ACTIVATION_DTYPES),
      ('remat_policy', 'is', self.remat_policy, _REMAT_POLICIES),
      ('cache_sharding', 'is', self.cache_sharding, _CACHE_SHARDINGS),
      ('cache_dtype', 'is', self.cache_dtype, _CACHE_DTYPES),
      *(
        ('mlp_activations', 'holds', activation, _ACTIVATIONS)
        for activation in self.mlp_activations
      ),
    ):
      if value not in known:
        raise ValueError(
          f'T5Config.{field} {verb} {value!r}; choose of {list(known)}.'
        )

  @classmethod
  def t5_1_1(cls, size: str, **overrides: Any) -> 'T5Config':
    """Returns a named T5.1.1 size, with any field overridden.

    Args:
      size: 'mini', 'small', 'base', 'large', 'xl' or 'xxl'. All but mini are
        those of the public checkpoints (32,128 = 32,100 ids padded).
      **overrides: fields of T5Config.

    Raises:
      ValueError: if the size has no entry in `SIZES`.
    """
    if size not in SIZES:
      near = difflib.get_close_matches(str(size), SIZES, n=1)
      hint = f' Did you mean {near[0]!r}?' if near else ''
      raise ValueError(
        f'T5.1.1 has no size {size!r}; choose one of {list(SIZES)}.{hint}'
      )
    return cls(**{**SIZES[size], **overrides})

  def to_dict(self) -> dict[str, Any]:
    """Returns the fields as JSON can hold them."""
    return {
      **dataclasses.asdict(self),
      'mlp_activations': [*self.mlp_activations],
    }

  @classmethod
  def from_dict(cls, fields: Mapping[str, Any]) -> 'T5Config':
    """Reads what `to_dict` wrote.

    Raises:
      ValueError: if a field is unknown, missing, or has a wrong value.
    """
    known = {field.name for field in dataclasses.fields(cls)}
    if unknown := sorted(fields.keys() - known):
      raise ValueError(
        f'T5Config has no field {unknown[0]!r}; read this with the version of '
        'gqa_flax that wrote it.'
      )
    if 'vocab_size' not in fields:
      raise ValueError('T5Config.vocab_size is missing; give a whole config.')
    return cls(**fields)

  def architecture(self) -> dict[str, Any]:
    """Returns the fields that fix the shapes and the function computed."""
    fields = self.to_dict()
    for name in (
      *('dtype', 'dropout_rate', 'remat_policy'),
      *('cache_sharding', 'cache_dtype'),
    ):
      del fields[name]
    return fields


_POSITIVE_FIELDS = (
  'vocab_size',
  'emb_dim',
  'num_heads',
  'num_kv_heads',
  'num_encoder_layers',
  'num_decoder_layers',
  'head_dim',
  'mlp_dim',
)


def _size(emb_dim, num_heads, head_dim, mlp_dim, num_layers, vocab_size=32128):
  return {
    'vocab_size': vocab_size,
    'emb_dim': emb_dim,
    'num_heads': num_heads,
    'head_dim': head_dim,
    'mlp_dim': mlp_dim,
    'num_encoder_layers': num_layers,
    'num_decoder_layers': num_layers,
  }


# Raffel et al. 2020 and the T5X repository; mini is ours, for a laptop's CPU.
SIZES: Mapping[str, Mapping[str, int]] = {
  'mini': _size(128, 8, 16, 256, 2),
  'small': _size(512, 6, 64, 1024, 8),
  'base': _size(768, 12, 64, 2048, 12),
  'large': _size(1024, 16, 64, 2816, 24),
  'xl': _size(2048, 32, 64, 5120, 24),
  'xxl': _size(4096, 64, 64, 10240, 24),
}


def divisors(n: int) -> list[int]:
  """Returns the divisors of n, ascending."""
  return [d for d in range(1, n + 1) if n % d == 0]


def check_integer(name: str, value: Any, least: int):
  """Raises ValueError unless a setting is an integer of at least `least`."""
  is_integer = isinstance(value, int | np.integer)
  if not is_integer or isinstance(value, bool) or value < least:
    raise ValueError(
      f'{name} is {value!r}; give an integer of at least {least}.'
    )


def _dtype_name(dtype: Any) -> str:
  if isinstance(dtype, str):
    return dtype
  if dtype is ml_dtypes.bfloat16:
    return 'bfloat16'
  try:
    return np.dtype(getattr(dtype, 'dtype', dtype)).name
  except TypeError:
    return repr(dtype)
