"""Estimates of decoding: by hand, and by the compiler against the roofline."""

import dataclasses

import pytest

from gqa_flax.config import T5Config
from gqa_flax.partitioning import MeshShape
from gqa_flax.timing import estimate, roofline, tpu_compile
from gqa_flax.timing.chips import CHIPS, Slice
from gqa_flax.timing.cost import Cost
from gqa_flax.timing.decoding import Decoding
from gqa_flax.timing.estimate import Estimate

WHERE = Slice.parse('v4-16')
CHIP = CHIPS['v4']
LENGTHS = {'inputs': 2048, 'targets': 512}
XXL = T5Config.t5_1_1('xxl', num_kv_heads=8, dtype='bfloat16')

needs_compiler = pytest.mark.skipif(
  not tpu_compile.available(),
  reason='libtpu is not installed; it is for Linux on x86-64',
)


def cost(core=0.0, sent=0.0, mesh=(1, 1, 8), **fields):
  """A made-up cost: seconds of cores and of exchanges."""
  return Cost(
    slice=WHERE.name,
    mesh=mesh,
    **{'fits': True, **fields},
    cycles=core * CHIP.clock,
    collectives={
      'all-reduce': {
        'count': 1,
        'bytes': 1.0,
        'sent_bytes': sent * CHIP.ici_bandwidth,
      }
    },
  )


def test_phases_and_seconds_a_sample_by_hand():
  found = Estimate(
    decoding=Decoding(XXL, 256, 2048, 512, encoded_rows=64),
    encode=cost(core=2.0, sent=0.5),
    decode=cost(core=1.0 + 512 * 0.01, sent=0.1 + 512 * 0.002),
    step=cost(core=0.01, sent=0.002),
  )
  assert found.core_seconds() == pytest.approx(
    {'encode': 8.0, 'fill_cache': 1.0, 'steps': 5.12}
  )
  assert found.exchange_seconds() == pytest.approx(
    {'encode': 2.0, 'fill_cache': 0.1, 'steps': 1.024}
  )
  # Eight chips, 256 samples.
  assert found.a_sample(found.seconds()) == pytest.approx(17.244 * 8 / 256)
  assert found.batch_per_chip == 32
  assert Estimate.from_dict(found.to_dict()) == found


def test_the_bound_is_the_rooflines():
  found = Estimate(
    decoding=Decoding(XXL, 256, 2048, 512, encoded_rows=64),
    encode=cost(),
    decode=cost(),
    step=cost(),
  )
  bound = found.bound_seconds()
  # FACTS of the paper's set-up: 4.4 ms a step.
  assert bound['steps'] / 512 == pytest.approx(4.37e-3, rel=0.002)
  assert bound['encode'] == roofline.encode(XXL, 256, 2048).seconds(CHIP, 8)
  wide = dataclasses.replace(
    found, decoding=dataclasses.replace(found.decoding, param_dtype='float32')
  )
  assert wide.bound_seconds()['steps'] > bound['steps']


@pytest.mark.parametrize(
  'num_kv_heads, layout, mesh, kernel_parts, cache_parts',
  [
    (8, 'heads', (1, 1, 8), 8, 8),
    (8, 'batch', (2, 1, 4), 4, 8),
    (8, 'heads', (4, 2, 1), 1, 8),
    # One head is copied to all parts where heads are divided.
    (1, 'heads', (2, 1, 4), 4, 2),
    (1, 'batch', (2, 1, 4), 4, 8),
  ],
)
def test_a_mesh_bounds_a_step_by_what_each_chip_reads(
  num_kv_heads, layout, mesh, kernel_parts, cache_parts
):
  config = dataclasses.replace(
    XXL, num_kv_heads=num_kv_heads, cache_sharding=layout
  )
  found = Estimate(
    decoding=Decoding(config, 256, 2048, 512, encoded_rows=64),
    encode=cost(mesh=mesh),
    decode=cost(mesh=mesh),
    step=cost(mesh=mesh),
  )
  # Keys and values of 24 layers, for 512 positions and the new one; the rest
  # is kernels.
  caches = 2 * 256 * (2048 + 513) * 24 * 2 * num_kv_heads * 64
  kernels = roofline.decode_step(config, 256, 2048, 512).bytes - caches
  own = kernels / kernel_parts + caches / cache_parts
  seconds = found.mesh_bound_step_seconds()
  assert seconds == pytest.approx(own / 1.2e12)
  whole = found.bound_seconds()['steps'] / 512
  assert seconds >= whole
  assert (seconds == pytest.approx(whole)) == (kernel_parts == 8)
  # The cores of `cost` take no time at all: the memory does.
  assert found.step_seconds == pytest.approx(seconds)
  assert found.seconds()['steps'] == pytest.approx(512 * seconds)


