"""T5's span corruption, the pre-training objective of the paper.

Documents are cut into segments of raw tokens; in each segment 15% of the
tokens, in spans of three on average, are noise. The inputs keep the other
tokens, with one sentinel for each noise span; the targets keep the noise,
with one sentinel for each span between:

  raw tokens   Thank you for inviting me to your party last week
  inputs       Thank you <X> me to your party <Y> week
  targets      <X> for inviting <Y> last

Random numbers are drawn as the `t5` package draws them (`span_corruption` in
t5/data/preprocessors.py), so that one seed gives the same examples in both.
"""

from collections.abc import Mapping

import numpy as np
import seqio
import tensorflow as tf

MAX_DOCUMENT_TOKENS = 65_536
DOCUMENTS_PER_POOL = 128


def span_corruption(
  dataset: tf.data.Dataset,
  sequence_length: Mapping[str, int],
  output_features: Mapping[str, seqio.Feature],
  mean_noise_span_length: float = 3.0,
  noise_density: float = 0.15,
) -> tf.data.Dataset:
  """Turns tokenized documents into examples of span corruption.

  A seqio preprocessor, to be followed by `append_eos_after_trim`. Seeds come
  from `seqio.map_seed_manager`.

  Args:
    dataset: elements {'targets': [document length] int tokens, no EOS}.
    sequence_length: {'inputs': length, 'targets': length}, EOS included. The
      inputs length alone decides how long a raw segment is.
    output_features: the features of the task; inputs and targets must share
      one vocabulary, whose last ids serve as sentinels, counting down.
    mean_noise_span_length: the mean number of tokens in a noise span.
    noise_density: the share of the tokens that is noise.

  Returns:
    A dataset of {'inputs', 'targets'}: [<= length - 1] of the dtype of the
    tokens, without EOS.

  Raises:
    ValueError: the targets do not fit their length, the inputs are too short
      to hold a noise span, the vocabulary has too few sentinels, or inputs
      and targets have different vocabularies.
  """
  segment_length, targets_length = raw_and_targets_lengths(
    sequence_length['inputs'], mean_noise_span_length, noise_density
  )
  if sequence_length['targets'] < targets_length:
    raise ValueError(
      f'Span corruption of inputs of {sequence_length["inputs"]} tokens '
      f'needs targets of {targets_length} tokens, but the targets length is '
      f'{sequence_length["targets"]}: raise it to {targets_length}.'
    )
  vocabulary = _shared_vocabulary(output_features)
  _, num_spans = _num_noise_tokens_and_spans(
    segment_length, mean_noise_span_length, noise_density
  )
  # Vocabularies without extra ids may hold their sentinels among the pieces.
  if 0 < vocabulary.extra_ids < num_spans:
    raise ValueError(
      f'Inputs of {sequence_length["inputs"]} tokens have {num_spans} noise '
      f'spans but the vocabulary only {vocabulary.extra_ids} sentinels: '
      f'shorten the inputs or give the vocabulary extra_ids={num_spans}.'
    )

  dataset = _choose_chunks(dataset)
  dataset = _concatenate_pools(dataset)
  dataset = _split_into_segments(dataset, segment_length)
  return _corrupt(dataset, vocabulary, mean_noise_span_length, noise_density)


def raw_and_targets_lengths(
  inputs_length: int,
  mean_noise_span_length: float = 3.0,
  noise_density: float = 0.15,
) -> tuple[int, int]:
  """Returns the lengths that go with inputs of at most `inputs_length`.

  Args:
    inputs_length: the number of input tokens, sentinels and EOS included.
    mean_noise_span_length: the mean number of tokens in a noise span.
    noise_density: the share of the raw tokens that is noise.

  Returns:
    The largest number of raw tokens whose inputs fit, and the number of
    target tokens, sentinels and EOS included, that they give: 568 and 114 for
    inputs of 512.

  Raises:
    ValueError: the inputs are too short to hold a noise span.
  """

  def lengths(raw_length):
    num_noise_tokens, num_spans = _num_noise_tokens_and_spans(
      raw_length, mean_noise_span_length, noise_density
    )
    return (
      raw_length - num_noise_tokens + num_spans + 1,
      num_noise_tokens + num_spans + 1,
    )

  raw_length = inputs_length - 1
  while lengths(raw_length + 1)[0] <= inputs_length:
    raw_length += 1
  # With half of the tokens noise, rounding could make the targets one longer
  # than the inputs; T5 gives up a token so that both have the round length.
  if noise_density == 0.5 and lengths(raw_length)[1] > inputs_length:
    raw_length -= 1
  if (
    min(
      _num_noise_tokens_and_spans(
        raw_length, mean_noise_span_length, noise_density
      )
    )
    < 1
  ):
    raise ValueError(
      f'Inputs of {inputs_length} tokens are too short for span corruption: '
      f'{noise_density:.0%} of {max(raw_length, 0)} raw tokens make no noise '
      f'span of {mean_noise_span_length:g} tokens; raise the inputs length.'
    )
  return raw_length, lengths(raw_length)[1]


def _num_noise_tokens_and_spans(
  raw_length: int, mean_noise_span_length: float, noise_density: float
) -> tuple[int, int]:
  """Counts as `_random_spans_mask` does, in float32.

  Python's own floats disagree at one length in a hundred (0.15 * 190), where
  targets of the length promised would then lose their end.
  """
  num_noise_tokens = np.rint(np.float32(raw_length) * np.float32(noise_density))
  num_spans = np.rint(num_noise_tokens / np.float32(mean_noise_span_length))
  return int(num_noise_tokens), int(num_spans)


