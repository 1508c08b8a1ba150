"""Intervals and p-values against what is known of the bootstrap."""

import math

import numpy as np
import pytest
import sacrebleu

from gqa_flax.evaluation import bootstrap, metrics

BLEU = metrics.get('bleu')


def mean(sums, num_examples):
  return sums / num_examples


def normal(seed, size, loc=0.0):
  return np.random.default_rng(seed).normal(loc, 1.0, (size, 1))


def test_the_interval_of_a_mean_is_the_normal_one():
  x = normal(0, 400)
  low, high = bootstrap.interval([x], mean, num_resamples=20_000)[:, 0]
  half = 1.96 * x.std() / math.sqrt(400)
  # Quantiles of 20,000 draws are off by some 2% of the half width.
  assert low == pytest.approx(x.mean() - half, abs=0.05 * half)
  assert high == pytest.approx(x.mean() + half, abs=0.05 * half)
  narrow = bootstrap.interval(
    [x], mean, num_resamples=20_000, confidence=0.6827
  )
  width = (narrow[1] - narrow[0])[0] / 2
  assert width == pytest.approx(x.std() / math.sqrt(400), rel=0.05)


def test_intervals_cover_the_truth_as_often_as_they_say():
  covered = 0
  for seed in range(300):
    low, high = bootstrap.interval(
      [normal(seed, 60)], mean, num_resamples=200, confidence=0.9
    )[:, 0]
    covered += low <= 0 <= high
  # Binomial: 270 +- 5; percentile intervals of 60 examples are a bit narrow.
  assert 255 <= covered <= 282


def test_p_values_are_as_rare_as_they_say_where_nothing_differs():
  small = 0
  for seed in range(300):
    a, b = normal(seed, 60), normal(seed + 1000, 60)
    paired = bootstrap.paired_difference([a], [b], mean, num_resamples=200)
    small += paired.p_value[0] <= 0.1
  assert 18 <= small <= 45


def test_one_column_for_each_score():
  x, y = normal(0, 50), normal(1, 50, loc=5)
  both = bootstrap.interval([np.hstack([x, y])], mean)
  assert both.shape == (2, 2)
  assert both[1, 0] < 1 < 4 < both[0, 1]


def test_the_same_twice_and_in_another_order_but_not_with_another_seed():
  x = np.hstack([normal(0, 50), normal(1, 50)])
  first = bootstrap.interval([x], mean)
  np.testing.assert_array_equal(first, bootstrap.interval([x], mean))
  np.testing.assert_array_equal(first, bootstrap.interval([x[::-1]], mean))
  assert (first != bootstrap.interval([x], mean, seed=1)).all()


def test_a_pair_in_another_order_is_the_same_pair():
  a, b = normal(0, 50), normal(1, 50)
  first = bootstrap.paired_difference([a], [b], mean)
  again = bootstrap.paired_difference([a[::-1]], [b[::-1]], mean)
  np.testing.assert_array_equal(first.interval, again.interval)
  np.testing.assert_array_equal(first.p_value, again.p_value)


def test_identical_systems_do_not_differ():
  a = normal(0, 50)
  paired = bootstrap.paired_difference([a], [a.copy()], mean)
  assert paired.interval.tolist() == [[0], [0]]
  assert paired.p_value.tolist() == [1]


def test_a_constant_shift_is_found_exactly():
  # Multiples of 1/8, so that no sum is rounded.
  a = np.round(8 * normal(0, 64)) / 8
  paired = bootstrap.paired_difference([a], [a + 0.5], mean)
  assert paired.interval.tolist() == [[0.5], [0.5]]
  assert paired.p_value.tolist() == [2 / 1001]
  paired = bootstrap.paired_difference([a + 0.5], [a], mean)
  assert paired.interval.tolist() == [[-0.5], [-0.5]]
  assert paired.p_value.tolist() == [2 / 1001]


