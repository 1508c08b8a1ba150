"""How the next token is chosen from logits."""

import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Greedy:
  """Takes the most probable token; the paper decodes so throughout."""

  def __call__(self, logits_BV, rng):
    """Returns int32 [batch]; the rng is not used."""
    del rng
    return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class Temperature:
  """Draws from softmax(logits / temperature), of the top_k tokens if given.

  Raises:
    ValueError: if temperature is not positive or top_k is negative.
  """

  temperature: float = 1.0
  top_k: int = 0

  def __post_init__(self):
    if self.temperature <= 0 or self.top_k < 0:
      raise ValueError(
        f'Temperature({self.temperature}, top_k={self.top_k}) cannot be '
        'sampled from; give a temperature above 0 (or use Greedy) and a top_k '
        'of 0 (all tokens) or more.'
      )

  def __call__(self, logits_BV, rng):
    """Returns int32 [batch]."""
    logits_BV = logits_BV / self.temperature
    if self.top_k:
      kept_BK = jax.lax.top_k(logits_BV, self.top_k)[0]
      logits_BV = jnp.where(logits_BV < kept_BK[:, -1:], -jnp.inf, logits_BV)
    return jax.random.categorical(rng, logits_BV).astype(jnp.int32)
