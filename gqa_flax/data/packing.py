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

  def place(previous, sizes):
    row, start, size = previous
    end = start + size
    fits = tf.reduce_all(end + sizes <= limits)
    return tf.where(fits, row, row + 1), tf.where(fits, end, 0), sizes

  def pack_batch(batch):
    # Here B counts examples, F features, and W tokens of the longest example.
    sizes = [
      tf.math.count_nonzero(batch[name], axis=1, dtype=tf.int32)
      for name in lengths
    ]
    sizes_BF = tf.stack(sizes, axis=1)
    zeros = tf.zeros_like(limits)
    rows_B, starts_BF, _ = tf.scan(place, sizes_BF, (0, zeros, zeros))
    packed = {}
    for i, (name, length) in enumerate(lengths.items()):
      positions_W = tf.range(tf.shape(batch[name])[1])
      is_token_BW = positions_W < sizes_BF[:, i, None]
      # Beyond an example's tokens it is zeros that are added, somewhere.
      columns = tf.minimum(starts_BF[:, i, None] + positions_W, length - 1)
      places = rows_B[:, None] * length + columns
      num_places = (rows_B[-1] + 1) * length

      def lay_out(x, places=places, num_places=num_places, length=length):
        flat = tf.math.unsorted_segment_sum(x, places, num_places)
        return tf.reshape(flat, [-1, length])

      is_token = tf.cast(is_token_BW, tf.int32)
      tokens = lay_out(tf.cast(batch[name], tf.int32) * is_token)
      positions = lay_out(positions_W * is_token)
      starts = tf.cast(positions == 0, tf.int32)
      packed[name] = tokens
      packed[f'{name}_positions'] = positions
      packed[f'{name}_segment_ids'] = tf.cumsum(starts, 1) * tf.cast(
        tokens != 0, tf.int32
      )
    return packed

  parallel = {'num_parallel_calls': tf.data.AUTOTUNE}
  # So many examples fill one row at least.
  batches = dataset.map(trim, **parallel).padded_batch(
    max(lengths.values()), padded_shapes={name: [None] for name in lengths}
  )
  rows = batches.map(pack_batch, **parallel).unbatch()
  # seqio's last step: without it, positions saved before would not fit.
  return rows.map(lambda row: row, **parallel)
