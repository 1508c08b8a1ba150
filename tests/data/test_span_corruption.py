"""Span corruption: T5's golden examples, and what any example must satisfy."""

import os
import pathlib

import numpy as np
import pytest
import seqio
import tensorflow as tf

from gqa_flax.data.span_corruption import (
  raw_and_targets_lengths,
  span_corruption,
)

SHARED = pathlib.Path(
  os.environ.get('GQA_FLAX_SHARED')
  or pathlib.Path(__file__).resolve().parents[2].parent / 'shared'
)
VOCABULARY = seqio.PassThroughVocabulary(32_100)
LAST_ID = 32_099


def features(vocabulary=VOCABULARY):
  return {key: seqio.Feature(vocabulary) for key in ('inputs', 'targets')}


def corrupt(documents, inputs_length, targets_length, seed=0, **kwargs):
  dataset = tf.data.Dataset.from_generator(
    lambda: ({'targets': d} for d in documents),
    output_signature={'targets': tf.TensorSpec([None], tf.int32)},
  )
  with seqio.map_seed_manager(initial_seed=seed):
    dataset = span_corruption(
      dataset,
      {'inputs': inputs_length, 'targets': targets_length},
      features(),
      **kwargs,
    )
  return list(dataset.as_numpy_iterator())


def spans(tokens):
  """Splits at the sentinels: {sentinel: tokens after it}, '' before any."""
  parts = {'': []}
  for token in tokens.tolist():
    if token > LAST_ID - 100:
      parts[token] = []
    else:
      parts[list(parts)[-1]].append(token)
  return parts


def reassemble(example):
  """Puts the noise back where the inputs have its sentinel."""
  kept, noise = spans(example['inputs']), spans(example['targets'])
  assert noise.pop('') == []
  tokens = list(kept.pop(''))
  for sentinel, after in kept.items():
    tokens += noise[sentinel] + after
  return tokens


@pytest.mark.parametrize(
  'inputs, raw, targets',
  [(512, 568, 114), (1024, 1137, 229), (2048, 2274, 456)],
)
def test_the_lengths_are_those_of_t5(inputs, raw, targets):
  assert raw_and_targets_lengths(inputs) == (raw, targets)


def test_raw_segments_of_568_tokens_make_512_and_114():
  example = corrupt([np.arange(1000, 1568)], 512, 114)[0]
  noise = spans(example['targets'])
  assert sum(map(len, noise.values())) == 85
  assert list(noise)[1:] == [LAST_ID - i for i in range(28)]
  assert len(example['inputs']) == 483 + 28 == 511  # and EOS
  assert len(example['targets']) == 85 + 28 == 113  # and EOS


@pytest.mark.parametrize('inputs_length', [10, 31, 172, 650])
def test_full_segments_fill_exactly_the_lengths_promised(inputs_length):
  # At some lengths (172 from 190 raw tokens) float64 counts another number of
  # spans than the float32 of the graph.
  raw, targets_length = raw_and_targets_lengths(inputs_length)
  full = corrupt(
    [np.arange(1000, 1000 + 3 * raw)], inputs_length, targets_length
  )
  assert len(full) == 3
  for example in full:
    assert len(example['inputs']) + 1 in (inputs_length - 1, inputs_length)
    assert len(example['targets']) + 1 == targets_length


def test_inputs_and_targets_reassemble_the_documents():
  rng = np.random.default_rng(0)
  documents = [
    rng.integers(3, 32_000, rng.integers(1, 200)) for _ in range(300)
  ]
  examples = corrupt(documents, 64, 32)
  tokens = np.concatenate([reassemble(e) for e in examples])
  np.testing.assert_array_equal(tokens, np.concatenate(documents))


def test_segments_begin_with_text_and_alternate():
  for example in corrupt([np.arange(1000, 9000)], 114, 32):
    assert example['inputs'][0] < 32_000
    assert all(list(spans(example['targets']).values())[1:])
    assert all(list(spans(example['inputs']).values())[:-1])


def test_pools_join_128_documents_and_no_more():
  # Raw segments of 34 tokens: 128 documents of 17 make 64 full ones.
  documents = [np.full(17, 1000 + i) for i in range(129)]
  lengths = [len(reassemble(e)) for e in corrupt(documents, 32, 8)]
  assert lengths == [34] * 64 + [17]


def test_one_chunk_is_kept_of_a_very_long_document():
  document = np.arange(3 * 65_536) % 30_000 + 3
  starts = set()
  for seed in range(3):
    tokens = np.concatenate(
      [reassemble(e) for e in corrupt([document], 1024, 229, seed)]
    )
    starts.add(
      next(
        s
        for s in (0, 65_536, 131_072)
        if np.array_equal(document[s : s + 65_536], tokens)
      )
    )
  assert len(starts) > 1


def test_seeds_decide_the_spans():
  document = [np.arange(1000, 1568)]
  first, again, other = (
    corrupt(document, 512, 114, seed)[0]['inputs'] for seed in (1, 1, 2)
  )
  np.testing.assert_array_equal(first, again)
  assert not np.array_equal(first, other)


def test_golden_examples_of_t5_are_reproduced_exactly():
  folder = SHARED / 'fixtures' / 'c4_span_corruption'
  if not folder.exists():
    pytest.skip(f'golden examples of T5 are not at {folder}')

  def read(pattern, keys):
    spec = {
      key: tf.io.FixedLenSequenceFeature([], tf.int64, True) for key in keys
    }
    (path,) = folder.glob(pattern)
    return tf.data.TFRecordDataset(str(path)).map(
      lambda record: tf.io.parse_single_example(record, spec)
    )

  vocabulary = seqio.SentencePieceVocabulary(
    str(SHARED / 'fixtures' / 't5_spiece.model'), extra_ids=100
  )
  with seqio.map_seed_manager(initial_seed=94043):
    dataset = span_corruption(
      read('c4_tokenized*', ['targets']),
      {'inputs': 1024, 'targets': 1024},
      features(vocabulary),
    )
  expected = read('c4_span_corruption*', ['inputs', 'targets'])
  pairs = list(
    zip(dataset.as_numpy_iterator(), expected.as_numpy_iterator(), strict=True)
  )
  assert len(pairs) == 240
  for example, golden in pairs:
    np.testing.assert_array_equal(example['inputs'], golden['inputs'])
    np.testing.assert_array_equal(example['targets'], golden['targets'])


@pytest.mark.parametrize('inputs_length', [-1, 0, 3, 9])
def test_inputs_too_short_for_a_span_are_refused(inputs_length):
  with pytest.raises(ValueError, match='too short for span corruption'):
    raw_and_targets_lengths(inputs_length)


def test_short_targets_are_refused_with_the_length_they_need():
  with pytest.raises(ValueError, match='raise it to 114'):
    corrupt([np.arange(3, 600)], 512, 113)


def test_too_few_sentinels_are_refused():
  with pytest.raises(ValueError, match='extra_ids=28'):
    span_corruption(
      tf.data.Dataset.from_tensors({'targets': [5, 6, 7]}),
      {'inputs': 512, 'targets': 114},
      features(seqio.ByteVocabulary(extra_ids=27)),
    )


def test_two_vocabularies_are_refused():
  with pytest.raises(ValueError, match='different vocabularies'):
    span_corruption(
      tf.data.Dataset.from_tensors({'targets': [5, 6, 7]}),
      {'inputs': 512, 'targets': 114},
      features() | {'inputs': seqio.Feature(seqio.ByteVocabulary())},
    )
