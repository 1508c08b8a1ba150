"""One table of names, read in both directions."""

import dataclasses

import pytest

from gqa_flax.checkpoints import names
from gqa_flax.checkpoints.architecture import parameter_shapes

T5_1_0 = {'mlp_activations': ('relu',), 'logits_via_embedding': True}


@pytest.mark.parametrize('fields', [{}, T5_1_0], ids=['t5_1_1', 't5_1_0'])
def test_the_table_is_a_bijection(tiny_config, fields):
  config = dataclasses.replace(tiny_config, **fields, num_decoder_layers=11)
  ours = parameter_shapes(config)
  theirs = {names.to_hugging_face(name)[0] for name in ours}
  assert len(theirs) == len(ours)
  for name in ours:
    other, transposed = names.to_hugging_face(name)
    assert names.from_hugging_face(other) == (name, transposed)


@pytest.mark.parametrize(
  'ours,theirs,transposed',
  [
    ('token_embedder/embedding', 'shared.weight', False),
    ('decoder/logits_dense/kernel', 'lm_head.weight', True),
    ('encoder/encoder_norm/scale', 'encoder.final_layer_norm.weight', False),
    (
      'decoder/relpos_bias/rel_embedding',
      'decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight',
      True,
    ),
    (
      'decoder/layers_10/encoder_decoder_attention/value/kernel',
      'decoder.block.10.layer.1.EncDecAttention.v.weight',
      True,
    ),
    (
      'decoder/layers_3/pre_cross_attention_layer_norm/scale',
      'decoder.block.3.layer.1.layer_norm.weight',
      False,
    ),
    (
      'encoder/layers_2/mlp/wi_1/kernel',
      'encoder.block.2.layer.1.DenseReluDense.wi_1.weight',
      True,
    ),
  ],
)
def test_known_names(ours, theirs, transposed):
  assert names.to_hugging_face(ours) == (theirs, transposed)
  assert names.from_hugging_face(theirs) == (ours, transposed)


@pytest.mark.parametrize(
  'name',
  [
    *names.SKIPPED,
    'decoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight',
    'decoder.block.01.layer.1.EncDecAttention.v.weight',
    'decoder.block.{i}.layer.1.EncDecAttention.v.weight',
    'decoder.block.0.layer.1.EncDecAttention.v.bias',
    'encoder.block.0.layer.1.EncDecAttention.v.weight',
  ],
)
def test_what_is_no_parameter(name):
  assert names.from_hugging_face(name) is None


def test_a_name_that_t5_does_not_have():
  with pytest.raises(ValueError, match='encoder/layers_0/mlp/wi_2/kernel has'):
    names.to_hugging_face('encoder/layers_0/mlp/wi_2/kernel')
