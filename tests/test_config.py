import json

import jax.numpy as jnp
import pytest

from gqa_flax.config import SIZES, T5Config, divisors


def test_named_sizes_are_t5_1_1s():
  xxl = T5Config.t5_1_1('xxl', num_kv_heads=8)
  assert (xxl.emb_dim, xxl.num_heads, xxl.head_dim) == (4096, 64, 64)
  assert (xxl.mlp_dim, xxl.num_encoder_layers) == (10240, 24)
  assert (xxl.num_kv_heads, xxl.vocab_size) == (8, 32128)
  assert list(SIZES) == ['mini', 'small', 'base', 'large', 'xl', 'xxl']


def test_multi_head_is_the_default():
  assert T5Config(vocab_size=128, num_heads=6).num_kv_heads == 6


def test_survives_json():
  config = T5Config.t5_1_1('small', num_kv_heads=3, dtype=jnp.bfloat16)
  assert config.dtype == 'bfloat16'
  assert T5Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
  hash(config)  # it is static to jax.jit


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'num_kv_heads': 3}, r'3, which does not divide num_heads = 8; .*1, 2, 4'),
    ({'emb_dim': 0}, 'emb_dim is 0'),
    ({'mlp_dim': 2.5}, 'mlp_dim is 2.5'),
    ({'dtype': 'float16'}, "dtype is 'float16'"),
    ({'dropout_rate': 1.0}, 'dropout_rate is 1.0'),
    ({'remat_policy': 'some'}, "remat_policy is 'some'"),
    ({'cache_dtype': 'int4'}, r"cache_dtype is 'int4'; .*'auto', 'int8'"),
    ({'mlp_activations': ('gleu',)}, "mlp_activations holds 'gleu'"),
  ],
)
def test_refuses_what_is_no_model(fields, message):
  with pytest.raises(ValueError, match=message):
    T5Config(vocab_size=128, **fields)


def test_how_it_runs_is_no_part_of_an_architecture():
  config = T5Config(vocab_size=128)
  other = T5Config(
    vocab_size=128,
    dtype='bfloat16',
    dropout_rate=0.0,
    remat_policy='full',
    cache_sharding='batch',
    cache_dtype='int8',
  )
  assert other.architecture() == config.architecture()
  assert 'num_kv_heads' in config.architecture()


def test_unknown_size_names_the_nearest():
  with pytest.raises(ValueError, match="Did you mean 'small'"):
    T5Config.t5_1_1('smal')


def test_divisors():
  assert divisors(12) == [1, 2, 3, 4, 6, 12]
