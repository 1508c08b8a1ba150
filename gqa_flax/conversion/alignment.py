"""Sharing key and value heads so that the function changes little.

T5 adds its position bias to the logits and rotates nothing, so with any
invertible R

  q k^T = (q R) (k R^-T)^T,    z W_o = (z S) (S^-1 W_o)

a head may use any basis: a change of it folds into the query and the output
kernels. Heads h of a group, whose keys are k_h = x W_k^h (row vectors, W_k^h
[D, H]), then share the keys

  k' = sum_h k_h P_h,    with    k_h ~ k' Q_h^T,

and the kernels become

  W_k' = sum_h W_k^h P_h,    W_q^h <- W_q^h Q_h        (keys)
  W_v' = sum_h W_v^h P_h,    W_o^h <- Q_h^T W_o^h      (values).

Pooling is the case without a change of basis: mean P_h = I / s, Q_h = I for a
group of s heads; first P_0 = I, all other P_h = 0. All that the methods below
ask of the model are Gram matrices [s H, s H] of a group's heads,

  A_gh = W^g^T C W^h,    C [D, D] the second moment of the inputs x,

and, for subspace, the weight [H, H] that each head's error carries. NumPy,
float64: eigenvectors of A are wanted down to small eigenvalues.
"""

import dataclasses

import numpy as np
import scipy.linalg

# Added to Gram matrices and weights, as a share of their mean diagonal.
RIDGE = 1e-5
_ITERATIONS = 30


@dataclasses.dataclass(frozen=True)
class Basis:
  """How the K heads of one kernel fold into fewer, and unfold.

  Attributes:
    fold: P, float64 [K, H, H].
    unfold: Q, float64 [K, H, H].
    share: E[k'_j^2] of the head's group over sum_i E[k_i^2] of the head,
      float64 [K, H].
    kept: share of the heads' variance, weighted as the method weighs it, that
      k' Q_h^T keeps of the k_h; 1 loses nothing.
  """

  fold: np.ndarray
  unfold: np.ndarray
  share: np.ndarray
  kept: float


def gram(kernel_DKH, moment_DD=None) -> np.ndarray:
  """Returns W^g^T C W^h of all pairs of heads, float64 [K, H, K, H].

  Args:
    kernel_DKH: key or value kernel.
    moment_DD: C; None is the identity, which weighs all inputs alike.
  """
  D, K, H = kernel_DKH.shape
  w = np.asarray(kernel_DKH, np.float32).reshape(D, K * H)
  if moment_DD is None:
    cw = w
  else:
    c = np.asarray(moment_DD, np.float32)
    cw = c @ w + np.float32(RIDGE * np.trace(c) / D) * w
  return (w.T @ cw).astype(np.float64).reshape(K, H, K, H)


def query_weight(query_DKGH, moment_DD=None) -> np.ndarray:
  """Returns the keys' weight, E[q^T q] of the queries that read each head.

  Args:
    query_DKGH: the query kernel, G query heads to each of K key heads.
    moment_DD: second moment of the queries' inputs; None is the identity.

  Returns:
    float64 [K, H, H].
  """
  q_DKGH = np.asarray(query_DKGH, np.float32)
  D, K, G, H = q_DKGH.shape
  q = q_DKGH.reshape(D, K * G * H)
  cq = q if moment_DD is None else np.asarray(moment_DD, np.float32) @ q
  return np.einsum(
    'dkgh,dkgj->khj', q_DKGH, cq.reshape(q_DKGH.shape), optimize=True
  ).astype(np.float64)


def mean(gram_KHKH, num_kv_heads, weight_KHH=None) -> Basis:
  """The paper's mean pooling, as a Basis."""
  K, H = gram_KHKH.shape[:2]
  s = K // num_kv_heads
  eye = np.broadcast_to(np.eye(H), (K, H, H))
  return _with_kept(eye / s, eye, gram_KHKH, num_kv_heads, weight_KHH)


def aligned(gram_KHKH, num_kv_heads, weight_KHH=None) -> Basis:
  """Rotates the heads of each group onto each other, then averages.

  Rotations R_h that minimise sum_h E|k_h R_h - mean_g k_g R_g|^2 (generalised
  Procrustes): R_h = U V^T with U S V^T = svd(sum_{g != h} A_hg R_g), in turn.
  It starts from the better of R = I, so that it never keeps less than the mean,
  and of each head turned onto those before it, which is exact for heads that
  are rotations of one. P_h = R_h / s, Q_h = R_h.

  Args:
    gram_KHKH: from `gram`.
    num_kv_heads: groups, a divisor of K.
    weight_KHH: as in `subspace`; only weighs what `kept` reports.
  """
  K, H = gram_KHKH.shape[:2]
  s = K // num_kv_heads
  rotation = np.tile(np.eye(H), (K, 1, 1))
  for start in range(0, K, s):
    group = slice(start, start + s)
    a = gram_KHKH[group, :, group]
    turned, still = rotation[group].copy(), rotation[group]
    # The first head may stay: only relative rotations count.
    for h in range(1, s):
      turned[h] = _turn(a[h, :, :h], turned[:h])
    r = max(turned, still, key=lambda r: _agreement(a, r))
    for _ in range(0 if s <= 2 else _ITERATIONS):
      for h in range(1, s):
        others = np.arange(s) != h
        r[h] = _turn(a[h][:, others], r[others])
    rotation[group] = r
  return _with_kept(rotation / s, rotation, gram_KHKH, num_kv_heads, weight_KHH)


