"""Changes of basis and of the heads' order, which must change no logit."""

import jax
import numpy as np
from flax import traverse_util

from gqa_flax.conversion import alignment
from gqa_flax.conversion.orders import SELF, attentions
from gqa_flax.model.network import Transformer

_BIAS = 'decoder/relpos_bias/rel_embedding'


def largest_changes(params, config, statistics, batch, seed: int = 0):
  """Returns by how much logits change at most, and how large they are.

  Every head of the decoder gets a random rotation, or the basis that `subspace`
  finds for a group of one, and the heads a random order: one for all
  self-attentions, another for each cross-attention.

  Args:
    params: multi-head.
    config: their architecture.
    statistics: of the attentions' inputs.
    batch: to compute logits of.
    seed: of the orders.
  """
  model = Transformer(config)
  inputs = {k: x for k, x in batch.items() if k != 'decoder_loss_weights'}
  logits_of = jax.jit(lambda p: model.apply({'params': p}, **inputs))
  real = np.asarray(batch['decoder_target_tokens']) > 0
  logits = np.asarray(logits_of(params))[real]
  changes = {}
  for bases in ('random rotations', 'subspace'):
    changed = _rebase(params, config, statistics, bases, seed)
    new = np.asarray(logits_of(changed))[real]
    changes[bases] = float(np.abs(new - logits).max())
  return {
    'largest_change': changes,
    'largest_logit': float(np.abs(logits).max()),
    'target_tokens': int(real.sum()),
  }


def _rebase(params, config, statistics, bases, seed):
  rng = np.random.default_rng(seed)
  N, H = config.num_heads, config.head_dim
  flat = dict(traverse_util.flatten_dict(params, sep='/'))
  shared_order = rng.permutation(N)
  flat[_BIAS] = flat[_BIAS][shared_order]
  for attention in attentions(config):
    order = shared_order if attention.endswith(SELF) else rng.permutation(N)
    query, source = statistics.of(attention)

    def kernel(name, attention=attention, order=order):
      w = np.asarray(flat[f'{attention}/{name}/kernel'], np.float64)
      if name == 'out':
        return w.reshape(N, H, -1)[order]
      return w.reshape(-1, N, H)[:, order]

    q, k, v, o = (kernel(name) for name in ('query', 'key', 'value', 'out'))
    if bases == 'subspace':
      weight = alignment.query_weight(q[:, :, None], query.second)
      keys = alignment.subspace(alignment.gram(k, source.within), N, weight)
      values = alignment.subspace(alignment.gram(v, source.second), N)
      fold_k, unfold_k = keys.fold, keys.unfold
      fold_v, unfold_v = values.fold, values.unfold
    else:
      fold_k, fold_v = np.linalg.qr(rng.normal(size=(2, N, H, H)))[0]
      unfold_k, unfold_v = fold_k, fold_v
    new = {
      'query': np.einsum('dnh,nhj->dnj', q, unfold_k),
      'key': np.einsum('dnh,nhj->dnj', k, fold_k),
      'value': np.einsum('dnh,nhj->dnj', v, fold_v),
      'out': np.einsum('nhj,nhd->njd', unfold_v, o),
    }
    for name, x in new.items():
      old = flat[f'{attention}/{name}/kernel']
      flat[f'{attention}/{name}/kernel'] = x.reshape(old.shape).astype(
        np.float32
      )
  return traverse_util.unflatten_dict(flat, sep='/')