def _shared_vocabulary(
  output_features: Mapping[str, seqio.Feature],
) -> seqio.Vocabulary:
  vocabulary = output_features['targets'].vocabulary
  if output_features['inputs'].vocabulary != vocabulary:
    raise ValueError(
      'Span corruption makes inputs out of the targets, but the two features '
      'have different vocabularies: give both the same.'
    )
  return vocabulary


def _choose_chunks(dataset: tf.data.Dataset) -> tf.data.Dataset:
  """Keeps one random chunk of every document of more than 65,536 tokens."""

  @seqio.map_over_dataset(num_seeds=1)
  def choose_chunk(example, seed):
    tokens = example['targets']
    num_chunks = -(-tf.size(tokens) // MAX_DOCUMENT_TOKENS)
    # T5 keeps the first half of the seed for random lengths, not used here.
    _, seed = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
    start = MAX_DOCUMENT_TOKENS * tf.random.stateless_uniform(
      [], seed=seed, maxval=num_chunks, dtype=tf.int32
    )
    return {'targets': tokens[start : start + MAX_DOCUMENT_TOKENS]}

  return choose_chunk(dataset.filter(lambda x: tf.size(x['targets']) > 0))


def _concatenate_pools(dataset: tf.data.Dataset) -> tf.data.Dataset:
  """Joins pools of 128 documents, so that only their ends make short rows."""
  pools = dataset.ragged_batch(DOCUMENTS_PER_POOL)
  return pools.map(
    lambda x: {'targets': x['targets'].flat_values},
    num_parallel_calls=tf.data.AUTOTUNE,
  )


def _split_into_segments(
  dataset: tf.data.Dataset, segment_length: int
) -> tf.data.Dataset:
  """Cuts every pool into segments; the last one may be shorter."""

  # No random number is drawn here, but T5 takes a seed (for random segment
  # lengths), and the seeds of the masks follow it.
  @seqio.map_over_dataset(num_seeds=1)
  def split(example, seed):
    del seed
    tokens = example['targets']
    starts = tf.range(0, tf.size(tokens), segment_length)
    return {'targets': tf.RaggedTensor.from_row_starts(tokens, starts)}

  return split(dataset).unbatch()


def _corrupt(
  dataset: tf.data.Dataset,
  vocabulary: seqio.Vocabulary,
  mean_noise_span_length: float,
  noise_density: float,
) -> tf.data.Dataset:
  @seqio.map_over_dataset(num_seeds=1)
  def corrupt(example, seed):
    tokens = example['targets']
    # T5 splits the seed in six, two each for the mask, the inputs and the
    # targets, although only the mask draws any number.
    seeds = tf.unstack(tf.random.experimental.stateless_split(seed, 6))[:2]
    is_noise = _random_spans_mask(
      tf.size(tokens), seeds, mean_noise_span_length, noise_density
    )
    last_id = vocabulary.vocab_size - 1
    return {
      'inputs': _spans_to_sentinels(tokens, is_noise, last_id),
      'targets': _spans_to_sentinels(tokens, ~is_noise, last_id),
    }

  return corrupt(dataset)


def _random_spans_mask(
  length: tf.Tensor,
  seeds: tf.Tensor,
  mean_noise_span_length: float,
  noise_density: float,
) -> tf.Tensor:
  """Draws which tokens are noise: [length] bool, beginning with False.

  Spans of non-noise and noise alternate; each kind's lengths are a uniformly
  random partition of its number of tokens.
  """
  padded_length = tf.maximum(length, 2)
  num_noise_tokens = tf.clip_by_value(
    _round(tf.cast(padded_length, tf.float32) * noise_density),
    1,
    padded_length - 1,
  )
  num_spans = tf.maximum(
    _round(tf.cast(num_noise_tokens, tf.float32) / mean_noise_span_length), 1
  )
  noise_lengths = _random_partition(num_noise_tokens, num_spans, seeds[0])
  text_lengths = _random_partition(
    padded_length - num_noise_tokens, num_spans, seeds[1]
  )
  span_lengths = tf.reshape(tf.stack([text_lengths, noise_lengths], 1), [-1])
  span_is_noise = tf.range(2 * num_spans) % 2 == 1
  return tf.repeat(span_is_noise, span_lengths)[:length]


def _random_partition(
  num_items: tf.Tensor, num_parts: tf.Tensor, seed: tf.Tensor
) -> tf.Tensor:
  """Splits a number into `num_parts` positive ones: [num_parts] int32."""
  starts_part = seqio.stateless_shuffle(
    tf.cast(tf.range(num_items - 1) < num_parts - 1, tf.int32), seed
  )
  part = tf.cumsum(tf.pad(starts_part, [[1, 0]]))
  return tf.math.bincount(part, minlength=num_parts)


def _spans_to_sentinels(
  tokens: tf.Tensor, is_masked: tf.Tensor, last_id: int
) -> tf.Tensor:
  """Puts one sentinel, counting down from `last_id`, for each masked span."""
  continues = is_masked & tf.pad(is_masked[:-1], [[1, 0]])
  starts = is_masked & ~continues
  sentinels = last_id + 1 - tf.cumsum(tf.cast(starts, tokens.dtype))
  return tf.where(starts, sentinels, tokens)[~continues]


def _round(x: tf.Tensor) -> tf.Tensor:
  return tf.cast(tf.round(x), tf.int32)
