"""One training step, a pure function of state and batch."""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from gqa_flax.training.losses import cross_entropy_with_z_loss, loss_normalizer


@flax.struct.dataclass
class TrainState:
  """What a step changes.

  Attributes:
    step: int32 scalar, steps since the very first of pre-training.
    params: float32 tree.
    opt_state: optax's.
  """

  step: jax.Array
  params: Any
  opt_state: Any


@flax.struct.dataclass
class Metrics:
  """Sums over tokens, float32 scalars; add them to accumulate.

  Attributes:
    cross_entropy: in nats, without z-loss.
    z_loss: the z-loss.
    correct: tokens predicted by argmax.
    tokens: target tokens, weighted.
    skipped: steps whose update was not finite and left out; such a step adds
      nothing to the other sums.
  """

  cross_entropy: jax.Array
  z_loss: jax.Array
  correct: jax.Array
  tokens: jax.Array
  skipped: jax.Array


def loss_and_metrics(
  model, params, batch, *, normalizer=1.0, z_loss=1e-4, dropout_rng=None
):
  """Returns the loss of a batch (sum / normalizer) and its Metrics.

  Args:
    model: a Transformer.
    params: its parameters.
    batch: as `data.batches` yields it, int32 and float32 [batch, length].
    normalizer: divides the loss of each token; broadcastable to
      [batch, length].
    z_loss: coefficient.
    dropout_rng: a PRNG key; None turns dropout off.
  """
  inputs = {k: x for k, x in batch.items() if k != 'decoder_loss_weights'}
  logits_BTV = model.apply(
    {'params': params},
    **inputs,
    enable_dropout=dropout_rng is not None,
    rngs=None if dropout_rng is None else {'dropout': dropout_rng},
  )
  targets_BT = batch['decoder_target_tokens']
  weights_BT = batch['decoder_loss_weights'].astype(jnp.float32)
  loss_BT, z_BT = cross_entropy_with_z_loss(logits_BTV, targets_BT, z_loss)
  correct_BT = jnp.argmax(logits_BTV, axis=-1) == targets_BT
  metrics = Metrics(
    cross_entropy=jnp.sum((loss_BT - z_BT) * weights_BT),
    z_loss=jnp.sum(z_BT * weights_BT),
    correct=jnp.sum(jnp.where(correct_BT, weights_BT, 0.0)),
    tokens=jnp.sum(weights_BT),
    skipped=jnp.float32(0),
  )
  return jnp.sum(loss_BT * weights_BT / normalizer), metrics


def train_step(
  state: TrainState,
  batch,
  rng,
  *,
  model,
  optimizer,
  learning_rate,
  loss_normalizing_factor=None,
  z_loss=1e-4,
  microbatches=1,
  skip_non_finite=False,
):
  """Takes one optimizer step.

  Args:
    state: the state before.
    batch: dict of arrays [batch, length].
    rng: a PRNG key for the whole run; the step is folded in. None turns
      dropout off.
    model: a Transformer.
    optimizer: an optax transformation for a learning rate of 1.
    learning_rate: a function of the step.
    loss_normalizing_factor: see `losses.loss_normalizer`; it is taken over
      the whole batch, so that the number of microbatches changes nothing.
    z_loss: coefficient.
    microbatches: parts in which gradients are accumulated; divides the batch.
    skip_non_finite: whether a batch whose loss or update is not finite leaves
      parameters and optimizer as they are; the step is counted all the same.

  Returns:
    The state after, and the Metrics of the batch.
  """
  normalizer = loss_normalizer(batch, loss_normalizing_factor)
  normalizer = jnp.broadcast_to(normalizer, (*_rows(batch), 1))

  def gradients(batch, normalizer, index):
    step_rng = None
    if rng is not None:
      step_rng = jax.random.fold_in(jax.random.fold_in(rng, state.step), index)

    def loss(params):
      return loss_and_metrics(
        model,
        params,
        batch,
        normalizer=normalizer,
        z_loss=z_loss,
        dropout_rng=step_rng,
      )

    return jax.grad(loss, has_aux=True)(state.params)

  if microbatches == 1:
    grads, metrics = gradients(batch, normalizer, 0)
  else:
    grads, metrics = _accumulate(gradients, batch, normalizer, microbatches)
  updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
  rate = learning_rate(state.step)
  updates = jax.tree.map(lambda u: rate * u, updates)
  after = TrainState(
    step=state.step + 1,
    params=optax.apply_updates(state.params, updates),
    opt_state=opt_state,
  )
  if skip_non_finite:
    finite = all_finite((metrics, after.params, after.opt_state))
    before = dataclasses.replace(state, step=after.step)
    after, metrics = jax.tree.map(
      lambda new, old: jnp.where(finite, new, old),
      (after, metrics),
      (before, _skipped(metrics)),
    )
  return after, metrics


def all_finite(tree):
  """Returns a boolean scalar: whether every number of a tree is finite."""
  leaves = jax.tree.leaves(tree)
  return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in leaves]))


def _skipped(metrics):
  nothing = jax.tree.map(jnp.zeros_like, metrics)
  return nothing.replace(skipped=jnp.float32(1))


def _accumulate(gradients, batch, normalizer, microbatches):
  """Sums gradients and metrics over slices of the batch, one at a time."""

  def split(x):
    # Row i goes to part i % microbatches: every device keeps its share.
    x = x.reshape(x.shape[0] // microbatches, microbatches, *x.shape[1:])
    return jnp.swapaxes(x, 0, 1)

  parts = jax.tree.map(split, (batch, normalizer))
  zeros = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype),
    jax.eval_shape(gradients, *jax.tree.map(lambda x: x[0], parts), 0),
  )

  def add(total, part_and_index):
    (batch, normalizer), index = part_and_index
    part = gradients(batch, normalizer, index)
    return jax.tree.map(jnp.add, total, part), None

  total, _ = jax.lax.scan(add, zeros, (parts, jnp.arange(microbatches)))
  return total


def _rows(batch):
  return batch['decoder_target_tokens'].shape[:1]
