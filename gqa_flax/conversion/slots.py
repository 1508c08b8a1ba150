"""Adafactor's statistics of a converted checkpoint, from those of the old one.

Adafactor keeps v ~ E[g^2] of every parameter, as a row and a column where it
is factored. Copying those of K and V would be wrong: their kernels change
shape, the smaller side may no longer be factored, and v_row, which drops the
larger side, swaps meaning with v_col once the kernel narrows. They are
rebuilt, in the notation of `alignment`, from k_h ~ k' Q_h^T:

  keys, values   g' = sum_h g_h Q_h, over the heads h of the group: the chain
                 rule, exact where k_h = k' Q_h^T. Taking the entries of g as
                 uncorrelated, v'[d, j] = sum_h sum_i v_h[d, i] Q_h[i, j]^2.
                 Pooling has Q_h = I: the sum, not the mean, of the group's v.
  queries        where they are rebased: g = x^T e with e = sum over the keys
                 of dlogit k, and e' the same of k'. Taking dlogit as
                 independent of k, a row's v is shared out in proportion to
                 the variance of the keys' coordinates:
                 v'[d, j] = (sum_i v[d, i]) E[k'_j^2] / sum_i E[k_i^2].
  outputs        likewise, with the values' coordinates, along the rows.

Both rules act on the side of the heads alone, so that a factored v stays one.
Everything else keeps its statistics; permuted heads take theirs along.
"""

from collections.abc import Mapping

import numpy as np

from gqa_flax.checkpoints.adafactor_state import SLOTS, slot_shapes
from gqa_flax.checkpoints.arrays import LazyArray
from gqa_flax.conversion.orders import SELF
from gqa_flax.conversion.plan import Conversion, projection_of


def carry(
  conversion: Conversion,
  slots: Mapping[str, LazyArray],
  shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, LazyArray]:
  """Returns the statistics of every parameter of the result.

  Args:
    conversion: what is done to the parameters.
    slots: of the source, by the parameter's name and '/v_row', '/v_col', '/v'.
    shapes: of the source's parameters.
  """
  carried = {}
  for name, shape in shapes.items():
    own = {
      kind: slots[f'{name}/{kind}']
      for kind in SLOTS
      if f'{name}/{kind}' in slots
    }
    if conversion.action(name) != 'copied':
      own = _rebuild(conversion, name, own, shape)
    carried.update({f'{name}/{kind}': x for kind, x in own.items()})
  return carried


def _rebuild(conversion, name, own, shape):
  """Returns lazy statistics of one parameter that changes."""
  new_shape = conversion.array(name).shape
  # The heads lie along the rows of output kernels and of the relative bias.
  axis = 0 if projection_of(name) in ('out', None) else 1

  def rebuilt(kind):
    def read_rows(start, stop):
      v = _Statistics.read(own, shape)
      v = v.along(axis, carry_rule(conversion, name))
      return v.slot(kind, new_shape)[start:stop]

    return read_rows

  return {
    kind: LazyArray(kept, np.dtype(np.float32), rebuilt(kind), kept[0])
    for kind, kept in slot_shapes(new_shape).items()
  }


def carry_rule(conversion: Conversion, name: str):
  """Returns what becomes of v = E[g^2] along the axis of the heads.

  Args:
    conversion: what is done to the parameters.
    name: of a parameter that changes.

  Returns:
    A linear function of arrays [..., heads * H], or of [..., heads] for the
    relative bias.
  """
  projection = projection_of(name)
  if projection is None:
    return lambda v: v[..., conversion.order(SELF)]
  attention = name.rsplit('/', 2)[0]
  config = conversion.config

  def shared(v):
    v_KH = v.reshape(*v.shape[:-1], -1, config.head_dim)
    v_KH = v_KH[..., conversion.kv_order(attention), :]
    if conversion.aligns:
      basis = conversion.bases(attention)[projection == 'value']
      v_KH = np.einsum('...hi,hij->...hj', v_KH, basis.unfold**2)
    groups = v_KH.reshape(
      *v.shape[:-1], config.num_kv_heads, -1, config.head_dim
    )
    return groups.sum(axis=-2).reshape(*v.shape[:-1], -1)

  def by_head(v):
    v_NH = v.reshape(*v.shape[:-1], -1, config.head_dim)
    v_NH = v_NH[..., conversion.order(attention), :]
    if conversion.aligns:
      basis = conversion.bases(attention)[projection == 'out']
      share_NH = conversion.per_query_head(basis.share)
      v_NH = v_NH.sum(axis=-1, keepdims=True) * share_NH
    return v_NH.reshape(v.shape)

  return shared if projection in ('key', 'value') else by_head


class _Statistics:
  """v of a matrix: whole, or as the means over its rows and its columns."""

  def __init__(self, whole=None, means=None):
    self._whole = whole
    self._means = means

  @classmethod
  def read(cls, own, shape) -> '_Statistics':
    if 'v' in own:
      return cls(whole=own['v'].read())
    # v_row is indexed by the side that is not the largest.
    row_axis = int(np.argsort(shape)[-2])
    row, col = own['v_row'].read(), own['v_col'].read()
    return cls(means=[row, col] if row_axis == 0 else [col, row])

  def along(self, axis, rule) -> '_Statistics':
    """Applies a linear rule for arrays [..., width] to one axis."""
    if self._whole is not None:
      return _Statistics(
        whole=np.moveaxis(rule(np.moveaxis(self._whole, axis, -1)), -1, axis)
      )
    means = list(self._means)
    changed = rule(means[axis])
    # v = a b^T / mean(b): the other side's mean changes with this one's.
    before = means[axis].mean()
    grown = changed.mean() / before if before else 1.0
    means[1 - axis] = means[1 - axis] * grown
    means[axis] = changed
    return _Statistics(means=means)

  def slot(self, kind, shape) -> np.ndarray:
    """Returns one of Adafactor's arrays for a parameter of this shape."""
    if kind == 'v':
      whole = self._whole
      if whole is None:
        rows, columns = self._means
        whole = np.outer(rows, columns) / (rows.mean() or 1.0)
      return whole.astype(np.float32)
    means = self._means
    if means is None:
      means = [self._whole.mean(axis=1), self._whole.mean(axis=0)]
    row_axis = int(np.argsort(shape)[-2])
    axis = row_axis if kind == 'v_row' else 1 - row_axis
    return means[axis].astype(np.float32)
