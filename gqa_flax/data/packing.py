"""Several examples in a row of a batch, as T5 packs them."""

from collections.abc import Mapping

import seqio
import tensorflow as tf


class Converter(seqio.EncDecFeatureConverter):
  """seqio's converter, packing by tensors instead of Python's control flow.

  The rows are seqio's to the bit, and so are the positions that are saved of
  their datasets. Its own loop over the examples is rewritten by AutoGraph,
  which takes seconds before a training starts.
  """

  def _pack_or_pad(self, ds, packed_lengths):
    if self.pack:
      return pack(ds, packed_lengths)
    return super()._pack_or_pad(ds, packed_lengths)


def pack(
  dataset: tf.data.Dataset, lengths: Mapping[str, int]
) -> tf.data.Dataset:
  """Puts examples one behind the other into rows, in order, until one is full.

  Args:
    dataset: of {name: [length] tokens}, which are not 0.
    lengths: of the rows, by name; examples are cut to them.

  Returns:
    For each name the tokens, {name}_segment_ids, which count the examples of a
    row from 1, and {name}_positions of the tokens in theirs; [length] int32,
    padding is 0.
  """
  limits = tf.constant(list(lengths.values()))

  def trim(example):
    return {name: example[name][:n, ...] for name, n in lengths.items()}

  def place(state, sizes):
    row, used = state
    fits = tf.reduce_all(used + sizes <= limits)
    return tf.where(fits, row, row + 1), sizes + tf.where(fits, used, 0)

  def pack_batch(batch):
    sizes_BF = tf.stack(
      [tf.math.count_nonzero(batch[name], 1, dtype=tf.int32) for name in lengths],
      axis=1,
    )
    rows_B, _ = tf.scan(place, sizes_BF, (0, tf.zeros_like(limits)))
    packed = {}
    for i, (name, length) in enumerate(lengths.items()):
      sizes_B = sizes_BF[:, i]
      rows = tf.repeat(rows_B, sizes_B)

      def lay_out(values, rows=rows, length=length):
        ragged = tf.RaggedTensor.from_value_rowids(values, rows, rows_B[-1] + 1)
        return ragged.to_tensor(shape=[None, length])

      tokens = tf.RaggedTensor.from_tensor(batch[name], sizes_B).values
      row_tokens = lay_out(tf.cast(tokens, tf.int32))
      positions = lay_out(tf.ragged.range(sizes_B).values)
      starts = tf.cast(positions == 0, tf.int32)
      is_token = tf.cast(row_tokens != 0, tf.int32)
      packed[name] = row_tokens
      packed[f'{name}_positions'] = positions
      packed[f'{name}_segment_ids'] = tf.cumsum(starts, axis=1) * is_token
    return packed

  parallel = {'num_parallel_calls': tf.data.AUTOTUNE}
  # So many examples fill one row at least.
  batches = dataset.map(trim, **parallel).padded_batch(
    max(lengths.values()), padded_shapes={name: [None] for name in lengths}
  )
  rows = batches.map(pack_batch, **parallel).unbatch()
  # seqio's last step: without it, positions saved before would not fit.
  return rows.map(lambda row: row, **parallel)
