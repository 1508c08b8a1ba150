"""The decoding loop: one token a step, until every sequence has ended."""

import functools

import jax
import jax.numpy as jnp

from gqa_flax.compilation import DecodingJit
from gqa_flax.inference import EOS_ID, PAD_ID, check_decode_length
from gqa_flax.inference.beam import beam_decode
from gqa_flax.inference.precision import in_step, weights
from gqa_flax.partitioning import replicate


def greedy_decode(model, params, encoder_input_tokens, max_decode_length):
  """Decodes as T5X does with one beam, which is how the paper decodes.

  Each step takes the most probable token, but a sequence may also end where
  EOS is the runner-up: of all endings seen on the way, the most probable one is
  returned. Plain argmax, which ends only where EOS is the most probable token,
  is `sample_decode` with `Greedy()`; the two agree unless EOS was a runner-up
  before.

  Args:
    model: a Transformer.
    params: its parameters.
    encoder_input_tokens: int32 [batch, source_length], 0 is padding.
    max_decode_length: tokens at most, EOS included.

  Returns:
    int32 [batch, max_decode_length]: the tokens up to and with EOS (1), then
    padding (0).

  Raises:
    ValueError: if max_decode_length is below 1.
  """
  return beam_decode(
    model,
    params,
    encoder_input_tokens,
    max_decode_length,
    beam_size=1,
    alpha=0.0,
  )


def sample_decode(
  model,
  params,
  encoder_input_tokens,
  max_decode_length,
  sampler,
  rng=None,
  *,
  stop_at_eos=True,
):
  """Decodes with a sampler: `Greedy()` or `Temperature(...)`.

  Args:
    model: a Transformer.
    params: its parameters.
    encoder_input_tokens: int32 [batch, source_length], 0 is padding.
    max_decode_length: tokens at most, EOS included.
    sampler: called with float32 logits [batch, vocab] and a PRNG key.
    rng: a PRNG key; None is the key of seed 0.
    stop_at_eos: False continues after EOS as after any token, so that all
      models do the same work when they are timed.

  Returns:
    int32 [batch, max_decode_length]: the tokens up to and with EOS (1), then
    padding (0).

  Raises:
    ValueError: if max_decode_length is below 1.
  """
  check_decode_length(max_decode_length)
  rng = jax.random.key(0) if rng is None else rng
  return _decode(
    model,
    max_decode_length,
    sampler,
    stop_at_eos,
    params,
    encoder_input_tokens,
    rng,
  )


@functools.partial(
  DecodingJit,
  static_argnames=('model', 'max_decode_length', 'sampler', 'stop_at_eos'),
)
def _decode(
  model,
  max_decode_length,
  sampler,
  stop_at_eos,
  params,
  encoder_input_tokens,
  rng,
):
  cache = model.apply(
    {'params': weights(params)},
    encoder_input_tokens,
    max_decode_length,
    method='init_cache',
  )
  return generate(model, params, cache, sampler, rng, stop_at_eos)


def generate(model, params, cache, sampler, rng, stop_at_eos=True):
  """Decodes from a cache at position 0 until it is full or all have ended.

  Args:
    model: a Transformer.
    params: its parameters.
    cache: from `Transformer.init_cache`.
    sampler: see `sample_decode`.
    rng: a PRNG key.
    stop_at_eos: see `sample_decode`.

  Returns:
    int32 [batch, the cache's length], as `sample_decode` returns them.
  """
  batch = cache.encoder_bias.shape[0]
  length = cache.self_attention[0].length

  def unfinished(state):
    _, _, ended_B, cache, _ = state
    more = cache.position < length
    return more & ~jnp.all(ended_B) if stop_at_eos else more

  def step(state):
    output_BT, previous_B, ended_B, cache, rng = state
    rng, step_rng = jax.random.split(rng)
    position = cache.position
    step_params, cache = in_step(params, cache)
    logits_BV, cache = model.apply(
      {'params': step_params}, previous_B, cache, method='decode_step'
    )
    next_B = jnp.where(ended_B, PAD_ID, sampler(logits_BV, step_rng))
    output_BT = jax.lax.dynamic_update_slice(
      output_BT, next_B[:, None], (0, position)
    )
    if stop_at_eos:
      ended_B |= next_B == EOS_ID
    return output_BT, next_B, ended_B, cache, rng

  state = (
    jnp.full((batch, length), PAD_ID, jnp.int32),
    jnp.full((batch,), PAD_ID, jnp.int32),
    jnp.zeros((batch,), bool),
    cache,
    rng,
  )
  # Every host reads the tokens of all.
  return replicate(jax.lax.while_loop(unfinished, step, state)[0])
