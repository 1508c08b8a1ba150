"""A whole parameter tree, from multi-head to grouped-query attention."""

import dataclasses
import difflib
import json

import jax
import numpy as np
from etils import epath
from flax import traverse_util

from gqa_flax.checkpoints import native
from gqa_flax.config import T5Config, divisors
from gqa_flax.conversion import pooling

_ATTENTIONS = ('self_attention', 'encoder_decoder_attention')


def is_pooled(name: str) -> bool:
  """Says whether conversion pools the parameter of this T5X name.

  These are the key and value kernels of the decoder, and no others: the
  encoder, the queries, the output projections and the relative biases stay.
  """
  parts = name.split('/')
  return (
    parts[0] == 'decoder'
    and parts[-1] == 'kernel'
    and parts[-2] in ('key', 'value')
    and parts[-3] in _ATTENTIONS
  )


def convert_params(params, config: T5Config, num_kv_heads, method, seed=0):
  """Pools the decoder's key and value heads, group by contiguous group.

  Args:
    params: a tree of parameters named as T5X names them, NumPy or JAX arrays;
      it is not changed.
    config: the architecture of `params`.
    num_kv_heads: key/value heads of the result, a divisor of
      config.num_kv_heads; equal to it, nothing changes.
    method: 'mean', 'first' or 'random' (Ainslie et al. 2023, section 2.1).
    seed: of the draws of 'random'.

  Returns:
    params: the converted tree; arrays that are not pooled are the same objects.
    config: with the new num_kv_heads.

  Raises:
    ValueError: if the method is unknown, num_kv_heads does not divide the
      number that the checkpoint has, or the tree is not that of `config` (an
      encoder-only model, other sizes, already grouped).
  """
  check_conversion(config, num_kv_heads, method)
  flat = traverse_util.flatten_dict(params, sep='/')
  _check_kernels({n: x.shape for n, x in flat.items() if is_pooled(n)}, config)
  converted = {
    name: pool_kernel(name, x, config, num_kv_heads, method, seed)
    if is_pooled(name)
    else x
    for name, x in flat.items()
  }
  return (
    traverse_util.unflatten_dict(converted, sep='/'),
    dataclasses.replace(config, num_kv_heads=num_kv_heads),
  )


def convert_checkpoint(
  *, input: str, output: str, num_kv_heads: int, method: str, seed: int = 0
) -> str:
  """Converts a checkpoint on disk; the step stays, the optimizer starts anew.

  Args:
    input: a folder that `checkpoints.native` reads.
    output: gets checkpoint_<step>/ and conversion.json; must not hold
      checkpoints yet.
    num_kv_heads: see `convert_params`.
    method: see `convert_params`.
    seed: see `convert_params`.

  Returns:
    The path of the new checkpoint.

  Raises:
    FileExistsError: if there are checkpoints in `output`.
    ValueError: as `convert_params`.
  """
  folder = epath.Path(output).absolute()
  if folder.exists() and any(folder.glob(f'{native.PREFIX}_*')):
    raise FileExistsError(
      f'{output} holds a checkpoint already; give an OUTPUT that does not.'
    )
  source = native.restore(input)
  params, config = convert_params(
    source.params, source.config, num_kv_heads, method, seed
  )
  with native.checkpoint_manager(folder) as manager:
    native.save(manager, native.Checkpoint(source.step, params, config))
  record = {
    'source': str(input),
    'step': source.step,
    'method': method,
    'seed': seed,
    'num_kv_heads': {'from': source.config.num_kv_heads, 'to': num_kv_heads},
  }
  text = json.dumps(record, indent=2) + '\n'
  (folder / 'conversion.json').write_text(text)
  return str(folder / f'{native.PREFIX}_{source.step}')


def pool_kernel(name, kernel, config, num_kv_heads, method, seed):
  """Pools one key or value kernel, [D, K * H] to [D, num_kv_heads * H]."""
  if num_kv_heads == config.num_kv_heads:
    return kernel
  kernel_DKH = kernel.reshape(
    kernel.shape[0], config.num_kv_heads, config.head_dim
  )
  rng = pooling.kernel_rng(seed, name)
  pooled = pooling.METHODS[method](kernel_DKH, num_kv_heads, rng)
  pooled = pooled.reshape(kernel.shape[0], -1).astype(kernel.dtype)
  if isinstance(kernel, jax.Array):
    return jax.device_put(pooled, kernel.sharding)
  return np.asarray(pooled)


def check_conversion(config: T5Config, num_kv_heads, method):
  """Raises ValueError unless the method exists and the heads divide."""
  if method not in pooling.METHODS:
    near = difflib.get_close_matches(str(method), pooling.METHODS, n=1)
    hint = f' Did you mean {near[0]!r}?' if near else ''
    raise ValueError(
      f'There is no conversion method {method!r}; choose one of '
      f'{list(pooling.METHODS)}.{hint}'
    )
  if num_kv_heads not in divisors(config.num_kv_heads):
    raise ValueError(
      f'num_kv_heads = {num_kv_heads} does not divide the '
      f'{config.num_kv_heads} key/value heads of the checkpoint; choose one of '
      f'{divisors(config.num_kv_heads)}.'
    )


def _check_kernels(shapes, config: T5Config):
  """Raises one ValueError that lists every kernel not of config's shape."""
  if not shapes:
    raise ValueError(
      'These parameters have no decoder attention '
      "('decoder/layers_0/self_attention/key/kernel'); only an encoder-decoder "
      'checkpoint can be converted to grouped-query attention.'
    )
  layers = {name.split('/')[1] for name in shapes}
  if len(layers) != config.num_decoder_layers or len(shapes) != 4 * len(layers):
    raise ValueError(
      f'The parameters have {len(shapes)} decoder key/value kernels in '
      f'{len(layers)} layers, but the config has {config.num_decoder_layers} '
      'layers of 4; give the config of this checkpoint.'
    )
  expected = (config.emb_dim, config.num_kv_heads * config.head_dim)
  wrong = {n: s for n, s in sorted(shapes.items()) if s != expected}
  if wrong:
    name, shape = next(iter(wrong.items()))
    heads, rest = divmod(shape[-1], config.head_dim)
    hint = 'give the config of this checkpoint'
    if shape[0] == config.emb_dim and not rest and heads < config.num_heads:
      hint = (
        f'the checkpoint is already grouped to {heads} key/value heads: say '
        f'num_kv_heads={heads} in the config to group it further'
      )
    raise ValueError(
      f'{name} has shape {shape}, but the config (emb_dim {config.emb_dim}, '
      f'{config.num_kv_heads} key/value heads of {config.head_dim}) needs '
      f'{expected}; {hint}. {len(wrong)} of {len(shapes)} kernels differ.'
    )
