"""Decoding against T5X's tokens, and against the model run without a cache."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gqa_flax import (
  Greedy,
  Temperature,
  Transformer,
  beam_search,
  greedy_decode,
  sample_decode,
)

LENGTH = 6


def teacher_forced(model, params, encoder_tokens, tokens):
  """Returns the logits of each position after the tokens before it."""
  decoder_input = np.pad(tokens, ((0, 0), (1, 0)))[:, :-1]
  return _forced(model, params, encoder_tokens, decoder_input)


@functools.partial(jax.jit, static_argnames='model')
def _forced(model, params, encoder_tokens, decoder_input):
  return model.apply(
    {'params': params},
    encoder_tokens,
    decoder_input,
    jnp.ones_like(decoder_input),
  )


def test_greedy_tokens_equal_t5x(golden):
  tokens = greedy_decode(
    golden.model, golden.params, golden.batch['encoder_input_tokens'], 9
  )
  np.testing.assert_array_equal(tokens, golden['greedy'])


def test_four_beams_equal_t5x(golden):
  tokens, scores = beam_search(
    golden.model,
    golden.params,
    golden.batch['encoder_input_tokens'],
    9,
    beam_size=4,
    alpha=0.6,
  )
  np.testing.assert_array_equal(tokens, golden['beam4_alpha0.6'])
  np.testing.assert_allclose(scores, golden['beam4_alpha0.6_scores'], atol=1e-4)


@pytest.mark.parametrize('num_kv_heads', [1, 2])
def test_argmax_decoding_takes_the_teacher_forced_argmax(
  tiny_config, make_params, make_batch, num_kv_heads
):
  config = dataclasses.replace(tiny_config, num_kv_heads=num_kv_heads)
  model, params = Transformer(config), make_params(config)
  encoder_tokens = make_batch(config, batch=16)['encoder_input_tokens']
  tokens = np.asarray(
    sample_decode(model, params, encoder_tokens, LENGTH, Greedy())
  )
  expected = np.argmax(
    teacher_forced(model, params, encoder_tokens, tokens), axis=-1
  )
  ended = np.cumsum(tokens == 1, axis=1) - (tokens == 1) > 0
  assert (tokens[ended] == 0).all()
  np.testing.assert_array_equal(tokens[~ended], expected[~ended])


def test_decoding_stops_when_all_have_ended(
  tiny_config, tiny_params, make_batch
):
  """The sampler is called once: every sequence ends at the first token."""
  model = Transformer(tiny_config)
  encoder_tokens = make_batch(tiny_config)['encoder_input_tokens']
  steps = []

  class Ending:
    def __call__(self, logits_BV, rng):
      jax.debug.callback(lambda: steps.append(1))
      return jnp.ones(logits_BV.shape[0], jnp.int32)

  tokens = sample_decode(model, tiny_params, encoder_tokens, LENGTH, Ending())
  jax.effects_barrier()
  assert len(steps) == 1
  np.testing.assert_array_equal(tokens[:, 0], 1)
  np.testing.assert_array_equal(tokens[:, 1:], 0)


def test_a_forced_length_goes_on_behind_eos(
  tiny_config, tiny_params, make_batch
):
  model = Transformer(tiny_config)
  encoder_tokens = make_batch(tiny_config)['encoder_input_tokens']

  class Eos:
    def __call__(self, logits_BV, rng):
      return jnp.ones(logits_BV.shape[0], jnp.int32)

  tokens = sample_decode(
    model, tiny_params, encoder_tokens, LENGTH, Eos(), stop_at_eos=False
  )
  np.testing.assert_array_equal(tokens, 1)


def test_temperature_draws_from_the_softmax():
  logits = jnp.log(jnp.asarray([[0.5, 0.3, 0.2]]))
  keys = jax.random.split(jax.random.key(0), 20000)

  def share(sampler):
    draws = jax.vmap(lambda key: sampler(logits, key)[0])(keys)
    return np.bincount(draws, minlength=3) / len(keys)

  np.testing.assert_allclose(
    share(Temperature(1.0)), [0.5, 0.3, 0.2], atol=0.02
  )
  squared = np.square([0.5, 0.3, 0.2])
  np.testing.assert_allclose(
    share(Temperature(0.5)), squared / squared.sum(), atol=0.02
  )
  np.testing.assert_allclose(
    share(Temperature(1.0, top_k=2)), [0.625, 0.375, 0], atol=0.02
  )


def test_sampling_follows_its_key(tiny_config, tiny_params, make_batch):
  model = Transformer(tiny_config)
  encoder_tokens = make_batch(tiny_config)['encoder_input_tokens']

  def tokens(seed):
    return np.asarray(
      sample_decode(
        model,
        tiny_params,
        encoder_tokens,
        LENGTH,
        Temperature(2.0),
        jax.random.key(seed),
      )
    )

  np.testing.assert_array_equal(tokens(0), tokens(0))
  assert (tokens(0) != tokens(1)).any()


def test_wide_beam_search_finds_the_best_of_all_sequences(
  tiny_config, make_params, make_batch
):
  """Against every sequence of up to three tokens of a tiny vocabulary."""
  config = dataclasses.replace(tiny_config, vocab_size=5, num_kv_heads=2)
  model, params = Transformer(config), make_params(config)
  encoder_tokens = make_batch(config, batch=1)['encoder_input_tokens']
  alpha, length = 0.6, 3
  everything = np.array(list(itertools.product(range(5), repeat=length)))
  logits = teacher_forced(
    model,
    params,
    np.repeat(encoder_tokens, len(everything), axis=0),
    everything.astype(np.int32),
  )
  log_probs = np.asarray(jax.nn.log_softmax(logits))
  scores = {}
  for row, tokens in zip(log_probs, everything, strict=True):
    if 1 not in tokens:
      continue
    n = list(tokens).index(1) + 1
    total = sum(row[i, tokens[i]] for i in range(n))
    key = (*map(int, tokens[:n]), *(0,) * (length - n))
    scores[key] = total / ((5 + n) / 6) ** alpha
  best = sorted(scores, key=scores.get)[-3:]

  tokens, found = beam_search(
    model, params, encoder_tokens, length, beam_size=25, alpha=alpha
  )
  assert [tuple(map(int, t)) for t in tokens[0, -3:]] == best
  np.testing.assert_allclose(
    found[0, -3:], [scores[b] for b in best], atol=1e-4
  )


def test_bad_arguments_are_refused(golden):
  tokens = golden.batch['encoder_input_tokens']
  with pytest.raises(ValueError, match='max_decode_length is 0'):
    greedy_decode(golden.model, golden.params, tokens, 0)
  with pytest.raises(ValueError, match='beam_size is 0'):
    beam_search(golden.model, golden.params, tokens, 5, beam_size=0)
  with pytest.raises(ValueError, match='temperature above 0'):
    Temperature(0.0)
