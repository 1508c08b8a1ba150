"""Cross-entropy with z-loss, and what T5X divides its sum by."""

import jax
import jax.numpy as jnp

LOSS_NORMALIZING_FACTORS = (
  'NUM_REAL_TARGET_TOKENS',
  'NUM_TOTAL_TARGET_TOKENS',
  'AVERAGE_PER_SEQUENCE',
)


def cross_entropy_with_z_loss(logits_BTV, targets_BT, z_loss: float = 1e-4):
  """Returns the loss of each token, z-loss included, and its z-loss.

  The z-loss, z_loss * log(sum(exp(logits)))**2, keeps logits near
  normalisation (T5X's cross_entropy_with_logits).

  Args:
    logits_BTV: float32 [batch, length, vocab].
    targets_BT: int32 [batch, length].
    z_loss: its coefficient.

  Returns:
    loss: float32 [batch, length], in nats, z-loss included.
    z: float32 [batch, length], the z-loss alone.
  """
  log_z_BT = jax.nn.logsumexp(logits_BTV, axis=-1)
  targets_BT1 = targets_BT[..., None]
  picked_BT = jnp.take_along_axis(logits_BTV, targets_BT1, axis=-1)[..., 0]
  z_BT = z_loss * jnp.square(log_z_BT)
  return log_z_BT - picked_BT + z_BT, z_BT


def loss_normalizer(batch, factor: float | str | None):
  """Returns the float32 scalar by which the summed loss is divided.

  Args:
    batch: has decoder_loss_weights and decoder_target_tokens [batch, length].
    factor: a number; None, which is 1; or one of LOSS_NORMALIZING_FACTORS:
      the number of tokens that are weighted, of all positions, or (for each
      sequence) of its own tokens times the number of sequences. Names and
      meaning are T5X's.

  Returns:
    A scalar, or [batch, 1] for 'AVERAGE_PER_SEQUENCE'.

  Raises:
    ValueError: as `check_normalizing_factor`.
  """
  check_normalizing_factor(factor)
  weights_BT = batch['decoder_loss_weights'].astype(jnp.float32)
  if factor is None:
    return jnp.float32(1)
  if not isinstance(factor, str):
    return jnp.float32(factor)
  if factor == 'NUM_REAL_TARGET_TOKENS':
    return jnp.sum(weights_BT)
  if factor == 'NUM_TOTAL_TARGET_TOKENS':
    return jnp.float32(weights_BT.size)
  weights_B1 = jnp.sum(weights_BT, axis=1, keepdims=True)
  return jnp.maximum(weights_B1, 1) * weights_BT.shape[0]


def check_normalizing_factor(factor: float | str | None):
  """Raises ValueError unless `loss_normalizer` takes the factor."""
  if isinstance(factor, str):
    known = factor in LOSS_NORMALIZING_FACTORS
  else:
    known = factor is None or factor > 0
  if not known:
    raise ValueError(
      f'LOSS_NORMALIZING_FACTOR is {factor!r}; set it to a positive number, '
      f'None or one of {list(LOSS_NORMALIZING_FACTORS)}.'
    )
