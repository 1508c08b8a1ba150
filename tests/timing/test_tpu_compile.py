"""Whole steps compiled for chips that are not here, against what must hold."""

import dataclasses
import math

import jax
import pytest

from gqa_flax import partitioning
from gqa_flax.config import T5Config
from gqa_flax.timing import roofline, tpu_compile
from gqa_flax.timing.chips import CHIPS, Slice
from gqa_flax.timing.cost import Cost
from gqa_flax.timing.decoding import Decoding
from gqa_flax.timing.flops import forward_flops, training_flops
from gqa_flax.timing.programs import TrainStep, arguments

WHERE = Slice.parse('v4:2x2x2')
MESH = (2, 2, 2)
STEP = TrainStep(
  T5Config(
    vocab_size=512,
    emb_dim=256,
    num_heads=4,
    num_kv_heads=2,
    head_dim=128,
    mlp_dim=512,
    num_encoder_layers=1,
    num_decoder_layers=1,
    dtype='bfloat16',
    remat_policy='full',
    dropout_rate=0.0,
  ),
  batch_size=8,
  source_length=128,
  target_length=64,
)
SIZES = STEP.batch_size, STEP.source_length, STEP.target_length

needs_compiler = pytest.mark.skipif(
  not tpu_compile.available(),
  reason='libtpu is not installed; it is for Linux on x86-64',
)


@pytest.fixture(scope='module')
def on_eight():
  """One step on eight chips, in two microbatches: a loop."""
  step = dataclasses.replace(STEP, microbatches=2)
  return tpu_compile.compile_train_step(step, WHERE, MESH)


@pytest.fixture(scope='module')
def on_one():
  return tpu_compile.compile_train_step(STEP, WHERE, (1, 1, 1))


def arguments_and_bytes(sizes):
  """Returns each argument of a chip, and its bytes as the shardings say."""
  shape = partitioning.MeshShape(*sizes)
  devices = jax.devices()[: math.prod(sizes)]
  mesh = partitioning.make_mesh(shape, devices=devices)
  return [
    (x, math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize)
    for x in jax.tree.leaves(arguments(STEP, mesh))
  ]


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize(
  ('fixture', 'sizes'), [('on_eight', MESH), ('on_one', (1, 1, 1))]
)
def test_a_chip_holds_what_the_shardings_say(fixture, sizes, request):
  cost = request.getfixturevalue(fixture)
  found = arguments_and_bytes(sizes)
  expected = sum(size for _, size in found)
  # Only what is smaller than a tile of memory is padded to one.
  small = sum(size < 4096 for _, size in found)
  assert expected <= cost.argument_bytes <= expected + 512 * small
  # The padding could not hide one matrix that is divided otherwise.
  assert 512 * small < min(s for x, s in found if x.ndim == 2 and x.size > 4096)


@pytest.mark.slow
@needs_compiler
def test_state_is_donated(on_eight, on_one):
  for cost in (on_eight, on_one):
    assert cost.fits and cost.total_bytes < cost.chip.hbm_bytes
    # All but the batch, and out come the metrics besides.
    assert 0.95 * cost.argument_bytes < cost.alias_bytes < cost.argument_bytes
    assert cost.output_bytes < 1.05 * cost.alias_bytes


@pytest.mark.slow
@needs_compiler
def test_flops_are_the_closed_form_and_a_second_forward_pass(on_eight, on_one):
  # What is computed again: the layers, and not the output head.
  head = 2 * STEP.batch_size * STEP.target_length * 256 * 512
  expected = training_flops(STEP.config, *SIZES)
  expected += forward_flops(STEP.config, *SIZES) - head
  assert on_one.flops == pytest.approx(expected, rel=0.03)
  assert on_eight.flops == pytest.approx(on_one.flops / 8, rel=0.01)


@pytest.mark.slow
@needs_compiler
def test_the_compilers_own_count_agrees_where_nothing_loops(on_eight, on_one):
  assert on_one.compiler_flops == pytest.approx(on_one.flops, rel=0.05)
  # And is of one microbatch where there are two.
  assert on_eight.compiler_flops == pytest.approx(on_eight.flops / 2, rel=0.05)


@pytest.mark.slow
@needs_compiler
def test_chips_exchange_what_they_must_and_one_chip_nothing(on_eight, on_one):
  kinds = on_eight.collectives
  # Kernels divided over `fsdp` are gathered; gradients and the partial
  # products of `model` are summed.
  assert kinds['all-gather']['count'] > 0
  summed = kinds['all-reduce']['count']
  summed += kinds.get('reduce-scatter', {'count': 0})['count']
  assert summed > 0
  assert on_eight.collective_seconds > 0
  assert on_one.collectives == {} and on_one.collective_seconds == 0


@pytest.mark.slow
@needs_compiler
def test_estimates_are_above_their_bounds(on_eight, on_one):
  for cost in (on_eight, on_one):
    assert cost.core_seconds > cost.compute_seconds > 0
    bounds = cost.compute_seconds, cost.memory_seconds, cost.collective_seconds
    assert max(bounds) <= cost.step_seconds() <= cost.step_seconds(False)
    flops = training_flops(STEP.config, *SIZES)
    assert 0 < cost.model_flops_utilisation(flops) < 1
  assert on_one.cycles > on_eight.cycles > 0