def test_memory_is_that_of_the_larger_program():
  found = Estimate(
    decoding=Decoding(XXL, 256, 2048, 512, encoded_rows=64),
    encode=cost(temporary_bytes=7, code_bytes=1),
    decode=cost(argument_bytes=20, temporary_bytes=5),
    step=cost(),
  )
  assert found.encode_bytes == 28 and found.total_bytes == 28 and found.fits
  large = dataclasses.replace(
    found, encode=cost(temporary_bytes=CHIP.hbm_bytes)
  )
  assert not large.fits


class Compiler:
  """Stands in for the compiler: batches up to a size fit."""

  def __init__(self, largest):
    self.largest, self.calls = largest, []

  def __call__(self, decoding, where, mesh, program):
    self.calls.append((program, decoding.batch_size, mesh))
    if program == 'encode':
      return {'encode': cost(core=1.0, mesh=mesh)}
    if decoding.batch_size > self.largest:
      return {'decode': cost(fits=False, mesh=mesh)}
    return {
      'decode': cost(core=512.0, mesh=mesh),
      'step': cost(core=1.0, mesh=mesh),
    }


def test_the_largest_batch_that_fits_is_found_by_compiling():
  compiler = Compiler(largest=150)
  found = estimate.largest(XXL, WHERE, (1, 1, 8), (2048, 512), compile=compiler)
  assert found.decoding.batch_size == 128
  assert [call[:2] for call in compiler.calls] == [
    *(('decode', 256), ('decode', 192), ('decode', 128), ('encode', 128))
  ]
  assert (
    estimate.largest(
      XXL, WHERE, (1, 1, 8), (2048, 512), compile=Compiler(largest=0)
    )
    is None
  )


def test_what_cannot_fit_is_not_compiled():
  # 64 heads take 0.94 GiB a sequence, the parameters 2.6 GiB of each chip.
  mha = dataclasses.replace(XXL, num_kv_heads=64)
  compiler = Compiler(largest=10**6)
  found = estimate.largest(mha, WHERE, (1, 1, 8), (2048, 512), compile=compiler)
  assert found.decoding.batch_size == 8 * 24
  assert compiler.calls[0][1] == 8 * 24
  # One head is copied to all parts where heads are divided.
  mqa = dataclasses.replace(XXL, num_kv_heads=1)
  sizes = [
    estimate.could_fit(
      Decoding(
        dataclasses.replace(mqa, cache_sharding=layout), 4096, 2048, 512, 1
      ),
      WHERE,
      (1, 1, 8),
    )
    for layout in ('heads', 'batch')
  ]
  assert sizes == [False, True]
  # fsdp divides the batch as data does.
  decoding = Decoding(XXL, 256, 2048, 512, encoded_rows=8)
  assert estimate.could_fit(decoding, WHERE, (1, 8, 1))
  assert not estimate.could_fit(decoding, WHERE, (1, 1, 1))