def test_pairs_are_resampled_together():
  # Examples differ by far more than the systems; drawn apart, they would
  # give an interval as wide as 2 * 1.96 * sqrt(2) * 10 / 10.
  hard = 10 * normal(0, 100)
  a, b = hard + 0.1 * normal(1, 100), hard + 0.1 * normal(2, 100, loc=0.5)
  paired = bootstrap.paired_difference([a], [b], mean)
  low, high = paired.interval[:, 0]
  assert high - low == pytest.approx(2 * 1.96 * (b - a).std() / 10, rel=0.1)
  assert low < (b - a).mean() < high


def test_the_p_value_is_the_normal_one():
  # The mean difference is 1.5 standard errors: p = 0.134.
  d = normal(3, 400)
  d = (d - d.mean()) / d.std() + 1.5 / 20
  paired = bootstrap.paired_difference(
    [np.zeros_like(d)], [d], mean, num_resamples=20_000
  )
  assert paired.p_value[0] == pytest.approx(0.1336, abs=0.01)


def test_runs_are_averaged_example_by_example():
  runs = [normal(seed, 80) for seed in range(3)]
  together = bootstrap.interval([np.mean(runs, axis=0)], mean)
  # The draws are of other rows, for these are sorted by all runs.
  ends = bootstrap.interval(runs, mean, num_resamples=20_000)
  np.testing.assert_allclose(ends, together, atol=0.02)
  a, b = runs[:2], [run + 2 for run in runs]
  paired = bootstrap.paired_difference(a, b, mean, num_resamples=5000)
  differences = np.mean(b, axis=0) - np.mean(a, axis=0)
  half = 1.96 * differences.std() / math.sqrt(80)
  np.testing.assert_allclose(
    paired.interval[:, 0],
    [differences.mean() - half, differences.mean() + half],
    atol=0.1 * half,
  )


def bleu_texts():
  words = [f'w{i}' for i in range(12)]
  rng = np.random.default_rng(5)
  targets = [' '.join(rng.choice(words, 8)) for _ in range(40)]
  predictions = []
  for target in targets:
    tokens = np.array(target.split())
    tokens[rng.integers(8, size=3)] = 'x'
    predictions.append(' '.join(tokens))
  return targets, predictions


def test_bleu_is_resampled_by_its_counts():
  targets, predictions = bleu_texts()
  statistics = BLEU.statistics(targets, predictions)
  order = np.lexsort(statistics.T)
  rng = np.random.default_rng(bootstrap.SEED)
  scores = []
  for _ in range(50):
    draw = order[rng.integers(40, size=40)]
    scores.append(
      sacrebleu.corpus_bleu(
        [predictions[i] for i in draw],
        [[targets[i] for i in draw]],
        tokenize='intl',
        force=True,
      ).score
    )
  ends = bootstrap.interval([statistics], BLEU.scores, num_resamples=50)
  np.testing.assert_allclose(
    ends[:, 0], np.quantile(scores, [0.025, 0.975]), rtol=1e-12
  )
  # It is not the mean of the sentences' scores.
  assert ends[0, 0] < BLEU.corpus_scores(statistics)['bleu'] < ends[1, 0]


def test_bleu_of_runs_is_the_mean_of_their_scores_not_of_their_counts():
  targets, predictions = bleu_texts()
  good = BLEU.statistics(targets, targets)
  bad = BLEU.statistics(targets, predictions)
  paired = bootstrap.paired_difference([bad], [good, bad], BLEU.scores)
  # B - A = (100 + A) / 2 - A = (100 - A) / 2 in every draw.
  ends = bootstrap.interval([bad], BLEU.scores)
  np.testing.assert_allclose(
    paired.interval[:, 0], (100 - ends[::-1, 0]) / 2, rtol=0.02
  )


def test_the_spread_of_runs_by_hand():
  # Deviations -2, 0, 2: 8 / (3 - 1) = 4.
  assert bootstrap.spread([40.0, 42.0, 44.0]) == bootstrap.Spread(
    values=(40.0, 42.0, 44.0), mean=42.0, std=2.0, min=40.0, max=44.0
  )
  assert bootstrap.spread([40.1] * 3).std == 0
  assert bootstrap.spread([40.0]).std is None
