"""Which heads share a group: those that resemble each other.

Permuting heads changes nothing in a multi-head attention as long as queries,
keys, values, output projections and the rows of the relative bias move
together. Cross-attention has no bias, so each layer may have its own order;
the self-attentions of a decoder share one bias, and so one order.
"""

import itertools

import numpy as np


def affinity(gram_KHKH, rotate: bool) -> np.ndarray:
  """Returns how alike any two heads are, float64 [K, K], 1 for equal heads.

  Heads g and h are compared by tr(A_gh) / sqrt(tr(A_gg) tr(A_hh)), the cosine
  between them, or, where a rotation may turn one into the other first, by the
  largest cosine of all rotations: the nuclear norm of A_gh in place of the
  trace.

  Args:
    gram_KHKH: from `alignment.gram`.
    rotate: whether conversion will rotate.
  """
  blocks = gram_KHKH.transpose(0, 2, 1, 3)
  if rotate:
    alike = np.linalg.svd(blocks, compute_uv=False).sum(axis=-1)
  else:
    alike = np.trace(blocks, axis1=2, axis2=3)
  size = np.sqrt(np.trace(blocks, axis1=2, axis2=3).diagonal())
  size = np.where(size > 0, size, 1)
  return alike / np.outer(size, size)


def permutation(affinity_KK, num_groups: int) -> np.ndarray:
  """Returns an order of heads whose contiguous groups are most alike.

  Starts from neighbors and exchanges two heads while the sum of affinities
  within groups grows; a local optimum, never worse than neighbors.

  Args:
    affinity_KK: symmetric.
    num_groups: a divisor of K.

  Returns:
    int [K]: the old head that stands at each place.
  """
  K = len(affinity_KK)
  size = K // num_groups
  alike = (affinity_KK + affinity_KK.T) / 2
  alike = alike - np.diag(np.diag(alike))
  order = np.arange(K)
  while True:
    groups = order.reshape(num_groups, size)
    # to_group[h, g]: affinity of head h to all heads of group g.
    to_group = np.stack([alike[:, group].sum(axis=1) for group in groups], 1)
    best, move = 1e-9, None
    for i, j in itertools.combinations(range(K), 2):
      a, b, ga, gb = order[i], order[j], i // size, j // size
      if ga == gb:
        continue
      gain = (
        to_group[a, gb] - to_group[a, ga] + to_group[b, ga] - to_group[b, gb]
      ) - 2 * alike[a, b]
      if gain > best:
        best, move = gain, (i, j)
    if move is None:
      return np.sort(groups, axis=1).reshape(-1)
    i, j = move
    order[i], order[j] = order[j], order[i]
