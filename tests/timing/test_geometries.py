"""Parameters counted from configs: the model's own, and published totals."""

import dataclasses
import math
import re

import pytest

from gqa_flax.checkpoints.architecture import parameter_shapes
from gqa_flax.config import SIZES, T5Config
from gqa_flax.timing.geometries import GEOMETRIES, num_params, t5_param_parts

# Of the released safetensors files.
PUBLISHED = {
  'llama-2-7b': 6_738_415_616,
  'llama-2-13b': 13_015_864_320,
  'llama-2-34b': 33_743_970_304,
  'llama-2-70b': 68_976_648_192,
  'llama-3-8b': 8_030_261_248,
  'llama-3-70b': 70_553_706_496,
  'qwen2.5-0.5b': 494_032_768,
  'qwen2.5-7b': 7_615_616_512,
  'qwen2.5-32b': 32_763_876_352,
}

PARTS = {
  'token_embedder/.*': 'embedding',
  'encoder/.*': 'encoder',
  'decoder/.*/encoder_decoder_attention/(key|value)/.*': 'cross_keys_values',
  'decoder/logits_dense/.*': 'head',
  'decoder/.*': 'decoder',
}


@pytest.mark.parametrize('name', GEOMETRIES)
def test_decoders_have_as_many_parameters_as_published(name):
  assert num_params(GEOMETRIES[name]) == PUBLISHED[name]
  config = GEOMETRIES[name]
  assert config.num_heads * config.head_dim == config.emb_dim


def parts_of_the_model(config):
  """Sums the shapes of the model itself by the first pattern that fits."""
  counts = dict.fromkeys(PARTS.values(), 0)
  for name, shape in parameter_shapes(config).items():
    part = next(part for p, part in PARTS.items() if re.fullmatch(p, name))
    counts[part] += math.prod(shape)
  return counts


@pytest.mark.parametrize(
  ('size', 'overrides'),
  [
    *((size, {}) for size in SIZES),
    ('small', {'num_kv_heads': 2, 'num_decoder_layers': 5}),
    ('small', {'logits_via_embedding': True, 'mlp_activations': ('relu',)}),
    ('xxl', {'num_kv_heads': 8}),
  ],
)
def test_t5_has_the_models_parameters_part_by_part(size, overrides):
  config = T5Config.t5_1_1(size, **overrides)
  expected = parts_of_the_model(config)
  assert t5_param_parts(config) == expected
  assert num_params(config) == sum(expected.values())


def test_t5_1_1_xxl_is_as_published():
  """The 11B of Raffel et al.; google/t5-v1_1-xxl to the parameter."""
  assert num_params(T5Config.t5_1_1('xxl')) == 11_135_332_352


def test_biases_and_a_tied_embedding_by_hand():
  config = dataclasses.replace(
    GEOMETRIES['qwen2.5-0.5b'],
    **dict(num_layers=1, emb_dim=4, num_heads=2, num_kv_heads=1, head_dim=3),
    **dict(mlp_dim=5, vocab_size=7),
  )
  kernels = 4 * 6 + 6 * 4 + 2 * 4 * 3 + 3 * 4 * 5
  biases = 6 + 3 + 3
  assert num_params(config) == kernels + biases + 2 * 4 + 4 + 7 * 4
  untied = dataclasses.replace(config, tied_embedding=False, qkv_bias=False)
  assert num_params(untied) == kernels + 2 * 4 + 4 + 2 * 7 * 4


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    (
      {'num_kv_heads': 6},
      r'num_kv_heads is 6, which does not divide num_heads = 40; choose one of '
      r'\[1, 2, 4, 5, 8, 10, 20, 40\]',
    ),
    ({'num_layers': 0}, 'num_layers is 0; set it to 1 or more'),
  ],
)
def test_a_geometry_that_cannot_be_is_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(GEOMETRIES['qwen2.5-32b'], **fields)
