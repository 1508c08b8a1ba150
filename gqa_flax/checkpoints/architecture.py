"""A T5Config from the names and shapes of parameters, checked against all."""

import functools
import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import traverse_util

from gqa_flax.checkpoints.arrays import listed
from gqa_flax.config import T5Config
from gqa_flax.model.network import Transformer

# What a gated and a plain MLP are taken to compute, where files do not say it.
GATED, PLAIN = ('gelu', 'linear'), ('relu',)


def infer_config(
  shapes: Mapping[str, tuple[int, ...]], where, *, vocab_size=None
) -> T5Config:
  """Reads every size from the shapes, and checks all shapes against them.

  The activations cannot be read from shapes: a gated MLP is taken for T5.1.1's
  gelu * linear, a plain one for T5.1.0's relu.

  Args:
    shapes: by T5X name.
    where: the checkpoint's path, for the errors.
    vocab_size: what a config file beside the arrays says, if one does.

  Raises:
    ValueError: one sentence that lists what is missing, extra, of another
      shape, or contradicts another.
  """

  def shape_of(name, rank):
    shape = shapes.get(name)
    if shape is None:
      raise ValueError(
        f'{where} has no {name}, so its sizes cannot be read; give a whole '
        'T5.1.1 encoder-decoder checkpoint.'
      )
    if len(shape) != rank:
      raise ValueError(
        f'{name} in {where} has shape {shape} where {rank} axes are expected; '
        'give a T5.1.1 checkpoint.'
      )
    return shape

  vocab, emb_dim = shape_of('token_embedder/embedding', 2)
  num_heads = shape_of('encoder/relpos_bias/rel_embedding', 2)[0]
  query = shape_of('encoder/layers_0/attention/query/kernel', 2)[1]
  key = shape_of('decoder/layers_0/self_attention/key/kernel', 2)[1]
  head_dim, rest = divmod(query, num_heads)
  num_kv_heads, kv_rest = divmod(key, max(head_dim, 1))
  if rest or kv_rest or not head_dim:
    raise ValueError(
      f'{where} has {num_heads} rows of relative bias, query kernels of width '
      f'{query} and decoder key kernels of width {key}, which are not all '
      'multiples of one head; give a T5.1.1 checkpoint.'
    )
  gated = 'encoder/layers_0/mlp/wi_0/kernel' in shapes
  wi = f'encoder/layers_0/mlp/{"wi_0" if gated else "wi"}/kernel'
  if vocab_size is not None and vocab_size != vocab:
    raise ValueError(
      f'{where} has an embedding of {vocab} rows, but {where}/config.json says '
      f'vocab_size {vocab_size}; correct the file or give the right arrays.'
    )
  head = shapes.get('decoder/logits_dense/kernel')
  if head is not None and head[-1] != vocab:
    raise ValueError(
      f'{where} has an embedding of {vocab} rows but an output head '
      f'(decoder/logits_dense/kernel) for {head[-1]} ids; both must have the '
      'same vocabulary size.'
    )
  config = T5Config(
    vocab_size=vocab,
    emb_dim=emb_dim,
    num_heads=num_heads,
    num_kv_heads=num_kv_heads,
    head_dim=head_dim,
    mlp_dim=shape_of(wi, 2)[1],
    num_encoder_layers=_count(shapes, 'encoder'),
    num_decoder_layers=_count(shapes, 'decoder'),
    mlp_activations=GATED if gated else PLAIN,
    logits_via_embedding=head is None,
  )
  check_shapes(shapes, config, where)
  return config


def check_shapes(shapes, config: T5Config, where):
  """Raises one ValueError that lists all parameters which do not fit config."""
  expected = parameter_shapes(config)
  problems = [
    *(f'{name} is missing' for name in sorted(expected.keys() - shapes)),
    *(
      f'{name} is not a parameter of this architecture'
      for name in sorted(shapes.keys() - expected)
    ),
    *(
      f'{name} has shape {tuple(shapes[name])} instead of {expected[name]}'
      for name in sorted(shapes.keys() & expected)
      if tuple(shapes[name]) != expected[name]
    ),
  ]
  if problems:
    raise ValueError(
      f'{where} is not a whole T5 checkpoint of {_summary(config)}: '
      f'{listed(problems)}. Give a checkpoint whose arrays agree.'
    )


@functools.cache
def abstract_params(config: T5Config):
  """Returns the tree of shapes and dtypes that `config` fixes."""
  token = jnp.zeros((1, 1), jnp.int32)
  init = jax.eval_shape(
    Transformer(config).init, jax.random.key(0), token, token, token
  )
  return init['params']


def parameter_shapes(config: T5Config) -> dict[str, tuple[int, ...]]:
  """Returns the shape of every parameter, by T5X name."""
  flat = traverse_util.flatten_dict(abstract_params(config), sep='/')
  return {name: tuple(x.shape) for name, x in flat.items()}


def _count(shapes, stack) -> int:
  pattern = re.compile(rf'{stack}/layers_(\d+)/')
  return 1 + max(
    int(m.group(1)) for m in map(pattern.match, shapes) if m is not None
  )


def _summary(config: T5Config) -> str:
  return (
    f'{config.num_encoder_layers}+{config.num_decoder_layers} layers, width '
    f'{config.emb_dim}, {config.num_heads} heads of {config.head_dim}, '
    f'{config.num_kv_heads} key/value heads, MLP {config.mlp_dim}, vocabulary '
    f'{config.vocab_size}'
  )