def subspace(gram_KHKH, num_kv_heads, weight_KHH=None) -> Basis:
  """The shared heads from which the group's own are best recovered.

  Minimises sum_h E[(k_h - k' Q_h^T) M_h (k_h - k' Q_h^T)^T] over all P and Q,
  where M_h is the weight of head h: of keys E[q_h^T q_h], so that what is
  kept small is the error of the logits; values are weighed alike. With
  B = diag(M_h^(1/2)) and V the H leading eigenvectors of B A B,

    P = B V,    Q = B^-1 V,

  scaled so that k' has the mean variance of the k_h. With one head a group,
  P Q^T = I: nothing is lost.

  Args:
    gram_KHKH: from `gram`.
    num_kv_heads: groups, a divisor of K.
    weight_KHH: M, [K, H, H], positive semidefinite; None weighs all alike.
  """
  K, H = gram_KHKH.shape[:2]
  s = K // num_kv_heads
  if weight_KHH is None:
    weight_KHH = np.broadcast_to(np.eye(H), (K, H, H))
  fold, unfold = np.empty((K, H, H)), np.empty((K, H, H))
  for start in range(0, K, s):
    group = slice(start, start + s)
    # Of the group, not of the head: one that nobody reads has no weight.
    ridge = RIDGE * np.trace(weight_KHH[group].mean(axis=0)) / H or 1.0
    roots = [_root(weight, ridge) for weight in weight_KHH[group]]
    a = gram_KHKH[group, :, group].reshape(s * H, s * H)
    b = scipy.linalg.block_diag(*(root for root, _ in roots))
    bab = b @ a @ b
    first = s * H - H
    _, v = scipy.linalg.eigh(
      (bab + bab.T) / 2, subset_by_index=[first, s * H - 1]
    )
    v_sHH = v[:, ::-1].reshape(s, H, H)
    p = np.stack([root @ v for (root, _), v in zip(roots, v_sHH)])
    q = np.stack([inverse @ v for (_, inverse), v in zip(roots, v_sHH)])
    flat = p.reshape(s * H, H)
    size = np.trace(flat.T @ a @ flat)
    scale = np.sqrt(np.trace(a) / s / size) if size > 0 else 1.0
    fold[group], unfold[group] = p * scale, q / scale
  return _with_kept(fold, unfold, gram_KHKH, num_kv_heads, weight_KHH)


def _turn(gram_HgH, rotation_gHH):
  """Returns the rotation of a head onto the sum of others, turned."""
  u, _, vt = np.linalg.svd(np.einsum('igj,gjk->ik', gram_HgH, rotation_gHH))
  return u @ vt


def _agreement(gram_sHsH, rotation_sHH):
  """Returns E|sum_h k_h R_h|^2, which is what rotations can change."""
  s, H = gram_sHsH.shape[:2]
  r = rotation_sHH.reshape(s * H, H)
  return np.sum(r * (gram_sHsH.reshape(s * H, s * H) @ r))


def _root(weight_HH, ridge):
  """Returns (M^(1/2), M^(-1/2)) of a positive semidefinite matrix."""
  values, vectors = np.linalg.eigh((weight_HH + weight_HH.T) / 2)
  root = np.sqrt(np.maximum(values, 0) + ridge)
  return (vectors * root) @ vectors.T, (vectors / root) @ vectors.T


def _with_kept(fold, unfold, gram_KHKH, num_kv_heads, weight_KHH) -> Basis:
  """Adds the share of the weighted variance that survives fold and unfold."""
  K, H = gram_KHKH.shape[:2]
  s = K // num_kv_heads
  total = lost = 0.0
  share = np.empty((K, H))
  for start in range(0, K, s):
    group = slice(start, start + s)
    a = gram_KHKH[group, :, group].reshape(s * H, s * H)
    p = fold[group].reshape(s * H, H)
    shared = np.einsum('ij,ik,kj->j', p, a, p, optimize=True)
    for i in range(s):
      h = start + i
      variance = np.trace(gram_KHKH[h, :, h])
      share[h] = shared / variance if variance > 0 else 1 / H
      error = -p @ unfold[h].T
      error[i * H : (i + 1) * H] += np.eye(H)
      m = np.eye(H) if weight_KHH is None else weight_KHH[h]
      lost += np.sum((error.T @ a @ error) * m)
      total += np.sum(gram_KHKH[h, :, h] * m)
  kept = 1 - lost / total if total > 0 else 1.0
  return Basis(fold, unfold, share, float(kept))
