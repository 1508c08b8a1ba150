"""Sizes read from shapes, for architectures whose shapes are known."""

import dataclasses

import pytest

from gqa_flax.checkpoints.architecture import (
  check_shapes,
  infer_config,
  parameter_shapes,
)
from gqa_flax.config import T5Config

# All sizes differ, so that none can be taken for another.
GROUPED = T5Config(
  vocab_size=100,
  emb_dim=24,
  num_heads=6,
  num_kv_heads=2,
  head_dim=5,
  mlp_dim=36,
  num_encoder_layers=3,
  num_decoder_layers=2,
)
CONFIGS = {
  'grouped': GROUPED,
  'multi_head': dataclasses.replace(GROUPED, num_kv_heads=6),
  'multi_query': dataclasses.replace(GROUPED, num_kv_heads=1),
  'tied': dataclasses.replace(GROUPED, logits_via_embedding=True),
  't5_1_0': dataclasses.replace(
    GROUPED, logits_via_embedding=True, mlp_activations=('relu',)
  ),
  'many_layers': dataclasses.replace(
    GROUPED, num_encoder_layers=1, num_decoder_layers=11
  ),
  'xxl': T5Config.t5_1_1('xxl', num_encoder_layers=1, num_decoder_layers=1),
  'small': T5Config.t5_1_1('small', num_encoder_layers=1, num_decoder_layers=1),
}
KEY = 'decoder/layers_0/self_attention/key/kernel'
QUERY = 'encoder/layers_0/attention/query/kernel'
BIAS = 'encoder/relpos_bias/rel_embedding'


@pytest.mark.parametrize('name', CONFIGS)
def test_the_config_is_read_from_its_shapes(name):
  config = CONFIGS[name]
  shapes = parameter_shapes(config)
  assert infer_config(shapes, 'here') == config
  assert infer_config(shapes, 'here', vocab_size=config.vocab_size) == config


def test_shapes_by_hand():
  shapes = parameter_shapes(GROUPED)
  assert shapes[KEY] == (24, 10)
  assert shapes[QUERY] == shapes['encoder/layers_2/attention/key/kernel']
  assert shapes[QUERY] == (24, 30)
  assert shapes['decoder/layers_1/encoder_decoder_attention/out/kernel'] == (
    30,
    24,
  )
  assert shapes['encoder/layers_0/mlp/wi_1/kernel'] == (24, 36)
  assert shapes['token_embedder/embedding'] == (100, 24)
  assert shapes['decoder/logits_dense/kernel'] == (24, 100)
  assert shapes[BIAS][0] == 6
  assert 'decoder/logits_dense/kernel' not in parameter_shapes(CONFIGS['tied'])
  plain = parameter_shapes(CONFIGS['t5_1_0'])
  assert plain['encoder/layers_0/mlp/wi/kernel'] == (24, 36)
  assert 'encoder/layers_0/mlp/wi_0/kernel' not in plain


def changed(**shapes):
  """The grouped config's shapes, some replaced; None takes one away."""
  result = {**parameter_shapes(GROUPED), **shapes}
  return {name: shape for name, shape in result.items() if shape is not None}


@pytest.mark.parametrize(
  'change, message',
  [
    (
      {'token_embedder/embedding': None},
      'here has no token_embedder/embedding',
    ),
    ({BIAS: None}, f'here has no {BIAS}'),
    ({QUERY: None}, f'here has no {QUERY}'),
    ({KEY: None}, f'here has no {KEY}, so its sizes cannot be read; give a wh'),
    ({KEY: (24, 2, 5)}, rf'{KEY} in here has shape \(24, 2, 5\) where 2 axes'),
    ({KEY: (24, 11)}, '6 rows of relative bias, .* width 30 and .* width 11'),
    ({BIAS: (7, 32)}, '7 rows of relative bias, query kernels of width 30'),
    ({BIAS: (60, 32)}, '60 rows of relative bias, query kernels of width 30'),
    ({KEY: (24, 20)}, 'num_kv_heads'),
    ({KEY: (24, 35)}, 'num_kv_heads'),
    (
      {'decoder/logits_dense/kernel': (24, 99)},
      '100 rows but an output head .* for 99 ids; both must have the same',
    ),
    (
      {'encoder/layers_0/mlp/wi_0/kernel': None},
      'here has no encoder/layers_0/mlp/wi/kernel',
    ),
  ],
)
def test_sizes_that_cannot_be_read_or_contradict(change, message):
  with pytest.raises(ValueError, match=message):
    infer_config(changed(**change), 'here')


def test_a_config_file_with_another_vocabulary():
  with pytest.raises(ValueError, match='of 100 rows, but .* vocab_size 128;'):
    infer_config(parameter_shapes(GROUPED), 'here', vocab_size=128)


def test_stacks_without_layers():
  shapes = {
    name: shape
    for name, shape in parameter_shapes(GROUPED).items()
    if not name.startswith('encoder/layers')
  }
  with pytest.raises(ValueError, match=f'here has no {QUERY}'):
    infer_config(shapes, 'here')


def test_all_that_is_wrong_is_said_at_once():
  out = 'decoder/layers_1/encoder_decoder_attention/out/kernel'
  scale = 'encoder/encoder_norm/scale'
  shapes = changed(
    **{
      out: (24, 30),
      scale: None,
      'decoder/layers_0/bias': (3,),
    }
  )
  with pytest.raises(ValueError) as error:
    infer_config(shapes, 'here')
  text = str(error.value)
  assert f'{scale} is missing; ' in text
  assert 'decoder/layers_0/bias is not a parameter of this architecture' in text
  assert f'{out} has shape (24, 30) instead of (30, 24)' in text
  assert '3+2 layers, width 24, 6 heads of 5, 2 key/value heads' in text
  assert 'more' not in text and '\n' not in text


def test_a_long_list_is_cut():
  shapes = parameter_shapes(dataclasses.replace(GROUPED, num_encoder_layers=1))
  missing = parameter_shapes(GROUPED).keys() - shapes.keys()
  with pytest.raises(ValueError, match=f'; and {len(missing) - 8} more. Give'):
    check_shapes(shapes, GROUPED, 'here')


def test_a_lost_layer_is_told():
  """Layers 0 and 2 make three layers, of which one is missing."""
  shapes = {
    name: shape
    for name, shape in parameter_shapes(GROUPED).items()
    if 'encoder/layers_1/' not in name
  }
  with pytest.raises(ValueError, match='encoder/layers_1/.* is missing'):
    infer_config(shapes, 'here')
