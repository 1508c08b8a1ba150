"""Orders of heads against groups that were planted."""

import numpy as np
import pytest

from gqa_flax.conversion import alignment, grouping

D, H = 20, 4


def kernel_of(rng, families, turn=None):
  """A kernel [D, K, H] whose head h is a noisy copy of families[h]'s."""
  ones = rng.normal(size=(max(families) + 1, D, H))
  heads = ones[families]
  if turn is not None:
    heads = np.stack([head @ turn() for head in heads])
  noise = 0.05 * rng.normal(size=heads.shape)
  return (heads + noise).transpose(1, 0, 2)


def rotation(rng):
  return np.linalg.qr(rng.normal(size=(H, H)))[0]


def within(affinity, order, num_groups):
  """The sum of affinities of different heads of one group."""
  return sum(
    affinity[np.ix_(group, group)].sum() - affinity[group, group].sum()
    for group in np.reshape(order, (num_groups, -1))
  )


@pytest.mark.parametrize('rotate', [False, True])
@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize('num_groups', [2, 4])
def test_planted_groups_are_found(rotate, seed, num_groups):
  rng = np.random.default_rng(seed)
  families = rng.permutation(np.repeat(np.arange(num_groups), 8 // num_groups))
  turn = (lambda: rotation(rng)) if rotate else None
  kernel = kernel_of(rng, families, turn)
  affinity = grouping.affinity(alignment.gram(kernel), rotate)
  order = grouping.permutation(affinity, num_groups)
  assert sorted(order) == list(range(8))
  for group in families[order].reshape(num_groups, -1):
    assert len(set(group)) == 1


@pytest.mark.parametrize('seed', range(10))
@pytest.mark.parametrize('num_groups', [1, 2, 3, 6, 12])
def test_an_order_is_a_permutation_no_worse_than_neighbours(seed, num_groups):
  rng = np.random.default_rng(seed)
  affinity = rng.uniform(-1, 1, (12, 12))
  affinity = (affinity + affinity.T) / 2
  order = grouping.permutation(affinity, num_groups)
  assert sorted(order) == list(range(12))
  best = within(affinity, order, num_groups)
  assert best >= within(affinity, np.arange(12), num_groups) - 1e-9
  if num_groups in (1, 12):
    np.testing.assert_array_equal(order, np.arange(12))
  # No exchange of two heads betters it.
  for i in range(12):
    for j in range(i):
      other = order.copy()
      other[[i, j]] = order[[j, i]]
      assert within(affinity, other, num_groups) <= best + 1e-8


def test_neighbours_that_are_alike_stay():
  rng = np.random.default_rng(0)
  kernel = kernel_of(rng, np.repeat(np.arange(4), 2))
  affinity = grouping.affinity(alignment.gram(kernel), False)
  np.testing.assert_array_equal(grouping.permutation(affinity, 4), np.arange(8))


def test_affinity_is_a_cosine_of_heads():
  rng = np.random.default_rng(1)
  one, other = rng.normal(size=(2, D, H))
  turned = one @ rotation(rng)
  kernel = np.stack([one, 3 * one, turned, other], axis=1)
  gram = alignment.gram(kernel)
  plain, rotated = (grouping.affinity(gram, rotate) for rotate in (False, True))
  for affinity in (plain, rotated):
    np.testing.assert_allclose(affinity, affinity.T, rtol=1e-5)
    np.testing.assert_allclose(affinity.diagonal(), 1, rtol=1e-5)
    assert affinity[0, 1] == pytest.approx(1, rel=1e-5)
  cosine = np.sum(one * other) / np.linalg.norm(one) / np.linalg.norm(other)
  assert plain[0, 3] == pytest.approx(cosine, rel=1e-4)
  assert plain[0, 2] < 0.9
  assert rotated[0, 2] == pytest.approx(1, rel=1e-5)
  assert rotated[1, 2] == pytest.approx(1, rel=1e-5)
  assert plain[0, 3] < rotated[0, 3] < 1


@pytest.mark.parametrize('rotate', [False, True])
def test_a_head_of_zeros_resembles_none(rotate):
  kernel = np.random.default_rng(2).normal(size=(D, 3, H))
  kernel[:, 1] = 0
  affinity = grouping.affinity(alignment.gram(kernel), rotate)
  np.testing.assert_array_equal(affinity[1], 0)
