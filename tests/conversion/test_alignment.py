"""Changes of basis against what they promise: the function stays."""

import dataclasses

import numpy as np
import pytest

from gqa_flax.conversion import alignment

K, G, H, D, TOKENS = 4, 2, 3, 24, 40
METHODS = {
  'mean': alignment.mean,
  'aligned': alignment.aligned,
  'subspace': alignment.subspace,
}


@dataclasses.dataclass
class Sampled:
  """Heads k_h of some tokens, [TOKENS, K, H], and a weight [K, H, H]."""

  heads: np.ndarray
  weight: np.ndarray

  @classmethod
  def draw(cls, seed):
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(TOKENS, 5)) @ rng.normal(size=(5, K * H))
    heads = (mixed + rng.normal(size=mixed.shape)).reshape(TOKENS, K, H)
    queries = rng.normal(size=(K, 7, H)) * rng.uniform(0.2, 2, (K, 1, H))
    return cls(heads, np.einsum('kni,knj->kij', queries, queries))

  @property
  def gram(self):
    return np.einsum('tgi,thj->gihj', self.heads, self.heads) / TOKENS

  def shared(self, fold, num_kv_heads):
    """k' of every group, [TOKENS, num_kv_heads, H]."""
    folded = np.stack([self.heads[:, h] @ fold[h] for h in range(K)], 1)
    return folded.reshape(TOKENS, num_kv_heads, -1, H).sum(axis=2)

  def kept(self, fold, unfold, num_kv_heads, weight):
    """The definition: what is left of sum_h E[e M_h e^T]."""
    shared = self.shared(fold, num_kv_heads)
    lost = total = 0.0
    for h in range(K):
      k = self.heads[:, h]
      error = k - shared[:, h * num_kv_heads // K] @ unfold[h].T
      lost += np.einsum('ti,ij,tj->', error, weight[h], error)
      total += np.einsum('ti,ij,tj->', k, weight[h], k)
    return 1 - lost / total


def eyes():
  return np.tile(np.eye(H), (K, 1, 1))


def rotations(rng, number=K):
  return np.stack(
    [np.linalg.qr(rng.normal(size=(H, H)))[0] for _ in range(number)]
  )


def invertible(rng, number=K):
  """Matrices with singular values from 1/2 to 2."""
  values = rng.uniform(0.5, 2, (number, 1, H))
  return rotations(rng, number) * values @ rotations(rng, number)


@dataclasses.dataclass
class Attention:
  """Kernels [D, K, H] of keys and values; G query heads read each."""

  query_DKGH: np.ndarray
  key_DKH: np.ndarray
  value_DKH: np.ndarray
  out_KGHD: np.ndarray
  moment_DD: np.ndarray

  @classmethod
  def draw(cls, rng, num_kv_heads, turn):
    """Heads of a group that are turn(rng) [K, H, H] of one kernel [D, H]."""

    def shared_kernel():
      one = rng.normal(size=(D, num_kv_heads, H))
      return np.einsum(
        'dkh,khj->dkj', np.repeat(one, K // num_kv_heads, 1), turn(rng)
      )

    inputs = rng.normal(size=(60, D)) * rng.uniform(0.3, 3, D)
    return cls(
      rng.normal(size=(D, K, G, H)),
      shared_kernel(),
      shared_kernel(),
      rng.normal(size=(K, G, H, D)),
      inputs.T @ inputs / 60,
    )

  def rebased(self, keys, values, num_kv_heads):
    """Applies the docstring's formulae; K' heads instead of K."""

    def fold(kernel, basis):
      folded = np.einsum('dkh,khj->dkj', kernel, basis.fold)
      return folded.reshape(D, num_kv_heads, -1, H).sum(axis=2)

    return dataclasses.replace(
      self,
      query_DKGH=np.einsum('dkgh,khj->dkgj', self.query_DKGH, keys.unfold),
      key_DKH=fold(self.key_DKH, keys),
      value_DKH=fold(self.value_DKH, values),
      out_KGHD=np.einsum('khj,kghd->kgjd', values.unfold, self.out_KGHD),
    )

  def bases(self, method, num_kv_heads, weighted):
    moment = self.moment_DD if weighted else None
    query_weight = alignment.query_weight(self.query_DKGH, moment)
    output_weight = np.einsum('kghd,kgjd->khj', self.out_KGHD, self.out_KGHD)
    return (
      method(
        alignment.gram(self.key_DKH, moment),
        num_kv_heads,
        query_weight if weighted else None,
      ),
      method(
        alignment.gram(self.value_DKH, moment),
        num_kv_heads,
        output_weight if weighted else None,
      ),
    )

  def logits(self, x_TD, y_SD):
    q = np.einsum('td,dkgh->kgth', x_TD, self.query_DKGH)
    k = np.einsum('sd,dkh->ksh', y_SD, self.key_DKH)
    k = np.repeat(k, K // len(k), axis=0)
    return np.einsum('kgth,ksh->kgts', q, k)

  def output(self, probs_KGTS, y_SD):
    v = np.einsum('sd,dkh->ksh', y_SD, self.value_DKH)
    v = np.repeat(v, K // len(v), axis=0)
    return np.einsum('kgts,ksh,kghd->td', probs_KGTS, v, self.out_KGHD)


def worst_error(attention, method, num_kv_heads, weighted, rng):
  """The larger relative change of the logits and of the output."""
  bases = attention.bases(method, num_kv_heads, weighted)
  other = attention.rebased(*bases, num_kv_heads)
  x, y = rng.normal(size=(5, D)), rng.normal(size=(6, D))
  probs = rng.dirichlet(np.ones(6), (K, G, 5))
  errors = []
  for before, after in (
    (attention.logits(x, y), other.logits(x, y)),
    (attention.output(probs, y), other.output(probs, y)),
  ):
    errors.append(np.abs(after - before).max() / np.abs(before).max())
  return max(errors), bases


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('weighted', [False, True])
def test_as_many_heads_as_before_lose_nothing(method, weighted):
  sampled = Sampled.draw(0)
  weight = sampled.weight if weighted else None
  basis = METHODS[method](sampled.gram, K, weight)
  for fold, unfold in zip(basis.fold, basis.unfold):
    np.testing.assert_allclose(fold @ unfold.T, np.eye(H), atol=1e-6)
  assert basis.kept == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize('num_kv_heads', [1, 2])
def test_subspace_is_exact_where_the_heads_of_a_group_span_one(
  num_kv_heads, weighted
):
  rng = np.random.default_rng(num_kv_heads)
  attention = Attention.draw(rng, num_kv_heads, invertible)
  error, bases = worst_error(
    attention, alignment.subspace, num_kv_heads, weighted, rng
  )
  assert error < 1e-5
  assert all(basis.kept == pytest.approx(1, abs=1e-5) for basis in bases)
  mean, _ = worst_error(attention, alignment.mean, num_kv_heads, weighted, rng)
  aligned, _ = worst_error(
    attention, alignment.aligned, num_kv_heads, weighted, rng
  )
  assert min(mean, aligned) > 0.1


@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize('num_kv_heads', [1, 2])
@pytest.mark.parametrize('seed', range(20))
def test_aligned_is_exact_for_rotations_of_one_head(
  num_kv_heads, weighted, seed
):
  rng = np.random.default_rng(seed)
  attention = Attention.draw(rng, num_kv_heads, rotations)
  error, bases = worst_error(
    attention, alignment.aligned, num_kv_heads, weighted, rng
  )
  assert error < 1e-4
  assert all(basis.kept == pytest.approx(1, abs=1e-4) for basis in bases)
  mean, _ = worst_error(attention, alignment.mean, num_kv_heads, weighted, rng)
  assert mean > 0.1


def test_mean_is_exact_for_equal_heads():
  rng = np.random.default_rng(0)
  attention = Attention.draw(rng, 2, lambda _: eyes())
  error, _ = worst_error(attention, alignment.mean, 2, True, rng)
  assert error < 1e-12


@pytest.mark.parametrize('num_kv_heads', [1, 2])
@pytest.mark.parametrize('seed', range(10))
def test_the_methods_keep_what_they_promise(num_kv_heads, seed):
  """Rotations beat none, and nothing beats the subspace."""
  sampled = Sampled.draw(seed)
  for weight in (None, sampled.weight):
    kept = {
      name: method(sampled.gram, num_kv_heads, weight).kept
      for name, method in METHODS.items()
    }
    if weight is None:
      assert kept['aligned'] > kept['mean'] + 1e-3
    assert kept['subspace'] > max(kept['aligned'], kept['mean']) + 1e-3
    assert kept['subspace'] < 1


@pytest.mark.parametrize('size', [1e-3, 1e-2, 0.3])
@pytest.mark.parametrize('num_kv_heads', [1, 2])
def test_no_basis_near_the_subspace_keeps_more(num_kv_heads, size):
  sampled = Sampled.draw(3)
  basis = alignment.subspace(sampled.gram, num_kv_heads, sampled.weight)
  rng = np.random.default_rng(0)
  for _ in range(50):
    fold, unfold = (
      x * (1 + size * rng.normal(size=x.shape))
      for x in (basis.fold, basis.unfold)
    )
    other = sampled.kept(fold, unfold, num_kv_heads, sampled.weight)
    assert other < basis.kept
  # The best unfolding of other folds: least squares.
  for _ in range(20):
    fold = basis.fold + size * rng.normal(size=basis.fold.shape)
    shared = np.repeat(
      sampled.shared(fold, num_kv_heads), K // num_kv_heads, axis=1
    )
    unfold = np.stack(
      [
        np.linalg.lstsq(shared[:, h], sampled.heads[:, h], rcond=None)[0].T
        for h in range(K)
      ]
    )
    other = sampled.kept(fold, unfold, num_kv_heads, sampled.weight)
    assert other < basis.kept + 1e-9


@pytest.mark.parametrize('num_kv_heads', [1, 2, 4])
def test_aligned_rotates(num_kv_heads):
  basis = alignment.aligned(Sampled.draw(1).gram, num_kv_heads)
  size = K // num_kv_heads
  for fold, unfold in zip(basis.fold, basis.unfold):
    np.testing.assert_allclose(unfold.T @ unfold, np.eye(H), atol=1e-12)
    np.testing.assert_allclose(fold * size, unfold, atol=1e-12)


@pytest.mark.parametrize('num_kv_heads', [1, 2])
@pytest.mark.parametrize('method', METHODS)
def test_kept_and_share_are_those_of_the_samples(method, num_kv_heads):
  sampled = Sampled.draw(2)
  for weight in (None, sampled.weight):
    basis = METHODS[method](sampled.gram, num_kv_heads, weight)
    expected = sampled.kept(
      basis.fold,
      basis.unfold,
      num_kv_heads,
      eyes() if weight is None else weight,
    )
    assert basis.kept == pytest.approx(expected, abs=1e-12)
    squares = (sampled.shared(basis.fold, num_kv_heads) ** 2).mean(axis=0)
    for h in range(K):
      np.testing.assert_allclose(
        basis.share[h],
        squares[h * num_kv_heads // K]
        / (sampled.heads[:, h] ** 2).mean(0).sum(),
        rtol=1e-10,
      )


@pytest.mark.parametrize('num_kv_heads', [1, 2, 4])
def test_the_subspace_s_heads_are_as_large_as_those_they_replace(num_kv_heads):
  sampled = Sampled.draw(4)
  basis = alignment.subspace(sampled.gram, num_kv_heads, sampled.weight)
  shared = (sampled.shared(basis.fold, num_kv_heads) ** 2).sum(axis=2).mean(0)
  heads = (sampled.heads**2).sum(axis=2).mean(0)
  np.testing.assert_allclose(
    shared, heads.reshape(num_kv_heads, -1).mean(axis=1), rtol=1e-10
  )


def test_a_weight_says_which_errors_count():
  """Two heads that share nothing: the one that is read is kept."""
  gram = np.zeros((2, H, 2, H))
  gram[0, :, 0] = gram[1, :, 1] = np.diag([3.0, 2, 1])
  for read in (0, 1):
    weight = np.zeros((2, H, H))
    weight[read] = np.eye(H)
    basis = alignment.subspace(gram, 1, weight)
    assert basis.kept == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(
      basis.fold[read] @ basis.unfold[read].T, np.eye(H), atol=1e-4
    )


@pytest.mark.parametrize('dead', [[1], [0, 1], [0, 1, 2, 3]])
@pytest.mark.parametrize('method', METHODS)
def test_heads_that_are_zero_do_no_harm(method, dead):
  sampled = Sampled.draw(6)
  sampled.heads[:, dead] = 0
  unread = sampled.weight.copy()
  unread[dead] = 0
  for weight in (None, sampled.weight, unread):
    basis = METHODS[method](sampled.gram, 2, weight)
    for x in (basis.fold, basis.unfold, basis.share, basis.kept):
      assert np.isfinite(x).all()
    if len(dead) == 4:
      assert basis.kept == 1


def test_grams_and_weights_are_their_formulae():
  rng = np.random.default_rng(5)
  attention = Attention.draw(rng, 4, invertible)
  key, moment = attention.key_DKH, attention.moment_DD
  query = attention.query_DKGH
  plain, weighted = alignment.gram(key), alignment.gram(key, moment)
  ridge = alignment.RIDGE * np.trace(moment) / D * np.eye(D)
  for g in range(K):
    for h in range(K):
      np.testing.assert_allclose(
        plain[g, :, h], key[:, g].T @ key[:, h], rtol=1e-4, atol=1e-4
      )
      np.testing.assert_allclose(
        weighted[g, :, h],
        key[:, g].T @ (moment + ridge) @ key[:, h],
        rtol=1e-4,
        atol=1e-3,
      )
    for c, weight in (
      (np.eye(D), alignment.query_weight(query)),
      (moment, alignment.query_weight(query, moment)),
    ):
      np.testing.assert_allclose(
        weight[g],
        sum(query[:, g, i].T @ c @ query[:, g, i] for i in range(G)),
        rtol=1e-4,
        atol=1e-3,
      )
  assert plain.dtype == weighted.dtype == np.float64
