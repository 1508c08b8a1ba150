"""What a conversion makes of each parameter, one array at a time."""

import dataclasses
import difflib
import threading
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from gqa_flax.checkpoints.arrays import LazyArray, check_finite
from gqa_flax.config import T5Config, check_integer, divisors
from gqa_flax.conversion import alignment, pooling
from gqa_flax.conversion.orders import (
  ATTENTIONS,
  SELF,
  HeadOrders,
  read_heads,
)
from gqa_flax.conversion.statistics import Statistics

_ALIGNMENTS = {'aligned': alignment.aligned, 'subspace': alignment.subspace}
METHODS = (*pooling.METHODS, *_ALIGNMENTS)
# Those that use statistics of the attentions' inputs.
CALIBRATED = tuple(_ALIGNMENTS)
RELATIVE_BIAS = 'decoder/relpos_bias/rel_embedding'


def is_pooled(name: str) -> bool:
  """Says whether conversion pools the parameter of this T5X name.

  These are the key and value kernels of the decoder, and no others: the
  encoder stays as it is, and the queries, output projections and relative
  biases keep all their heads.
  """
  return projection_of(name) in ('key', 'value')


@dataclasses.dataclass(frozen=True)
class Kept:
  """What the shared heads of one attention keep; see `alignment.Basis.kept`."""

  key: float
  value: float


