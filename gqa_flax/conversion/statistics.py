"""What the inputs of the decoder's attentions look like, on some text.

Conversion by `aligned` and `subspace` asks how much a change of the keys,
queries or values matters. That depends on what is projected to them. Of every
input x [D] of such a projection two means are kept, over the real tokens of a
calibration text:

  second   E[x^T x]                 [D, D]
  within   E[(x - m)^T (x - m)]     [D, D], m the mean over the tokens of a row

The softmax ignores what all keys of a row share, so keys are compared by
`within` and values by `second`. Inputs by name:

  decoder/layers_i/self_attention             queries, keys and values
  decoder/layers_i/encoder_decoder_attention  queries
  encoder                                     all layers' cross-attention keys
                                              and values: one output of the
                                              encoder serves them all
"""

import dataclasses
import functools
import hashlib
import io
import json
from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from gqa_flax import partitioning
from gqa_flax.checkpoints.native_manager import CheckpointWriteError, full_disk
from gqa_flax.config import T5Config
from gqa_flax.model.network import Transformer

ENCODER = 'encoder'
_NORMS = {
  'pre_self_attention_layer_norm': 'self_attention',
  'pre_cross_attention_layer_norm': 'encoder_decoder_attention',
}


@dataclasses.dataclass(frozen=True)
class Moments:
  """Second moments of one projection's inputs, float32 [D, D]; see above."""

  second: np.ndarray
  within: np.ndarray


@dataclasses.dataclass(frozen=True)
class Statistics:
  """Moments by the name of the input, and where they come from.

  Attributes:
    moments: by name.
    tokens: real target tokens that were seen.
    source: the task or text, for the records.
    model: tells the checkpoint they are of from others; see `fingerprint`.
  """

  moments: Mapping[str, Moments]
  tokens: int
  source: str = ''
  model: str = ''

  def of(self, attention: str) -> tuple[Moments, Moments]:
    """Returns the moments of an attention's queries, and of its keys/values.

    Args:
      attention: such as 'decoder/layers_0/self_attention'.
    """
    queries = self.moments[attention]
    if attention.endswith('encoder_decoder_attention'):
      return queries, self.moments[ENCODER]
    return queries, queries

  def check(self, config: T5Config):
    """Raises ValueError unless they are of a model of this architecture."""
    names = [
      ENCODER,
      *(
        f'decoder/layers_{i}/{attention}'
        for i in range(config.num_decoder_layers)
        for attention in _NORMS.values()
      ),
    ]
    for name in names:
      if name not in self.moments:
        raise ValueError(
          f'The statistics have nothing about {name}; collect them on this '
          'checkpoint.'
        )
      shape = self.moments[name].second.shape
      if shape != (config.emb_dim, config.emb_dim):
        raise ValueError(
          f'The statistics of {name} are {shape}, but this checkpoint has '
          f'width {config.emb_dim}; collect them on it.'
        )


def collect(
  params, config: T5Config, batches: Iterable, max_tokens: int, source=''
) -> Statistics:
  """Runs the model over batches, teacher forcing, and averages moments.

  One compiled step adds up all moments in float32; the rows of a batch are
  split over the devices.

  Args:
    params: of a checkpoint of `config`.
    config: the architecture; float32 activations are used whatever it says.
    batches: dicts as `data.batches` yields them, not packed: a row is a text.
    max_tokens: target tokens after which no further batch is taken.
    source: kept with the result.

  Raises:
    ValueError: if there is no target token in the batches, or activations are
      not finite.
  """
  config = dataclasses.replace(config, dtype='float32', dropout_rate=0.0)
  model = Transformer(config)
  mesh = partitioning.data_parallel_mesh()
  model_name = fingerprint(params['encoder']['encoder_norm']['scale'])
  params = jax.device_put(params, partitioning.replicated(mesh))
  step = jax.jit(_add_moments, static_argnums=0, donate_argnums=3)
  sums, tokens = None, 0
  for batch in batches:
    if sums is None:
      shapes = jax.eval_shape(functools.partial(_moments, model), params, batch)
      sums = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    tokens += int(np.sum(np.asarray(batch['decoder_target_tokens']) > 0))
    batch = partitioning.spread_batch(dict(batch), mesh)
    sums = step(model, params, batch, sums)
    if tokens >= max_tokens:
      break
  if not tokens:
    raise ValueError(
      f'The calibration text {source} has no target token; give a '
      'CALIBRATION_TASK that has some.'
    )
  moments = {}
  for name, (count, second, between) in jax.device_get(sums).items():
    count = np.maximum(count, 1)
    if not np.isfinite(second).all():
      raise ValueError(
        f'The inputs of {name} are NaN or infinite on the calibration text '
        f'{source}: a weight of the checkpoint is, or overflows; give an '
        'earlier one.'
      )
    moments[name] = Moments(second / count, (second - between) / count)
  return Statistics(moments, tokens, source, model_name)


