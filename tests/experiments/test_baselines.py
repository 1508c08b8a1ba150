"""Baselines by hand, and the report from made-up records."""

import numpy as np
import pytest

from experiments import baselines, toy_report


def batch(targets):
  tokens = np.asarray(targets, np.int32)
  return {
    'decoder_target_tokens': tokens,
    'decoder_loss_weights': (tokens > 0).astype(np.float32),
  }


def test_text_only_drops_sentinels_eos_and_padding():
  # 1,100 ids: sentinels are 1000 to 1099.
  weights = baselines.text_only(batch([[1099, 5, 999, 1000, 1, 0]]))
  np.testing.assert_array_equal(
    weights['decoder_loss_weights'], [[0, 1, 1, 0, 0, 0]]
  )


def test_unigram_cross_entropy_by_hand():
  """Counts 3 and 1, one added to each of 6 ids: 4/10 and 2/10."""
  train = [batch([[4, 4, 4, 5]])]
  held_out = [batch([[4, 5, 0, 0]])]
  expected = -(np.log(0.4) + np.log(0.2)) / 2
  assert baselines._unigram(train, held_out) == pytest.approx(expected)


@pytest.mark.parametrize(
  ('text', 'summary'),
  [
    ('Area is the size of a region, in maths.', 'size of a region'),
    ('Bach was a German composer who lived.', 'German composer'),
    ('No verb here. More', 'No verb here'),
  ],
)
def test_the_rule_written_by_hand(text, summary):
  assert baselines._after_is_a(9, text) == summary


def variant_record(stage, name, heads, method, loss, **more):
  return {
    'stage': stage,
    'name': name,
    'num_kv_heads': heads,
    'method': method,
    'step': 105,
    'parameters': 4_700_000,
    'seconds': 1.0,
    toy_report.LOSS: loss,
    toy_report.TEXT_LOSS: loss + 1,
    'provenance': {'cpus': 2},
    **more,
  }


def test_report_says_what_held_and_what_did_not(tmp_path):
  records = [
    {
      'stage': 'baselines',
      'seconds': 60.0,
      'unigram/cross_entropy': 5.0,
      'unigram_text/cross_entropy': 6.0,
      'first_words/words': 9,
      'first_words/rouge1': 20.0,
      'common_words/words': 3,
      'common_words/rouge1': 10.0,
      'after_is_a/words': 8,
      'after_is_a/rouge1': 40.0,
    },
  ]
  losses = {'mean': 3.5, 'random': 4.0, 'first': 4.5, 'subspace': 3.0}
  for stage in ('convert', 'uptrain'):
    step = {'convert': 100, 'uptrain': 105}[stage]
    records.append(
      {**variant_record(f'{stage}/mha', 'MHA', 8, 'mean', 3.0), 'step': step}
    )
    for method, loss in losses.items():
      name = f'MQA, {method}'
      records.append(variant_record(f'{stage}/{name}', name, 1, method, loss))
  rouge = {'test/rouge2': 1.0, 'test/rougeLsum': 2.0}
  for name, score in (('MHA', 25.0), ('MQA, mean', 15.0)):
    records.append(
      variant_record(
        f'finetune/{name}',
        name,
        8,
        None,
        0.0,
        **rouge,
        **{'test/rouge1': score},
      )
    )
  # A line of the file does not end at a line separator.
  prediction = {'inputs': 'i\u2028i', 'target': 't', 'prediction': 'p'}
  predictions = {'MHA': [prediction], 'MQA, mean': [prediction]}
  toy_report.write(tmp_path, records, predictions)
  report = (tmp_path / 'report.md').read_text()
  assert 'On text alone the model is 2.00 nats below unigrams.' in report
  assert (
    'converted: subspace 3.000 < mean 3.500 < random 4.000 < first 4.500 '
    '(not as in Figure 4).'
  ) in report
  assert '5 steps (5.0% of the pre-training' in ' '.join(report.split())
  assert (
    'Models that beat the first words: MHA; the most common words: MHA, MQA; '
    'the rule written by hand: none.'
  ) in report
  assert (tmp_path / 'ablation.png').stat().st_size > 10_000
  # Derived files come from records alone: the same bytes again.
  files = {p: p.read_bytes() for p in tmp_path.iterdir()}
  toy_report.write(tmp_path, records, predictions)
  assert {p: p.read_bytes() for p in tmp_path.iterdir()} == files