class Conversion:
  """From K key/value heads to fewer, for arrays that are read when wanted.

  Thread-safe: arrays may be read in any order, by several threads.
  """

  def __init__(
    self,
    params: Mapping[str, LazyArray],
    config: T5Config,
    num_kv_heads: int,
    method: str,
    *,
    seed: int = 0,
    statistics: Statistics | None = None,
    permute_heads: bool = False,
    where: str = 'the tree given',
  ):
    """Checks that the conversion can be done; reads nothing yet.

    Args:
      params: by T5X name, all that `config` asks for.
      config: the architecture of `params`.
      num_kv_heads: of the result, a divisor of config.num_kv_heads.
      method: of `METHODS`.
      seed: of the draws of 'random'.
      statistics: of the attentions' inputs; 'subspace' needs them, 'aligned'
        uses them if they are given.
      permute_heads: whether heads that resemble each other share a group,
        instead of neighbors; see `grouping`.
      where: the checkpoint's path, for the errors.

    Raises:
      ValueError: if one of these does not fit the others.
    """
    self._params = params
    self._config = config
    self._num_kv_heads = num_kv_heads
    self._method = method
    self._seed = seed
    self._where = where
    self._statistics = statistics
    self._check()
    self._orders = None
    if permute_heads and num_kv_heads < config.num_kv_heads:
      self._orders = HeadOrders(
        params,
        config,
        num_kv_heads,
        statistics,
        method in _ALIGNMENTS,
        where,
      )
    self._bases: dict[str, tuple[alignment.Basis, alignment.Basis]] = {}
    # One for all: finding bases takes much memory, and threads by itself.
    self._lock = threading.Lock()

  @property
  def config(self) -> T5Config:
    """The architecture of the result."""
    return dataclasses.replace(self._config, num_kv_heads=self._num_kv_heads)

  @property
  def aligns(self) -> bool:
    """Whether the method changes the basis of the heads."""
    return self._method in _ALIGNMENTS

  @property
  def statistics(self) -> Statistics | None:
    """Those that the conversion uses."""
    return self._statistics

  @property
  def kept(self) -> dict[str, Kept]:
    """The variance kept by attention, of those that were converted so far."""
    return {
      attention: Kept(*(basis.kept for basis in bases))
      for attention, bases in sorted(self._bases.items())
    }

  @property
  def orders(self) -> dict[str, list[int]]:
    """The permutations of the query heads, where heads were permuted."""
    found = {} if self._orders is None else self._orders.found
    return {name: order.tolist() for name, order in found.items()}

  def action(self, name: str) -> str:
    """Returns 'pooled', 'rebased', 'permuted' or 'copied'."""
    if self._num_kv_heads == self._config.num_kv_heads:
      return 'copied'
    projection = projection_of(name)
    if projection in ('key', 'value'):
      return 'pooled'
    if projection and self.aligns:
      return 'rebased'
    if self._orders is not None and (projection or name == RELATIVE_BIAS):
      return 'permuted'
    return 'copied'

  def array(self, name: str) -> LazyArray:
    """Returns a parameter of the result; reading it does the work."""
    source = self._params[name]
    if self.action(name) == 'copied':
      return source
    if name == RELATIVE_BIAS:
      return _whole(source, source.shape, lambda bias: bias[self.order(SELF)])
    attention, projection = name.rsplit('/', 2)[0], projection_of(name)
    if projection == 'out':
      return _whole(
        source, source.shape, lambda x: self._convert_out(attention, x)
      )
    H = self._config.head_dim
    if projection == 'query':
      return dataclasses.replace(
        source,
        read_rows=lambda start, stop: self._convert_query(
          attention, source.read_rows(start, stop)
        ),
      )
    shape = (source.shape[0], self._num_kv_heads * H)
    if self._method == 'random':
      return _whole(source, shape, lambda x: self._draw(name, x))
    return dataclasses.replace(
      source,
      shape=shape,
      read_rows=lambda start, stop: self._convert_shared(
        attention, projection, source.read_rows(start, stop)
      ),
    )

  def bases(self, attention: str):
    """Returns the alignment.Basis of the keys and that of the values.

    Args:
      attention: such as 'decoder/layers_0/self_attention'.
    """
    with self._lock:
      if attention not in self._bases:
        self._bases[attention] = self._find_bases(attention)
      return self._bases[attention]

  def _find_bases(self, attention):
    config = self._config
    method = _ALIGNMENTS[self._method]
    q_DNH, k_DKH, v_DKH = (
      self._kernel(attention, name) for name in ('query', 'key', 'value')
    )
    query, source = None, None
    if self._statistics is not None:
      query, source = self._statistics.of(attention)
    # The queries that read one key head, together.
    D, N, H = q_DNH.shape
    K = config.num_kv_heads
    q_DKGH = q_DNH.reshape(D, K, N // K, H)
    weight_KHH = alignment.query_weight(q_DKGH, query and query.second)
    k_gram = alignment.gram(k_DKH, source and source.within)
    v_gram = alignment.gram(v_DKH, source and source.second)
    return (
      method(k_gram, self._num_kv_heads, weight_KHH),
      method(v_gram, self._num_kv_heads),
    )

  def order(self, attention: str) -> np.ndarray:
    """Returns which old query head each query head of the result was."""
    if self._orders is None:
      return np.arange(self._config.num_heads)
    return self._orders[attention]

  def kv_order(self, attention: str) -> np.ndarray:
    """Returns in which order key/value heads are taken, before they fold."""
    if self._orders is None:
      return np.arange(self._config.num_kv_heads)
    return self._orders[attention]

  def _kernel(self, attention: str, name: str):
    """Reads a query, key or value kernel [D, heads, H], heads reordered."""
    name_of = f'{attention}/{name}/kernel'
    kernel = read_heads(
      self._params, name_of, self._config.head_dim, self._where
    )
    order = (self.order if name == 'query' else self.kv_order)(attention)
    return kernel[:, order]

  def _convert_shared(self, attention, projection, rows):
    """Folds rows of a key or value kernel, [rows, K * H], into fewer heads."""
    K, H = self._config.num_kv_heads, self._config.head_dim
    check_finite(rows, f'{attention}/{projection}/kernel', self._where)
    rows_DKH = rows.reshape(len(rows), K, H).astype(np.float32, copy=False)
    rows_DKH = rows_DKH[:, self.kv_order(attention)]
    if self._method in pooling.METHODS:
      pool = pooling.METHODS[self._method]
      return pool(rows_DKH, self._num_kv_heads).reshape(len(rows), -1)
    basis = self.bases(attention)[projection == 'value']
    folded = np.einsum(
      'dkh,khj->dkj', rows_DKH, basis.fold.astype(np.float32), optimize=True
    )
    groups = folded.reshape(len(rows), self._num_kv_heads, -1, H)
    return groups.sum(axis=2).reshape(len(rows), -1)

  def _convert_query(self, attention, rows):
    """Permutes and rebases rows of a query kernel, [rows, N * H]."""
    config = self._config
    rows_DNH = rows.reshape(len(rows), config.num_heads, config.head_dim)
    rows_DNH = rows_DNH[:, self.order(attention)]
    if self.aligns:
      unfold_NHH = self.per_query_head(self.bases(attention)[0].unfold)
      rows_DNH = np.einsum('dnh,nhj->dnj', rows_DNH, unfold_NHH, optimize=True)
    return rows_DNH.reshape(len(rows), -1)

  def _convert_out(self, attention, kernel):
    """Permutes and rebases an output kernel, [N * H, D]."""
    config = self._config
    o_NHD = kernel.reshape(config.num_heads, config.head_dim, -1)
    o_NHD = o_NHD[self.order(attention)]
    if self.aligns:
      unfold_NHH = self.per_query_head(self.bases(attention)[1].unfold)
      o_NHD = np.einsum('nhj,nhd->njd', unfold_NHH, o_NHD, optimize=True)
    return o_NHD.reshape(kernel.shape)

  def per_query_head(self, x_KHH):
    """Repeats what each key/value head has for the query heads that read it."""
    group_size = self._config.num_heads // self._config.num_kv_heads
    return np.repeat(x_KHH.astype(np.float32), group_size, axis=0)

  def _draw(self, name, kernel):
    check_finite(kernel, name, self._where)
    kernel_DKH = jnp.asarray(kernel).reshape(
      kernel.shape[0], self._config.num_kv_heads, self._config.head_dim
    )
    rng = pooling.kernel_rng(self._seed, name)
    drawn = pooling.random(kernel_DKH, self._num_kv_heads, rng)
    return np.asarray(drawn).reshape(kernel.shape[0], -1)

  def _check(self):
    check_conversion(self._config, self._num_kv_heads, self._method)
    if self._method == 'subspace' and self._statistics is None:
      raise ValueError(
        "The method 'subspace' needs statistics of the attentions' inputs; "
        "give a CALIBRATION_TASK or a STATISTICS file, or choose 'aligned', "
        'which does without.'
      )
    if self._statistics is not None:
      self._statistics.check(self._config)


def check_conversion(config: T5Config, num_kv_heads, method):
  """Raises ValueError unless the method exists and the heads divide."""
  check_method(method)
  check_integer('num_kv_heads', num_kv_heads, 1)
  if num_kv_heads not in divisors(config.num_kv_heads):
    raise ValueError(
      f'num_kv_heads = {num_kv_heads} does not divide the '
      f'{config.num_kv_heads} key/value heads of the checkpoint; choose one of '
      f'{divisors(config.num_kv_heads)}.'
    )


def check_method(method):
  """Raises ValueError unless there is such a method."""
  if method not in METHODS:
    near = difflib.get_close_matches(str(method), METHODS, n=1)
    hint = f' Did you mean {near[0]!r}?' if near else ''
    raise ValueError(
      f'There is no conversion method {method!r}; choose one of '
      f'{list(METHODS)}.{hint}'
    )


def projection_of(name: str) -> str | None:
  """Returns 'query', 'key', 'value' or 'out' of a decoder's attention."""
  parts = name.split('/')
  if (
    len(parts) == 5
    and parts[0] == 'decoder'
    and parts[2] in ATTENTIONS
    and parts[4] == 'kernel'
  ):
    return parts[3]
  return None


def _whole(source: LazyArray, shape, convert) -> LazyArray:
  """An array that is converted in one piece, whatever rows are asked for."""
  return LazyArray(
    tuple(shape),
    source.dtype,
    lambda start, stop: convert(source.read())[start:stop],
    row_step=shape[0],
  )
