"""Moments of the attentions' inputs against what the model projects."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from flax import traverse_util

from gqa_flax import Transformer
from gqa_flax.conversion import statistics
from gqa_flax.conversion.statistics import Moments, Statistics, collect

SIZES = (8, 3)


@pytest.fixture(scope='module')
def params(tiny_params):
  """Norms with a scale of their own, so that its place can be told."""
  rng = np.random.default_rng(0)
  flat = traverse_util.flatten_dict(tiny_params, sep='/')
  return traverse_util.unflatten_dict(
    {
      name: rng.uniform(0.5, 2, x.shape).astype(np.float32)
      if name.endswith('/scale')
      else np.asarray(x)
      for name, x in flat.items()
    },
    sep='/',
  )


@pytest.fixture(scope='module')
def batches(tiny_config, make_batch):
  """Eight rows for eight devices, of which one is all padding, and three."""
  batches = [make_batch(tiny_config, batch=n, seed=n) for n in SIZES]
  for x in batches[0].values():
    x[5] = 0
  return batches


@pytest.fixture(scope='module')
def collected(params, tiny_config, batches):
  return collect(params, tiny_config, batches, 10**6, 'a text')


@pytest.fixture(scope='module')
def projected(params, tiny_config, batches):
  """What the projections put out for all rows, as {name: [rows, length, …]}."""
  rows = {
    name: np.concatenate([batch[name] for batch in batches])
    for name in batches[0]
    if name != 'decoder_loss_weights'
  }

  @jax.jit
  def run(params, rows):
    return Transformer(tiny_config).apply(
      {'params': params},
      **rows,
      capture_intermediates=lambda module, _: (
        module.name in ('query', 'key', 'value')
      ),
    )[1]['intermediates']['decoder']

  flat = traverse_util.flatten_dict(run(params, rows), sep='/')
  outputs = {
    f'decoder/{name.removesuffix("/__call__")}': np.asarray(x[0], np.float64)
    for name, x in flat.items()
  }
  return rows, outputs


def second_moments(x_BTE, real_BT):
  """Returns second and within by their definitions, over real tokens alone."""
  rows = [x[real] for x, real in zip(x_BTE, real_BT) if real.any()]
  centred = [row - row.mean(axis=0) for row in rows]
  n = sum(map(len, rows))
  return tuple(sum(x.T @ x for x in xs) / n for xs in (rows, centred))


def test_moments_are_those_of_what_is_projected(collected, projected, params):
  """W^T C W is the second moment of x W, whatever x was measured to be."""
  rows, outputs = projected
  kernels = traverse_util.flatten_dict(params, sep='/')
  assert len(outputs) == 2 * 2 * 3
  for name, x in outputs.items():
    attention, _, projection = name.rpartition('/')
    queries, source = collected.of(attention)
    moments = queries if projection == 'query' else source
    of_source = 'encoder_decoder' in attention and projection != 'query'
    tokens = rows[
      'encoder_input_tokens' if of_source else 'decoder_target_tokens'
    ]
    expected = second_moments(x, tokens > 0)
    kernel = np.asarray(kernels[f'{name}/kernel'], np.float64)
    for field, wanted in zip(('second', 'within'), expected):
      found = kernel.T @ getattr(moments, field) @ kernel
      np.testing.assert_allclose(
        found, wanted, atol=1e-5 * np.abs(wanted).max(), err_msg=name
      )


def test_only_target_tokens_are_counted(collected, batches):
  real = sum((batch['decoder_target_tokens'] > 0).sum() for batch in batches)
  assert (collected.tokens, collected.source) == (real, 'a text')


def test_what_pads_a_batch_does_not_count(
  params, tiny_config, batches, collected
):
  """Other tokens where no target is, and more rows of padding."""
  changed = []
  for batch in batches:
    padding = batch['decoder_target_tokens'] == 0
    inputs = np.where(padding, 9, batch['decoder_input_tokens'])
    changed.append({**batch, 'decoder_input_tokens': inputs.astype(np.int32)})
  first, second = changed
  short = {k: np.pad(x, ((0, 5), (0, 0))) for k, x in second.items()}
  found = collect(params, tiny_config, [first, short], 10**6)
  assert found.tokens == collected.tokens
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
    {k: dataclasses.asdict(x) for k, x in found.moments.items()},
    {k: dataclasses.asdict(x) for k, x in collected.moments.items()},
  )


def test_no_more_text_is_taken_than_asked_for(params, tiny_config, batches):
  taken = []

  def endless():
    for i in itertools.count():
      taken.append(i)
      yield batches[0]

  per_batch = int((batches[0]['decoder_target_tokens'] > 0).sum())
  found = collect(params, tiny_config, endless(), 2 * per_batch)
  assert (taken, found.tokens) == ([0, 1], 2 * per_batch)
  taken.clear()
  assert collect(params, tiny_config, endless(), 1).tokens == per_batch
  assert taken == [0]


def test_text_without_targets(params, tiny_config, batches):
  empty = [{k: np.zeros_like(x) for k, x in batches[0].items()}]
  for nothing in ([], empty):
    with pytest.raises(ValueError, match='text of C4 has no target token; giv'):
      collect(params, tiny_config, nothing, 100, 'of C4')


def test_weights_that_are_not_finite(params, tiny_config, batches):
  flat = traverse_util.flatten_dict(params, sep='/')
  name = 'decoder/layers_0/mlp/wo/kernel'
  flat[name] = np.where(np.eye(*flat[name].shape) > 0, np.nan, flat[name])
  broken = traverse_util.unflatten_dict(flat, sep='/')
  with pytest.raises(ValueError, match='decoder/layers_1/.*NaN or inf'):
    collect(broken, tiny_config, batches[:1], 100)


def test_saved_and_loaded(collected, tmp_path):
  path = tmp_path / 'new' / 'statistics.npz'
  statistics.save(path, collected)
  statistics.save(path, collected)
  loaded = statistics.load(path)
  assert (loaded.tokens, loaded.source) == (collected.tokens, 'a text')
  assert loaded.moments.keys() == collected.moments.keys()
  for name, moments in collected.moments.items():
    for field in ('second', 'within'):
      np.testing.assert_array_equal(
        getattr(loaded.moments[name], field), getattr(moments, field)
      )
  assert [x.name for x in path.parent.iterdir()] == ['statistics.npz']


def write_text(path):
  path.write_text('no statistics')


def write_nothing(path):
  path.write_bytes(b'')


def write_other_arrays(path):
  with path.open('wb') as file:
    np.savez(file, a=np.ones(3))


def write_one_array(path):
  with path.open('wb') as file:
    np.save(file, np.ones(3))


def write_half(path):
  eye = np.eye(4, dtype=np.float32)
  statistics.save(path, Statistics({'encoder': Moments(eye, eye)}, 3))
  data = path.read_bytes()
  path.write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
  'write',
  [write_text, write_nothing, write_other_arrays, write_one_array, write_half],
)
def test_another_file_is_told_apart(write, tmp_path):
  path = tmp_path / 'x.npz'
  write(path)
  with pytest.raises(ValueError, match='x.npz does not hold calibration stat'):
    statistics.load(path)


def test_no_file(tmp_path):
  with pytest.raises(FileNotFoundError):
    statistics.load(tmp_path / 'x.npz')
