"""Decodes held-out text at every precision; a record for each cell."""

import dataclasses
import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from experiments.low_precision import cells
from experiments.real_checkpoint import data
from experiments.real_checkpoint.study import Study
from gqa_flax.evaluation import metrics
from gqa_flax.inference.decode import generate
from gqa_flax.inference.precision import in_step, prepare, weights
from gqa_flax.inference.sampling import Greedy
from gqa_flax.model.network import Transformer

BATCH_SIZE = 32


def run(results_dir: pathlib.Path, work_dir: pathlib.Path):
  """Measures the cells that have no record."""
  study = Study(work_dir, results_dir)
  work_dir.mkdir(parents=True, exist_ok=True)
  for attention in cells.ATTENTIONS:
    for precision in cells.PRECISIONS:
      study.run(
        f'{attention}, {precision}',
        functools.partial(_cell, study, work_dir, attention, precision),
      )


def _cell(study, work_dir, attention, precision) -> dict[str, Any]:
  """Returns what a record says of one attention and precision."""
  float32 = _float32(study, work_dir, attention)
  model, params = _prepared(study, attention, precision)
  param_bytes, token_bytes = _bytes(model, params)
  found = float32
  if precision != 'float32':
    found = _decoded(study, model, params, precision)
  return {
    'experiment': 'low_precision',
    'attention': attention,
    'num_kv_heads': cells.ATTENTIONS[attention],
    'precision': precision,
    'dtypes': cells.PRECISIONS[precision],
    'param_bytes': param_bytes,
    'token_bytes': token_bytes,
    'kinds': {
      kind: _compared(kind, found[kind], float32[kind])
      for kind in cells.EXAMPLES
    },
  }


def _prepared(study, attention, precision):
  """Returns a model, and its parameters as they are kept."""
  param_dtype, cache_dtype = cells.PRECISIONS[precision]
  params, config = study.base('published')
  if cells.ATTENTIONS[attention] < config.num_heads:
    params, config = study.convert(
      'published', 'subspace', 'broad', cells.ATTENTIONS[attention]
    )
  config = dataclasses.replace(config, cache_dtype=cache_dtype)
  return Transformer(config), prepare(params, param_dtype)


def _float32(study, work_dir, attention) -> dict[str, dict[str, np.ndarray]]:
  """Returns what float32 decodes, from a file once it has been decoded."""
  path = work_dir / f'{attention}.npz'
  if not path.exists():
    model, params = _prepared(study, attention, 'float32')
    decoded = _decoded(study, model, params, 'float32')
    flat = traverse_util.flatten_dict(decoded, sep='/')
    np.savez(path, **flat)
  with np.load(path) as arrays:
    return traverse_util.unflatten_dict(dict(arrays), sep='/')


def _bytes(model, params) -> tuple[int, int]:
  """Returns bytes of parameters, and of the caches at one position."""

  def init_cache(params, tokens):
    variables = {'params': weights(params)}
    return model.apply(variables, tokens, 1, method='init_cache')

  token = jax.ShapeDtypeStruct((1, 1), np.int32)
  cache = jax.eval_shape(init_cache, params, token)
  held, position = (
    sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
    # The two caches have one position each.
    for tree in (params, cache.self_attention)
  )
  return held, position


def _decoded(study, model, params, precision):
  """Returns of each kind losses, next tokens and greedy tokens, [N, T]."""
  decode = _decode_function(model)
  decoded = {}
  for kind in cells.EXAMPLES:
    batches = [
      {**jax.device_get(decode(params, encoded, batch)), 'targets': batch[_OUT]}
      for batch, encoded in _encoded(
        study, kind, cells.PRECISIONS[precision][0]
      )
    ]
    decoded[kind] = {
      name: np.concatenate([batch[name] for batch in batches])
      for name in batches[0]
    }
  return decoded


@functools.cache
def _encoded(study, kind, param_dtype):
  """Returns batches, and the encoder's output that all attentions share."""
  params, config = study.base('published')
  model, params = Transformer(config), prepare(params, param_dtype)
  encode = jax.jit(
    lambda params, tokens: model.apply(
      {'params': weights(params)}, tokens, method='encode'
    )
  )
  examples = data.pairs(kind, 'validation')[: cells.EXAMPLES[kind]]
  return [
    (batch, encode(params, batch['encoder_input_tokens']))
    for batch in data.batches(examples, kind, BATCH_SIZE)
  ]


_OUT = 'decoder_target_tokens'


@functools.cache
def _decode_function(model):
  @jax.jit
  def decode(params, encoded_BSD, batch):
    targets_BT = batch[_OUT]

    def step(cache, tokens):
      previous_B, target_B = tokens
      step_params, cache = in_step(params, cache)
      logits_BV, cache = model.apply(
        {'params': step_params}, previous_B, cache, method='decode_step'
      )
      log_probs_BV = jax.nn.log_softmax(logits_BV)
      taken_B1 = jnp.take_along_axis(log_probs_BV, target_B[:, None], axis=1)
      return cache, (-taken_B1[:, 0], jnp.argmax(logits_BV, axis=1))

    cache = model.apply(
      {'params': weights(params)},
      encoded_BSD,
      batch['encoder_input_tokens'],
      targets_BT.shape[1],
      method='fill_cache',
    )
    _, (losses_TB, next_TB) = jax.lax.scan(
      step, cache, (batch['decoder_input_tokens'].T, targets_BT.T)
    )
    return {
      'losses': jnp.where(targets_BT > 0, losses_TB.T, 0.0),
      'next': next_TB.T,
      'greedy': generate(model, params, cache, Greedy(), jax.random.key(0)),
    }

  return decode


def _compared(kind, found, float32) -> dict[str, Any]:
  """Returns what each example lost, and shares with float32."""
  real, written = found['targets'] > 0, float32['greedy'] > 0
  same_next = (found['next'] == float32['next']) & real
  same_greedy = (found['greedy'] == float32['greedy']) & written
  texts, references = (
    [data.tokenizer().decode(row.tolist()) for row in found[name]]
    for name in ('greedy', 'targets')
  )
  return {
    'tokens': real.sum(axis=1).tolist(),
    'losses': [round(float(x), 4) for x in found['losses'].sum(axis=1)],
    'same_next': same_next.sum(axis=1).tolist(),
    'greedy_tokens': written.sum(axis=1).tolist(),
    'same_greedy': same_greedy.sum(axis=1).tolist(),
    'same_texts': int((found['greedy'] == float32['greedy']).all(axis=1).sum()),
    'scores': metrics.compute(cells.METRICS[kind], references, texts),
  }
