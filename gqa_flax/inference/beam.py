"""Beam search with T5X's length penalty and order of beams."""

import functools

import flax.struct
import jax
import jax.numpy as jnp

from gqa_flax.compilation import DecodingJit
from gqa_flax.inference import EOS_ID, check_decode_length
from gqa_flax.inference.precision import in_step, weights
from gqa_flax.model.cache import DecoderCache
from gqa_flax.partitioning import replicate

# Stands for log(0); finite, so that sums and quotients of it stay ordered.
_IMPOSSIBLE = -1e7


def beam_search(
  model, params, encoder_input_tokens, max_decode_length, beam_size=4, alpha=0.6
):
  """Searches for the sequences of the highest length-penalised probability.

  A finished sequence of n tokens scores log p / ((5 + n) / 6)**alpha (Wu et
  al. 2016). The search keeps `beam_size` unfinished and `beam_size` finished
  sequences, and stops when no unfinished one can overtake the worst finished
  one, as T5X's t5x/decoding.py does.

  Args:
    model: a Transformer.
    params: its parameters.
    encoder_input_tokens: int32 [batch, source_length], 0 is padding.
    max_decode_length: tokens at most, EOS included.
    beam_size: sequences kept per example.
    alpha: exponent of the length penalty; 0 is none.

  Returns:
    tokens: int32 [batch, beam_size, max_decode_length], best beam last,
      padding (0) after EOS (1). An example in which nothing finished gives
      its unfinished sequences.
    scores: float32 [batch, beam_size], ascending.

  Raises:
    ValueError: if max_decode_length or beam_size is below 1.
  """
  check_decode_length(max_decode_length)
  if beam_size < 1:
    raise ValueError(f'beam_size is {beam_size}; set it to 1 or more.')
  return _beam_search(
    model, max_decode_length, beam_size, alpha, params, encoder_input_tokens
  )


def beam_decode(
  model, params, encoder_input_tokens, max_decode_length, beam_size=4, alpha=0.6
):
  """Returns the tokens of `beam_search`'s best beam, [batch, length]."""
  tokens, _ = beam_search(
    model, params, encoder_input_tokens, max_decode_length, beam_size, alpha
  )
  return tokens[:, -1]


@flax.struct.dataclass
class _Beams:
  """Sequences [batch, beam, length + 1] (a 0 in front), ascending by score."""

  sequences: jax.Array
  scores: jax.Array

  @classmethod
  def empty(cls, batch, beam_size, length):
    return cls(
      sequences=jnp.zeros((batch, beam_size, length + 1), jnp.int32),
      scores=jnp.full((batch, beam_size), _IMPOSSIBLE),
    )

  def best(self, beam_size):
    """Returns the best beams and their indices [batch, beam_size]."""
    indices = jnp.flip(jax.lax.top_k(self.scores, beam_size)[1], axis=1)
    return jax.tree.map(lambda x: _gather(x, indices), self), indices


@flax.struct.dataclass
class _State:
  live: _Beams  # scores are log-probabilities, not length-penalised
  finished: _Beams
  cache: DecoderCache  # rows are [batch * beam]


@functools.partial(
  DecodingJit, static_argnames=('model', 'max_decode_length', 'beam_size')
)
def _beam_search(
  model, max_decode_length, beam_size, alpha, params, encoder_input_tokens
):
  batch = encoder_input_tokens.shape[0]

  def can_improve(state):
    # T5X counts the 0 in front here.
    best_live = state.live.scores[:, -1:] / _penalty(
      alpha, max_decode_length + 1
    )
    worst_finished = jnp.min(state.finished.scores, axis=1, keepdims=True)
    overtaken = jnp.all(worst_finished > best_live)
    return (state.cache.position < max_decode_length) & ~overtaken

  def step(state):
    position = state.cache.position
    previous = jnp.take(state.live.sequences, position, axis=2)
    step_params, cache = in_step(params, state.cache)
    logits, cache = model.apply(
      {'params': step_params}, previous.reshape(-1), cache, method='decode_step'
    )
    log_probs = jax.nn.log_softmax(logits).reshape(batch, beam_size, -1)
    candidates, parents = _extend(state.live, log_probs, position)
    ended = jnp.take(candidates.sequences, position + 1, axis=2) == EOS_ID

    live, chosen = candidates.replace(
      scores=candidates.scores + jnp.where(ended, _IMPOSSIBLE, 0.0)
    ).best(beam_size)
    newly_finished = candidates.replace(
      scores=candidates.scores / _penalty(alpha, position + 1)
      + jnp.where(ended, 0.0, _IMPOSSIBLE)
    )
    finished, _ = jax.tree.map(
      lambda old, new: jnp.concatenate([old, new], axis=1),
      state.finished,
      newly_finished,
    ).best(beam_size)
    # All beams of an example share its cross-attention cache, so only the
    # self-attention cache follows its parents.
    cache = cache.replace(
      self_attention=jax.tree.map(
        lambda x: _gather_rows(x, _gather(parents, chosen)),
        cache.self_attention,
      )
    )
    return _State(live=live, finished=finished, cache=cache)

  cache = model.apply(
    {'params': weights(params)},
    encoder_input_tokens,
    max_decode_length,
    method='init_cache',
  )
  live = _Beams.empty(batch, beam_size, max_decode_length)
  state = _State(
    live=live.replace(scores=live.scores.at[:, 0].set(0.0)),
    finished=_Beams.empty(batch, beam_size, max_decode_length),
    cache=cache.replace(
      **{
        name: jax.tree.map(
          lambda x: jnp.repeat(x, beam_size, axis=0), getattr(cache, name)
        )
        for name in ('self_attention', 'cross_attention', 'encoder_bias')
      }
    ),
  )
  state = jax.lax.while_loop(can_improve, step, state)
  any_finished = jnp.any(
    state.finished.scores > _IMPOSSIBLE / 2, axis=1, keepdims=True
  )
  sequences = jnp.where(
    any_finished[..., None], state.finished.sequences, state.live.sequences
  )
  scores = jnp.where(any_finished, state.finished.scores, state.live.scores)
  # Every host reads the tokens of all.
  return replicate(sequences[..., 1:]), replicate(scores)


def _extend(live, log_probs, position):
  """Returns the 2 * beam_size best one-token extensions and their parents."""
  batch, beam_size, vocab_size = log_probs.shape
  totals = (live.scores[..., None] + log_probs).reshape(batch, -1)
  # Twice as many: if beam_size of them end, as many still go on.
  scores, indices = jax.lax.top_k(totals, 2 * beam_size)
  parents, tokens = indices // vocab_size, indices % vocab_size
  sequences = jax.lax.dynamic_update_slice(
    _gather(live.sequences, parents), tokens[..., None], (0, 0, position + 1)
  )
  return _Beams(sequences=sequences, scores=scores), parents


def _penalty(alpha, length):
  return ((5.0 + jnp.float32(length)) / 6.0) ** alpha


def _gather(x, indices):
  """Selects beams: x [batch, beam, ...] by indices [batch, new_beam]."""
  return jax.vmap(lambda row, index: row[index])(x, indices)


def _gather_rows(x, indices):
  """Selects beams of x [batch * beam, ...] by indices [batch, beam]."""
  batch, beam_size = indices.shape
  if beam_size == 1:  # every beam is its own parent
    return x
  beams = x.reshape(batch, beam_size, *x.shape[1:])
  return _gather(beams, indices).reshape(x.shape)