@needs_compiler
def test_a_program_that_only_its_compiler_can_read_is_read():
  """On v5p the SparseCores look embeddings up, once there are many."""
  config = dataclasses.replace(STEP.config, vocab_size=32128, emb_dim=512)
  sizes = {'batch_size': 32, 'source_length': 128, 'target_length': 4}
  encoding = Decoding(config, encoded_rows=32, **sizes)
  where = Slice.parse('v5p-8')
  costs = tpu_compile.compile_decoding(encoding, where, (1, 1, 1), ['encode'])
  # Logits are computed twice, and values have a column of ones.
  twice = 2 * 32 * config.num_heads * 128**2 * (config.head_dim + 1)
  expected = roofline.encode(config, 32, 128).flops + twice
  assert costs['encode'].flops == pytest.approx(expected, rel=0.01)
  assert costs['encode'].core_seconds > costs['encode'].compute_seconds


@needs_compiler
def test_a_mesh_that_is_not_the_slices_is_an_error():
  with pytest.raises(RuntimeError, match='No mesh of data=3'):
    tpu_compile.compile_train_step(STEP, WHERE, (3, 1, 1))


def cost(**fields):
  common = {
    'slice': 'v4:2x2x2',
    'mesh': (2, 2, 2),
    'fits': True,
    'compile_seconds': 1.0,
    'compile_peak_bytes': 1,
  }
  return Cost(**common | fields)


def test_seconds_by_hand():
  found = cost(
    argument_bytes=400_000_000,
    output_bytes=200_000_000,
    temporary_bytes=300_000_000,
    flops=2.75e12,
    cycles=0.02 * 1.05e9,
    collectives={
      'all-gather': {'count': 2, 'bytes': 4e9, 'sent_bytes': 3e9},
      'all-reduce': {'count': 1, 'bytes': 2e9, 'sent_bytes': 3e9},
    },
  )
  assert found.compute_seconds == pytest.approx(0.01)
  assert found.memory_seconds == pytest.approx(0.001)
  assert found.core_seconds == pytest.approx(0.02)
  assert found.collective_seconds == pytest.approx(0.02)
  assert found.step_seconds() == pytest.approx(0.02)
  assert found.step_seconds(overlap=False) == pytest.approx(0.04)
  # 8 chips could do 44 TFLOP in 20 ms.
  assert found.model_flops_utilisation(11e12) == pytest.approx(0.25)
  assert Cost.from_dict(found.to_dict()) == found


def test_memory_counts_donated_bytes_once():
  found = cost(
    argument_bytes=10,
    output_bytes=9,
    alias_bytes=8,
    temporary_bytes=5,
    code_bytes=1,
  )
  assert found.total_bytes == 10 + 9 - 8 + 5 + 1


@pytest.mark.parametrize(
  ('message', 'expected'),
  [
    (
      'RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, '
      'the total memory required for HLO temporaries (105.90G) exceeds '
      'available HBM (30.75G). HLO module: jit_step.',
      round((105.90 - 30.75) * 2**30),
    ),
    (
      'RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 31.16G '
      'of 30.75G hbm. Exceeded hbm capacity by 419.84M.',
      round(419.84 * 2**20),
    ),
    ('RESOURCE_EXHAUSTED: something else', None),
  ],
)
def test_how_far_a_program_was_over(message, expected):
  found = tpu_compile.bytes_over(message)
  assert found == (expected and pytest.approx(expected, abs=1))


def test_steps_go_through_json():
  assert TrainStep.from_dict(STEP.to_dict()) == STEP


def test_slices_by_name():
  found = Slice.parse('v5e:16x16')
  assert (found.generation, found.num_chips) == ('v5e', 256)
  assert found.name == 'v5e:16x16' and found.chip is CHIPS['v5e']
  for name in ('v4', 'v4-15', 'v4-24', 'v9:2x2', 'v4:8', 'v4:0x2x2', 'v9-8'):
    with pytest.raises(ValueError, match=f'no TPU slice {name!r}'):
      Slice.parse(name)


@pytest.mark.parametrize(
  ('name', 'shape', 'host_bounds'),
  [
    ('v4-8', (2, 2, 1), (2, 2, 1)),
    ('v4-16', (2, 2, 2), (2, 2, 1)),
    ('v4-1024', (8, 8, 8), (2, 2, 1)),
    ('v5p-8', (2, 2, 1), (2, 2, 1)),
    ('v5e-8', (2, 4), (2, 4, 1)),
    ('v6e-256', (16, 16), (2, 2, 1)),
  ],
)
def test_slices_by_what_their_names_count(name, shape, host_bounds):
  found = Slice.parse(name)
  assert found.shape == shape and found.host_bounds == host_bounds
  cores = 2 if name.startswith(('v4', 'v5p')) else 1
  assert found.num_chips * cores == int(name.split('-')[1])


@pytest.mark.parametrize(
  ('name', 'flops_a_cycle'),
  [
    ('v4', 8 * 2 * 128**2),
    ('v5p', 8 * 2 * 128**2),
    ('v5e', 4 * 2 * 128**2),
    ('v6e', 16 * 2 * 128**2),
  ],
)
def test_the_clock_times_the_matrix_units_is_the_peak(name, flops_a_cycle):
  chip = CHIPS[name]
  assert chip.clock * flops_a_cycle == pytest.approx(chip.peak_flops, rel=0.005)