def fingerprint(scale_D) -> str:
  """Returns a name for a checkpoint: a hash of its encoder's last norm."""
  scale_D = np.ascontiguousarray(scale_D, np.float32)
  return hashlib.sha256(scale_D.data).hexdigest()[:16]


def _add_moments(model, params, batch, sums):
  return jax.tree.map(jnp.add, sums, _moments(model, params, batch))


def _moments(model, params, batch):
  """Returns {input: (count, sum x^T x, sum over rows of n m^T m)}."""
  inputs = {k: x for k, x in batch.items() if k != 'decoder_loss_weights'}
  _, captured = model.apply(
    {'params': params},
    **inputs,
    capture_intermediates=lambda module, _: (
      module.name in _NORMS or module.name == 'encoder_norm'
    ),
  )
  captured = captured['intermediates']
  source_BS = batch['encoder_input_tokens'] > 0
  target_BT = batch['decoder_target_tokens'] > 0
  sums = {
    ENCODER: _sums(captured['encoder']['encoder_norm']['__call__'], source_BS)
  }
  for layer, modules in captured['decoder'].items():
    for norm, attention in _NORMS.items():
      sums[f'decoder/{layer}/{attention}'] = _sums(
        modules[norm]['__call__'], target_BT
      )
  return sums


def _sums(outputs, real_BT):
  (x_BTD,) = outputs
  real_BT = real_BT.astype(jnp.float32)
  x_BTD = x_BTD.astype(jnp.float32) * real_BT[..., None]
  count_B = jnp.sum(real_BT, axis=1)
  total_BD = jnp.sum(x_BTD, axis=1) / jnp.sqrt(
    jnp.maximum(count_B, 1.0)[:, None]
  )
  high = jax.lax.Precision.HIGHEST
  second = jnp.einsum('BTD,BTE->DE', x_BTD, x_BTD, precision=high)
  between = jnp.einsum('BD,BE->DE', total_BD, total_BD, precision=high)
  return jnp.sum(count_B), second, between


def save(path, statistics: Statistics):
  """Writes statistics to one .npz file, by a rename."""
  path = epath.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  about = json.dumps(
    {
      'tokens': statistics.tokens,
      'source': statistics.source,
      'model': statistics.model,
    }
  )
  arrays = {
    f'{name}/{field}': getattr(moments, field)
    for name, moments in statistics.moments.items()
    for field in ('second', 'within')
  }
  temporary = path.with_name(f'{path.name}.tmp')
  try:
    with temporary.open('wb') as file:
      np.savez(file, about=np.asarray(about), **arrays)
    temporary.replace(path)
  except BaseException as error:
    temporary.unlink(missing_ok=True)
    if reason := full_disk(error):
      raise CheckpointWriteError(
        f'The statistics could not be written to {path} ({reason}); make room '
        'there or give another STATISTICS file, and start again.'
      ) from error
    raise


def check_writable(path):
  """Raises ValueError if `save` could not write there."""
  path = epath.Path(path)
  temporary = path.with_name(f'{path.name}.tmp')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_bytes(b'')
    temporary.unlink()
  except OSError as error:
    raise ValueError(
      f'The STATISTICS file {path} cannot be written ({error.strerror}); give '
      'a file in a folder of yours.'
    ) from error


def load(path) -> Statistics:
  """Reads what `save` wrote.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it is another file, a folder, or cannot be read.
  """
  path = epath.Path(path)
  try:
    data = path.read_bytes()
  except FileNotFoundError:
    raise
  except OSError as error:
    raise ValueError(
      f'The STATISTICS file {path} cannot be read ({error.strerror}); give a '
      'file that a conversion wrote, or the name of a new one.'
    ) from error
  try:
    with np.load(io.BytesIO(data)) as arrays:
      about = json.loads(str(arrays['about']))
      names = {n.rpartition('/')[0] for n in arrays.files} - {''}
      moments = {
        n: Moments(arrays[f'{n}/second'], arrays[f'{n}/within']) for n in names
      }
  # What is no such file can raise anything there.
  except Exception as error:
    raise ValueError(
      f'{path} does not hold calibration statistics; give a file that a '
      'conversion wrote with STATISTICS, or none.'
    ) from error
  return Statistics(moments, **about)
