"""Packing, against seqio's own."""

import numpy as np
import pytest
import seqio
import tensorflow as tf

from gqa_flax.data import packing

LENGTHS = {'inputs': 12, 'targets': 5}


def examples(seed=0, number=70, longest=15):
  rng = np.random.default_rng(seed)
  for _ in range(number):
    yield {
      name: rng.integers(1, 99, rng.integers(0, longest)).astype(np.int32)
      for name in LENGTHS
    }


def dataset(**kwargs):
  spec = {name: tf.TensorSpec([None], tf.int32) for name in LENGTHS}
  return tf.data.Dataset.from_generator(
    lambda: examples(**kwargs), output_signature=spec
  )


def assert_same(found, expected):
  found, expected = [
    list(rows.as_numpy_iterator()) for rows in (found, expected)
  ]
  assert len(found) == len(expected) > 1
  for row, other in zip(found, expected):
    assert row.keys() == other.keys()
    for name in row:
      assert row[name].dtype == other[name].dtype
      np.testing.assert_array_equal(row[name], other[name])


@pytest.mark.parametrize('longest', [3, 15])
def test_rows_are_seqio_s(longest):
  # Some examples are empty, some are cut, and some fill a row alone.
  rows = dataset(longest=longest)
  expected = seqio.trim_and_pack_dataset(rows, LENGTHS)
  found = packing.pack(rows, LENGTHS)
  assert found.element_spec == expected.element_spec
  assert_same(found, expected)


def test_a_row_is_filled_up_to_its_end():
  rows = dataset(number=6).map(
    lambda _: {'inputs': tf.range(1, 5), 'targets': tf.constant([7])}
  )
  assert_same(
    packing.pack(rows, LENGTHS), seqio.trim_and_pack_dataset(rows, LENGTHS)
  )
  first = next(iter(packing.pack(rows, LENGTHS)))
  assert first['inputs_segment_ids'].numpy().tolist() == [
    *(1, 1, 1, 1),
    *(2, 2, 2, 2),
    *(3, 3, 3, 3),
  ]


def test_the_converter_gives_the_batches_of_seqio_s():
  rows = dataset(longest=5)
  assert_same(
    packing.Converter(pack=True)(rows, LENGTHS),
    seqio.EncDecFeatureConverter(pack=True)(rows, LENGTHS),
  )


def test_a_position_saved_with_seqio_s_converter_still_fits(tmp_path):
  def iterator(converter):
    numbers = tf.data.Dataset.range(1, 60, output_type=tf.int32).map(
      lambda i: {'inputs': tf.fill([i % 7], i), 'targets': tf.fill([2], i)}
    )
    return iter(converter(pack=True)(numbers, LENGTHS))

  before = iterator(seqio.EncDecFeatureConverter)
  for _ in range(5):
    next(before)
  path = tf.train.Checkpoint(iterator=before).write(str(tmp_path / 'position'))
  after = iterator(packing.Converter)
  tf.train.Checkpoint(iterator=after).read(path).assert_consumed()
  for row, other in zip(before, after, strict=True):
    for name in row:
      np.testing.assert_array_equal(row[name], other[name])
