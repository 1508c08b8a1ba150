"""The programs that are timed, against the functions that decode."""

import dataclasses

import jax
import numpy as np
import pytest

from gqa_flax import Greedy, Transformer, partitioning, sample_decode
from gqa_flax.config import T5Config
from gqa_flax.partitioning import MeshShape
from gqa_flax.timing import decoding
from gqa_flax.timing.decoding import Decoding

B, S, T = 8, 7, 5


@pytest.mark.slow
@pytest.mark.parametrize('sizes', [(8, 1, 1), (2, 1, 4), (1, 1, 8)])
@pytest.mark.parametrize('layout', decoding.LAYOUTS)
def test_programs_decode_what_decoding_does(
  sizes, layout, tiny_config, make_params
):
  """On any mesh, and whatever is encoded at once; EOS does not stop them."""
  config = dataclasses.replace(
    tiny_config, num_kv_heads=2, cache_sharding=layout
  )
  params = make_params(config)
  tokens = np.random.default_rng(0).integers(2, 64, (B, S), np.int32)
  expected = sample_decode(
    Transformer(config), params, tokens, T, Greedy(), stop_at_eos=False
  )
  rows = 8 if sizes[0] == 8 else 4
  work = Decoding(config, B, S, T, rows, 'float32')
  mesh = partitioning.make_mesh(MeshShape(*sizes))
  run = {
    name: decoding.lower(work, mesh, name).compile()
    for name in ('encode', 'decode')
  }
  shapes = decoding.arguments(work, mesh)
  params = jax.device_put(
    params, jax.tree.map(lambda x: x.sharding, shapes['decode'][0])
  )
  encoded = [
    np.asarray(
      run['encode'](params, jax.device_put(part, shapes['encode'][1].sharding))
    )
    for part in np.split(tokens, work.parts)
  ]
  encoded, placed = (
    jax.device_put(x, shape.sharding)
    for x, shape in zip((np.concatenate(encoded), tokens), shapes['decode'][1:])
  )
  found = run['decode'](params, encoded, placed)
  np.testing.assert_array_equal(found, expected)


def test_parameters_are_held_in_the_dtype_that_is_asked_for(tiny_config):
  mesh = partitioning.make_mesh(MeshShape(1, 1, 8))
  params = decoding.prepared_params(tiny_config, 'bfloat16', mesh)
  assert {x.dtype.name for x in jax.tree.leaves(params)} == {'bfloat16'}


def test_the_encoder_takes_as_many_rows_as_its_attention_leaves_room_for():
  xxl = T5Config.t5_1_1('xxl')
  # 64 heads of 2048 x 2048 float32 are 1 GiB a sequence.
  assert decoding.rows_at_once(xxl, 256, 2048, 8, 1) == 16
  assert decoding.rows_at_once(xxl, 256, 2048, 1, 8) == 16
  # No more than a divisor, and not fewer than one for each part of the batch.
  assert decoding.rows_at_once(xxl, 24, 2048, 8, 1) == 8
  assert decoding.rows_at_once(xxl, 8, 65536, 8, 1) == 8
  # A batch that the parts do not divide is whole on each.
  assert decoding.rows_at_once(xxl, 3, 64, 8, 1) == 3


def test_meshes_and_layouts(tiny_config):
  found = decoding.meshes(tiny_config, 8)
  assert found == [(1, 1, 8), (2, 1, 4), (4, 1, 2), (8, 1, 1)]
  assert decoding.meshes(tiny_config, 8, MeshShape(model=4)) == [(2, 1, 4)]
  assert decoding.meshes(tiny_config, 8, MeshShape(2, 2, 2)) == [(2, 2, 2)]
  # Six heads are not divided by eight, unless it is asked for.
  small = T5Config.t5_1_1('small')
  assert decoding.meshes(small, 8) == [(4, 1, 2), (8, 1, 1)]
  assert decoding.meshes(small, 8, MeshShape(model=8)) == [(1, 1, 8)]
  with pytest.raises(ValueError, match='No mesh of data=3, .* 8 devices'):
    decoding.meshes(tiny_config, 8, MeshShape(data=3))
  assert decoding.layouts(tiny_config, (2, 1, 4)) == ('heads', 'batch')
  assert decoding.layouts(tiny_config, (8, 1, 1)) == ('heads',)
  chosen = dataclasses.replace(tiny_config, cache_sharding='batch')
  assert decoding.layouts(chosen, (2, 1, 4)) == ('batch',)


@pytest.mark.parametrize(
  ('sizes', 'sentence'),
  [
    ((0, 7, 5, 1), 'The batch_size of what is decoded is 0; give 1 or more.'),
    ((8, 7, 0, 8), 'The target_length of what is decoded is 0'),
    ((8, 7, 5, 3), 'A batch of 8 cannot be encoded in parts of 3'),
  ],
)
def test_what_cannot_be_decoded_is_one_sentence(sizes, sentence, tiny_config):
  with pytest.raises(ValueError, match=sentence):
    Decoding(tiny_config, *sizes)


def test_an_unknown_dtype_is_one_sentence(tiny_config):
  with pytest.raises(ValueError, match="param_dtype is 'int4'; set it"):
    Decoding(tiny_config, 8, 7, 5, 8, 'int4')


def test_it_goes_through_json(tiny_config):
  work = Decoding(tiny_config, 8, 7, 5, 4)
  assert Decoding.from_dict(work.to_dict()) == work