def test_every_mesh_and_layout_is_searched_and_the_fastest_chosen():
  compiler = Compiler(largest=64)
  found = list(
    estimate.search(
      WHERE, config=XXL, sequence_length=LENGTHS, compile=compiler
    )
  )
  assert [row[:2] for row in found] == [
    ((1, 1, 8), 'heads'),
    ((1, 1, 8), 'batch'),
    ((2, 1, 4), 'heads'),
    ((2, 1, 4), 'batch'),
    ((4, 1, 2), 'heads'),
    ((4, 1, 2), 'batch'),
    ((8, 1, 1), 'heads'),
  ]
  assert all(row[2].decoding.batch_size == 64 for row in found)
  one = estimate.search(
    WHERE,
    config=dataclasses.replace(XXL, cache_sharding='batch'),
    sequence_length=LENGTHS,
    mesh=MeshShape(model=8),
    batch_size=16,
    compile=compiler,
  )
  assert [row[2].decoding.batch_size for row in one] == [16]
  slow, fast = (
    dataclasses.replace(row[2], step=cost(core=0.5 + i))
    for i, row in zip((1, 0), found)
  )
  assert estimate.best([slow, fast]) in (slow, fast)
  quick = dataclasses.replace(fast, encode=cost(core=0.5))
  assert estimate.best([slow, quick]) is quick


SMALL = T5Config(
  vocab_size=512,
  emb_dim=256,
  num_heads=8,
  num_kv_heads=4,
  head_dim=128,
  mlp_dim=512,
  num_encoder_layers=1,
  num_decoder_layers=1,
  dtype='bfloat16',
  cache_sharding='heads',
  dropout_rate=0.0,
)


@pytest.fixture(scope='module')
def compiled():
  work = Decoding(SMALL, 16, 128, 24, encoded_rows=16)
  where, mesh = Slice.parse('v4-8'), (1, 1, 4)
  costs = tpu_compile.compile_decoding(work, where, mesh, ['encode', 'decode'])
  return Estimate(work, costs['encode'], costs['decode'], costs['step'])


@needs_compiler
def test_flops_of_each_phase_are_the_rooflines(compiled):
  """The compiled products, divided over four chips, against the config."""
  shape = SMALL, 16, 128
  encode, fill = roofline.encode(*shape), roofline.cache_fill(*shape)
  step = roofline.decode_step(*shape, 24)
  # On a TPU logits are computed twice, and values have a column of ones.
  twice = 2 * 16 * SMALL.num_heads * 128**2 * (SMALL.head_dim + 1)
  found = compiled.encode.flops - twice / 4
  assert found == pytest.approx(encode.flops / 4, rel=0.02)
  assert compiled.step.flops == pytest.approx(step.flops / 4, rel=0.05)
  rest = compiled.decode.flops - 24 * compiled.step.flops
  assert rest == pytest.approx(fill.flops / 4, rel=0.02)


@needs_compiler
def test_estimates_are_above_the_bounds_and_add_up(compiled):
  assert compiled.fits and compiled.total_bytes < CHIP.hbm_bytes
  core, bound = compiled.core_seconds(), compiled.bound_seconds()
  assert set(core) == set(bound) == set(estimate.PHASES)
  assert core['steps'] > bound['steps'] and core['encode'] > bound['encode']
  total = compiled.encode.core_seconds + compiled.decode.core_seconds
  assert sum(core.values()) == pytest.approx(total)
  # What `model` divides is summed in each step.
  assert compiled.step.collective_seconds > 0


@needs_compiler
def test_no_kernel_is_gathered_in_a_step():
  """Beside a cache that is divided by its batch, activations travel."""
  config = dataclasses.replace(SMALL, cache_sharding='batch')
  work = Decoding(config, 16, 128, 24, encoded_rows=16)
  where, mesh = Slice.parse('v4-8'), (1, 1, 4)
  costs = tpu_compile.compile_decoding(work, where, mesh, ['decode'])
  gathered = costs['step'].collectives.get('all-gather', {'bytes': 0})
  keys = config.emb_dim * config.num_kv_heads * config.head_dim
  assert gathered['bytes'] < 2 * keys  # in bfloat16


@needs_compiler
def test_a_program_that_does_not_fit_has_no_step():
  work = Decoding(
    dataclasses.replace(SMALL, num_kv_heads=8),
    *(2**16, 2048, 24, 8),
  )
  costs = tpu_compile.compile_decoding(
    work, Slice.parse('v4-8'), (1, 1, 4), ['decode']
  )
  assert not costs['decode'].fits and 'step' not in costs
  assert costs['decode'].over_bytes > 0
