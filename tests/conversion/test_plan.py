"""Conversions of whole models whose heads can be shared exactly."""

import concurrent.futures
import dataclasses
import itertools
import threading

import numpy as np
import pytest
from flax import traverse_util

from gqa_flax import Transformer, convert_params
from gqa_flax.checkpoints.arrays import LazyArray
from gqa_flax.conversion.plan import METHODS, Conversion
from gqa_flax.conversion.statistics import Moments

ALIGNMENTS = ('aligned', 'subspace')


def flatten(params):
  return traverse_util.flatten_dict(params, sep='/')


def neighbours(num_kv_heads, num_heads=8):
  return lambda _: np.repeat(np.arange(num_kv_heads), num_heads // num_kv_heads)


def shuffled(num_kv_heads):
  """One order for all self-attentions, another for every cross-attention."""

  def families_of(attention):
    if attention == 'decoder/layers_1/self_attention':
      # Content with any order, so it has to take that of layer 0.
      return np.zeros(8, int)
    rng = np.random.default_rng(list(attention.encode()))
    return rng.permutation(neighbours(num_kv_heads)(None))

  return families_of


def change_of_logits(
  logits_of, batch, params, config, num_kv_heads, method, **options
):
  """The largest change by a conversion, as a share of the largest logit."""
  converted, grouped = convert_params(
    params, config, num_kv_heads, method, **options
  )
  real = batch['decoder_target_tokens'] > 0
  before = logits_of(Transformer(config), params, batch)[real]
  after = logits_of(Transformer(grouped), converted, batch)[real]
  return float(np.abs(after - before).max() / np.abs(before).max())


@pytest.mark.parametrize(
  'method, with_statistics',
  [('aligned', False), ('aligned', True), ('subspace', True)],
)
@pytest.mark.parametrize('num_kv_heads', [1, 2])
def test_what_can_be_shared_is_shared_without_changing_a_logit(
  tiny_config,
  tiny_params,
  make_batch,
  logits_of,
  num_kv_heads,
  method,
  with_statistics,
  shareable,
  some_statistics,
):
  params = shareable(tiny_params, tiny_config, method, neighbours(num_kv_heads))
  statistics = some_statistics(tiny_config) if with_statistics else None
  arguments = (logits_of, make_batch(tiny_config), params, tiny_config)
  change = change_of_logits(
    *arguments, num_kv_heads, method, statistics=statistics
  )
  assert change < 1e-4
  # It is no small thing: without a change of basis the model is another.
  assert change_of_logits(*arguments, num_kv_heads, 'mean') > 0.05


@pytest.mark.parametrize('method', ['mean', 'first', *ALIGNMENTS])
def test_heads_that_lie_apart_are_brought_together(
  tiny_config,
  tiny_params,
  make_batch,
  logits_of,
  method,
  shareable,
  some_statistics,
):
  """Self-attentions move as one, with the relative bias; others by layer."""
  params = shareable(tiny_params, tiny_config, method, shuffled(2))
  statistics = some_statistics(tiny_config)
  arguments = (logits_of, make_batch(tiny_config), params, tiny_config)
  change = change_of_logits(
    *arguments, 2, method, statistics=statistics, permute_heads=True
  )
  assert change < 1e-4
  left = change_of_logits(*arguments, 2, method, statistics=statistics)
  assert left > 0.01


@pytest.mark.parametrize('method', ALIGNMENTS)
def test_grouped_heads_are_grouped_further(
  tiny_config,
  tiny_params,
  make_batch,
  logits_of,
  make_params,
  method,
  shareable,
  some_statistics,
):
  config = dataclasses.replace(tiny_config, num_kv_heads=4)
  params = shareable(make_params(config), config, method, neighbours(2, 4))
  arguments = (logits_of, make_batch(config), params, config)
  change = change_of_logits(
    *arguments, 2, method, statistics=some_statistics(config)
  )
  assert change < 1e-4
  assert change_of_logits(*arguments, 2, 'mean') > 0.05


def conversion_of(params, config, num_kv_heads=2, method='mean', **options):
  lazy = {name: LazyArray.of(np.asarray(x)) for name, x in params.items()}
  return Conversion(lazy, config, num_kv_heads, method, **options)


def all_conversions(tiny_config, tiny_params, some_statistics):
  flat = flatten(tiny_params)
  for method in METHODS:
    for permute_heads in (False, True):
      yield (
        method,
        permute_heads,
        lambda method=method, permute_heads=permute_heads: conversion_of(
          flat,
          tiny_config,
          method=method,
          permute_heads=permute_heads,
          statistics=some_statistics(tiny_config),
        ),
      )


def test_rows_by_the_piece_are_those_of_the_whole(
  tiny_config,
  tiny_params,
  some_statistics,
):
  rng = np.random.default_rng(0)
  for method, _, make in all_conversions(
    tiny_config, tiny_params, some_statistics
  ):
    conversion = make()
    for name in flatten(tiny_params):
      array = conversion.array(name)
      whole = array.read()
      assert whole.shape == array.shape
      assert whole.dtype == array.dtype == np.float32
      inner = rng.choice(len(whole) - 1, min(3, len(whole) - 1), False) + 1
      cuts = [0, *sorted(inner), len(whole)]
      pieces = [array.read_rows(a, b) for a, b in itertools.pairwise(cuts)]
      np.testing.assert_allclose(
        np.concatenate(pieces),
        whole,
        rtol=1e-5,
        atol=1e-6,
        err_msg=f'{method} {name}',
      )


def test_threads_read_what_one_thread_reads(
  tiny_config,
  tiny_params,
  some_statistics,
  attentions,
):
  names = list(flatten(tiny_params))
  for method, permute_heads, make in all_conversions(
    tiny_config, tiny_params, some_statistics
  ):
    one = {name: make().array(name).read() for name in names}
    conversion = make()
    start = threading.Barrier(8)

    def read(seed, conversion=conversion, start=start):
      order = np.random.default_rng(seed).permutation(names)
      start.wait()
      return {name: conversion.array(name).read() for name in order}

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
      for found in pool.map(read, range(8), timeout=60):
        for name in names:
          np.testing.assert_array_equal(found[name], one[name], err_msg=name)
    orders = conversion.orders
    if permute_heads:
      assert orders.keys() == {
        'self_attention',
        *(f'decoder/layers_{i}/encoder_decoder_attention' for i in (0, 1)),
      }
      assert all(sorted(x) == list(range(8)) for x in orders.values())
    else:
      assert not orders
    rebased = method in ALIGNMENTS
    assert sorted(conversion.kept) == (sorted(attentions) if rebased else [])


def test_every_array_has_its_action(
  tiny_config,
  tiny_params,
  some_statistics,
):
  flat = flatten(tiny_params)
  for method, permute_heads, make in all_conversions(
    tiny_config, tiny_params, some_statistics
  ):
    conversion = make()
    for name, old in flat.items():
      action = conversion.action(name)
      decoder = name.startswith('decoder/') and '_attention/' in name
      if decoder and name.endswith(('key/kernel', 'value/kernel')):
        assert action == 'pooled'
      elif decoder and method in ALIGNMENTS:
        assert action == 'rebased'
      elif permute_heads and (
        decoder or name == 'decoder/relpos_bias/rel_embedding'
      ):
        assert action == 'permuted'
      else:
        assert action == 'copied'
        # The very numbers, which says more than the word.
        np.testing.assert_array_equal(conversion.array(name).read(), old)


@pytest.mark.parametrize('method', METHODS)
def test_as_many_heads_as_before_is_no_conversion(
  tiny_config,
  tiny_params,
  method,
  some_statistics,
):
  options = {'permute_heads': True, 'statistics': some_statistics(tiny_config)}
  params, config = convert_params(
    tiny_params, tiny_config, 8, method, **options
  )
  assert config == tiny_config
  before, after = flatten(tiny_params), flatten(params)
  assert all(after[name] is before[name] for name in before)


def test_statistics_decide_what_is_kept(
  tiny_config,
  tiny_params,
  some_statistics,
  attentions,
):
  """Inputs without some directions let the heads differ there."""
  statistics = some_statistics(tiny_config)
  blind = np.diag(np.r_[np.ones(4), np.zeros(12)]).astype(np.float32)
  seeing = {
    name: Moments(blind @ m.second @ blind, blind @ m.within @ blind)
    for name, m in statistics.moments.items()
  }
  kept = {}
  for title, s in (
    ('all', statistics),
    ('few', dataclasses.replace(statistics, moments=seeing)),
  ):
    conversion = conversion_of(
      flatten(tiny_params),
      tiny_config,
      num_kv_heads=1,
      method='subspace',
      statistics=s,
    )
    for attention in attentions:
      conversion.bases(attention)
    kept[title] = [
      x for layer in conversion.kept.values() for x in (layer.key, layer.value)
    ]
  # Four directions are what a head of four can hold.
  assert min(kept['few']) > 0.999
  assert max(kept['all']) < 0.99


@pytest.mark.parametrize('permute_heads', [False, True])
def test_errors(
  tiny_config,
  tiny_params,
  permute_heads,
  some_statistics,
):
  flat = flatten(tiny_params)
  options = {'permute_heads': permute_heads}
  with pytest.raises(
    ValueError, match="'subspace' needs statistics.*'aligned'"
  ):
    conversion_of(flat, tiny_config, method='subspace', **options)
  wide = dataclasses.replace(tiny_config, emb_dim=24)
  with pytest.raises(ValueError, match=r'are \(24, 24\), but .* width 16'):
    conversion_of(
      flat,
      tiny_config,
      method='aligned',
      statistics=some_statistics(wide),
      **options,
    )
  shallow = dataclasses.replace(tiny_config, num_decoder_layers=1)
  with pytest.raises(ValueError, match='nothing about decoder/layers_1/self'):
    conversion_of(
      flat,
      tiny_config,
      method='aligned',
      statistics=some_statistics(shallow),
      **options,
    )
  with pytest.raises(ValueError, match="no conversion method 'subspce'.*Did"):
    conversion_of(flat, tiny_config, method='subspce', **options)


@pytest.mark.parametrize('method', ['mean', 'aligned'])
def test_grouped_heads_are_not_permuted(tiny_config, make_params, method):
  config = dataclasses.replace(tiny_config, num_kv_heads=4)
  flat = flatten(make_params(config))
  with pytest.raises(ValueError, match='8 query heads, 4 key/value heads'):
    conversion_of(flat, config, method=method, permute_heads=True)
  # Nothing is to be permuted here.
  conversion_of(flat, config, num_kv_heads=4, method=method, permute_heads=True)
