"""Measured decoding: what is run and kept, not how fast it is."""

import dataclasses
import pathlib

import jax
import pytest

from gqa_flax import partitioning
from gqa_flax.partitioning import MeshShape
from gqa_flax.timing import measure
from gqa_flax.timing.measure import Measurement
from gqa_flax.timing.spread import Spread, digits

LENGTHS = (7, 5)


def eight_devices():
  return partitioning.make_mesh(MeshShape(2, 1, 4))


@pytest.fixture(scope='module')
def traced(tiny_config, tmp_path_factory):
  folder = tmp_path_factory.mktemp('trace')
  config = dataclasses.replace(
    tiny_config, num_kv_heads=2, cache_sharding='batch'
  )
  found = measure.measure(
    config,
    LENGTHS,
    eight_devices(),
    batch_size=16,
    param_dtype='float32',
    repeats=3,
    trace_dir=str(folder),
  )
  return found, folder


def test_every_phase_has_its_time(traced):
  found, _ = traced
  assert found.mesh == (2, 1, 4) and found.repeats == 3
  assert found.decoding.batch_size == 16
  seconds = found.seconds()
  assert list(seconds) == ['encode', 'fill_cache', 'steps']
  for spread in (found.encode, found.fill_cache, found.decode):
    assert 0 < spread.low <= spread.median <= spread.high
  total = found.encode.median + found.decode.median
  assert found.seconds_a_sample == pytest.approx(8 * total / 16)
  assert found.compile_seconds > 0 and found.program_bytes > 0
  assert Measurement.from_dict(found.to_dict()) == found


def test_int8_parameters_and_caches_are_timed_too(tiny_config):
  found = measure.measure(
    dataclasses.replace(tiny_config, cache_dtype='int8'),
    LENGTHS,
    eight_devices(),
    batch_size=8,
    param_dtype='int8',
    repeats=1,
  )
  assert found.decode.median > 0


def test_a_trace_is_written(traced):
  _, folder = traced
  assert [*pathlib.Path(folder).rglob('*.xplane.pb')]


def test_no_trace_is_taken_where_libtpu_would_end_it(monkeypatch):
  monkeypatch.setattr(measure.importlib.util, 'find_spec', lambda name: name)
  measure._check_traceable('cpu')
  monkeypatch.delenv('JAX_PLATFORMS')
  measure._check_traceable('tpu')
  with pytest.raises(ValueError, match='set JAX_PLATFORMS=cpu in the env'):
    measure._check_traceable('cpu')
  monkeypatch.setattr(measure.importlib.util, 'find_spec', lambda name: None)
  measure._check_traceable('cpu')


def test_the_largest_batch_is_what_the_compiler_says_fits(
  tiny_config, monkeypatch
):
  """The memory is made to be what a batch of 16 needs, and not one of 24."""
  mesh = eight_devices()
  work = measure._decoding(tiny_config, 16, LENGTHS, mesh, 'float32')
  programs = measure._compile(work, mesh, 10**12)
  need = max(measure._bytes(program) for program in programs.values())
  monkeypatch.setattr(measure, '_room', lambda mesh: need)
  monkeypatch.setattr(measure.programs, 'BATCHES', (3, 2, 1))
  options = {'param_dtype': 'float32', 'repeats': 1}
  found = measure.measure(tiny_config, LENGTHS, mesh, **options)
  assert found.decoding.batch_size == 16 and found.program_bytes == need
  monkeypatch.setattr(measure, '_room', lambda mesh: 1000)
  with pytest.raises(ValueError, match='8 sequences of 7/5 tokens do not fit'):
    measure.measure(tiny_config, LENGTHS, mesh, **options)


def test_every_mesh_of_the_devices_is_measured(tiny_config, monkeypatch):
  seen = []

  def pretend(config, lengths, mesh, **arguments):
    seen.append((tuple(mesh.shape.values()), config.cache_sharding))
    return arguments

  monkeypatch.setattr(measure, 'measure', pretend)
  lengths = {'inputs': 7, 'targets': 5}
  found = list(
    measure.measure_all(config=tiny_config, sequence_length=lengths, repeats=2)
  )
  assert seen[:2] == [((1, 1, 8), 'heads'), ((1, 1, 8), 'batch')]
  assert seen[-1] == ((8, 1, 1), 'heads') and len(seen) == 7
  assert all(arguments['repeats'] == 2 for arguments in found)


@pytest.mark.parametrize('name', ['repeats', 'batch_size'])
@pytest.mark.parametrize('value', [0, -4, 1.5, 'many'])
def test_what_is_no_number_of_them_is_refused(name, value, tiny_config):
  message = f'{name.upper()} is {value!r}; give an integer of 1 or more.'
  with pytest.raises(ValueError, match=message):
    measure.measure(tiny_config, LENGTHS, eight_devices(), **{name: value})


@pytest.mark.parametrize('dtype', ['bfloat16', 'int8'])
def test_random_parameters_are_finite_and_of_the_dtype(dtype, tiny_config):
  mesh = eight_devices()
  work = measure._decoding(tiny_config, 16, LENGTHS, mesh, dtype)
  shapes = measure.programs.arguments(work, mesh)['decode'][0]
  params = measure._random_params(work, shapes)
  dtypes = set()
  for x, shape in zip(jax.tree.leaves(params), jax.tree.leaves(shapes)):
    assert x.dtype == shape.dtype and x.sharding == shape.sharding
    assert 0 < float(abs(x.astype('float32')).max()) < 128
    dtypes.add(x.dtype.name)
  assert dtype in dtypes


def test_spread_by_hand():
  assert Spread.of([4.0, 1.0, 3.0, 2.0, 5.0]) == Spread(3.0, 2.0, 4.0)
  assert Spread.of([2.0]) == Spread(2.0, 2.0, 2.0)
  assert str(Spread(1234.5, 0.01234, 12.34)) == '1,234 (0.0123 to 12.3)'
  assert digits(1.234) == '1.23'
