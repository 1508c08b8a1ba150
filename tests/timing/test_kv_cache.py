"""Sizes of caches against published figures, and batches by hand."""

import dataclasses

import pytest

from gqa_flax.config import T5Config
from gqa_flax.timing import kv_cache
from gqa_flax.timing.chips import CHIPS
from gqa_flax.timing.geometries import GEOMETRIES, num_params

V4 = CHIPS['v4']
XXL = T5Config.t5_1_1('xxl')


@pytest.mark.parametrize(
  ('name', 'kilobytes'),
  [
    ('llama-2-7b', 512),
    ('llama-2-70b', 320),
    ('llama-3-8b', 128),
    ('llama-3-70b', 320),
    ('qwen2.5-7b', 56),
    ('qwen2.5-32b', 256),
  ],
)
def test_bytes_a_token_are_the_known_ones(name, kilobytes):
  config = GEOMETRIES[name]
  assert kv_cache.cache_bytes(config, 1, 1) == 1024 * kilobytes
  assert kv_cache.cache_bytes(config, 1, 1, value_width=1) == 512 * kilobytes
  assert kv_cache.cache_bytes(config, 3, 7) == 21 * 1024 * kilobytes


def test_eight_of_forty_heads_are_a_fifth():
  sizes = kv_cache.compare(
    GEOMETRIES['qwen2.5-32b'], (40, 8, 1), 2, 4096, V4, 8
  )
  assert [size.attention for size in sizes] == ['MHA', 'GQA-8', 'MQA']
  assert [size.share for size in sizes] == [1, 0.2, 0.025]
  mha = sizes[0]
  for size in sizes:
    assert size.token_bytes == size.share * mha.token_bytes
    assert size.sequence_bytes == 4096 * size.token_bytes
    assert size.batch_bytes == 2 * size.sequence_bytes
  # Keys' and values' kernels and biases of 64 layers shrink with the heads.
  assert mha.num_params - sizes[1].num_params == 64 * 2 * 5121 * 32 * 128


@pytest.mark.parametrize(
  ('num_kv_heads', 'largest'), [(64, 250), (8, 2029), (1, 16261)]
)
def test_the_largest_batch_of_xxl_fits_and_one_more_does_not(
  num_kv_heads, largest
):
  config = dataclasses.replace(XXL, num_kv_heads=num_kv_heads)
  assert kv_cache.largest_batch(config, 2048 + 512, V4, 8) == largest
  room = 8 * 32 * 2**30 - 2 * num_params(config)
  sequence = 2 * 2 * 24 * num_kv_heads * 64 * 2560
  assert largest * sequence <= room < (largest + 1) * sequence


def test_what_does_not_fit_is_told_apart():
  """Parameters of 22.3 GB fit a v4 (34.4 GB), not a v5e (17.2 GB)."""
  assert not kv_cache.params_fit(XXL, CHIPS['v5e'])
  assert kv_cache.params_fit(XXL, CHIPS['v5e'], param_width=1)
  assert kv_cache.params_fit(XXL, V4)
  assert kv_cache.largest_batch(XXL, 2560, CHIPS['v5e']) == 0
  assert kv_cache.largest_batch(XXL, 2560, V4) == 12
  assert kv_cache.largest_batch(XXL, 40_000, V4) == 0
  (size,) = kv_cache.compare(XXL, (64,), 1, 40_000, V4)
  assert size.params_fit and size.largest_batch == 0


@pytest.mark.parametrize(
  ('config', 'expected'),
  [
    (XXL, [64, 8, 1]),
    (T5Config.t5_1_1('xxl', num_kv_heads=16), [64, 16, 1]),
    (T5Config.t5_1_1('small'), [6, 3, 1]),
    (T5Config.t5_1_1('mini'), [8, 4, 1]),
    (GEOMETRIES['llama-2-13b'], [40, 8, 1]),
    (GEOMETRIES['qwen2.5-7b'], [28, 4, 1]),
    (T5Config(vocab_size=8, num_heads=7), [7, 1]),
    (T5Config(vocab_size=8, num_heads=1), [1]),
  ],
)
def test_usual_heads_keep_what_was_published(config, expected):
  assert kv_cache.usual_kv_heads(config) == expected


def test_heads_that_do_not_divide_are_refused():
  with pytest.raises(ValueError, match='does not divide num_heads = 64'):
    kv_cache.compare(XXL, (64, 7), 1, 1, V4)
