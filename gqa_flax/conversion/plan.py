"""What a conversion makes of each parameter, one array at a time."""

import dataclasses
import difflib
import threading
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from gqa_flax.checkpoints.arrays import LazyArray
from gqa_flax.config import T5Config, divisors
from gqa_flax.conversion import alignment, grouping, pooling
from gqa_flax.conversion.statistics import Statistics

ATTENTIONS = ('self_attention', 'encoder_decoder_attention')
_ALIGNMENTS = {'aligned': alignment.aligned, 'subspace': alignment.subspace}
METHODS = (*pooling.METHODS, *_ALIGNMENTS)
_RELATIVE_BIAS = 'decoder/relpos_bias/rel_embedding'


def is_pooled(name: str) -> bool:
  """Says whether conversion pools the parameter of this T5X name.

  These are the key and value kernels of the decoder, and no others: the
  encoder stays as it is, and the queries, output projections and relative
  biases keep all their heads.
  """
  return _projection(name) in ('key', 'value')


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
        instead of neighbours; see `grouping`.

    Raises:
      ValueError: if one of these does not fit the others.
    """
    self._params = params
    self._config = config
    self._num_kv_heads = num_kv_heads
    self._method = method
    self._seed = seed
    self._statistics = statistics
    self._permute = permute_heads and num_kv_heads < config.num_kv_heads
    self._check()
    self._bases: dict[str, tuple[alignment.Basis, alignment.Basis]] = {}
    self._orders: dict[str, np.ndarray] = {}
    self._locks = {name: threading.Lock() for name in self._attentions()}
    self._order_lock = threading.RLock()

  @property
  def config(self) -> T5Config:
    """The architecture of the result."""
    return dataclasses.replace(self._config, num_kv_heads=self._num_kv_heads)

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
    return {name: order.tolist() for name, order in self._orders.items()}

  def action(self, name: str) -> str:
    """Returns 'pooled', 'rebased', 'permuted' or 'copied'."""
    if self._num_kv_heads == self._config.num_kv_heads:
      return 'copied'
    projection = _projection(name)
    if projection in ('key', 'value'):
      return 'pooled'
    if projection and self._method in _ALIGNMENTS:
      return 'rebased'
    if self._permute and (projection or name == _RELATIVE_BIAS):
      return 'permuted'
    return 'copied'

  def array(self, name: str) -> LazyArray:
    """Returns a parameter of the result; reading it does the work."""
    source = self._params[name]
    if self.action(name) == 'copied':
      return source
    if name == _RELATIVE_BIAS:
      return _whole(
        source, source.shape, lambda bias: bias[self._order('self_attention')]
      )
    attention, projection = name.rsplit('/', 2)[0], _projection(name)
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
    with self._locks[attention]:
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

  def head_axis(self, name: str) -> int:
    """Returns the axis of a parameter that changes along which heads lie."""
    return 0 if _projection(name) in ('out', None) else 1

  def carry_rule(self, name: str):
    """Returns what becomes of E[g^2] along `head_axis`; see `slots`.

    Args:
      name: of a parameter whose action is not 'copied'.

    Returns:
      A linear function of arrays [..., heads * H], or of [..., heads] for the
      relative bias.
    """
    projection = _projection(name)
    if projection is None:
      return lambda v: v[..., self._order('self_attention')]
    attention, H = name.rsplit('/', 2)[0], self._config.head_dim
    order = self._order(attention)

    def rule(v):
      v_xhi = v.reshape(*v.shape[:-1], -1, H)
      if projection in ('key', 'value'):
        v_xhi = v_xhi[..., self._kv_order(order), :]
        if self._method in _ALIGNMENTS:
          basis = self.bases(attention)[projection == 'value']
          v_xhi = np.einsum('...hi,hij->...hj', v_xhi, basis.unfold**2)
        groups = v_xhi.reshape(*v.shape[:-1], self._num_kv_heads, -1, H)
        return groups.sum(axis=-2).reshape(*v.shape[:-1], -1)
      v_xhi = v_xhi[..., order, :]
      if self._method in _ALIGNMENTS:
        basis = self.bases(attention)[projection == 'out']
        share_NH = self._per_query_head(basis.share)
        v_xhi = v_xhi.sum(axis=-1, keepdims=True) * share_NH
      return v_xhi.reshape(v.shape)

    return rule

  def _kernel(self, attention: str, name: str):
    """Reads a query, key or value kernel [D, heads, H], heads reordered."""
    kernel = self._params[f'{attention}/{name}/kernel'].read()
    order = self._order(attention)
    if name != 'query':
      order = self._kv_order(order)
    H = self._config.head_dim
    return kernel.reshape(len(kernel), -1, H)[:, order]

  def _convert_shared(self, attention, projection, rows):
    """Folds rows of a key or value kernel, [rows, K * H], into fewer heads."""
    K, H = self._config.num_kv_heads, self._config.head_dim
    rows_DKH = rows.reshape(len(rows), K, H)
    rows_DKH = rows_DKH[:, self._kv_order(self._order(attention))]
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
    rows_DNH = rows_DNH[:, self._order(attention)]
    if self._method in _ALIGNMENTS:
      unfold_NHH = self._per_query_head(self.bases(attention)[0].unfold)
      rows_DNH = np.einsum('dnh,nhj->dnj', rows_DNH, unfold_NHH, optimize=True)
    return rows_DNH.reshape(len(rows), -1)

  def _convert_out(self, attention, kernel):
    """Permutes and rebases an output kernel, [N * H, D]."""
    config = self._config
    o_NHD = kernel.reshape(config.num_heads, config.head_dim, -1)
    o_NHD = o_NHD[self._order(attention)]
    if self._method in _ALIGNMENTS:
      unfold_NHH = self._per_query_head(self.bases(attention)[1].unfold)
      o_NHD = np.einsum('nhj,nhd->njd', unfold_NHH, o_NHD, optimize=True)
    return o_NHD.reshape(kernel.shape)

  def _per_query_head(self, x_KHH):
    """Repeats what each key/value head has for the query heads that read it."""
    group_size = self._config.num_heads // self._config.num_kv_heads
    return np.repeat(x_KHH.astype(np.float32), group_size, axis=0)

  def _draw(self, name, kernel):
    kernel_DKH = jnp.asarray(kernel).reshape(
      kernel.shape[0], self._config.num_kv_heads, self._config.head_dim
    )
    rng = pooling.kernel_rng(self._seed, name)
    drawn = pooling.random(kernel_DKH, self._num_kv_heads, rng)
    return np.asarray(drawn).reshape(kernel.shape[0], -1)

  def _order(self, attention) -> np.ndarray:
    """Returns which old head each head of the result was."""
    if not self._permute:
      return np.arange(self._config.num_heads)
    kind = attention.rpartition('/')[2]
    # The self-attentions share the relative bias, and so one permutation.
    key = kind if kind == 'self_attention' else attention
    with self._order_lock:
      if key not in self._orders:
        layers = [
          name
          for name in self._attentions()
          if name == attention or (key == kind and name.endswith(f'/{kind}'))
        ]
        affinity_NN = sum(self._affinity(layer) for layer in layers)
        self._orders[key] = grouping.permutation(
          affinity_NN, self._num_kv_heads
        )
      return self._orders[key]

  def _affinity(self, attention):
    """Returns how alike the keys and the values of each two heads are."""
    source = None
    if self._statistics is not None:
      source = self._statistics.of(attention)[1]
    H = self._config.head_dim
    rotate = self._method in _ALIGNMENTS
    total = 0
    for name, moment in (
      ('key', source and source.within),
      ('value', source and source.second),
    ):
      kernel = self._params[f'{attention}/{name}/kernel'].read()
      gram = alignment.gram(kernel.reshape(len(kernel), -1, H), moment)
      total += grouping.affinity(gram, rotate)
    return total

  def _kv_order(self, order) -> np.ndarray:
    """Heads are permuted only in multi-head checkpoints, keys with queries."""
    if self._permute:
      return order
    return np.arange(self._config.num_kv_heads)

  def _attentions(self) -> list[str]:
    return [
      f'decoder/layers_{i}/{kind}'
      for i in range(self._config.num_decoder_layers)
      for kind in ATTENTIONS
    ]

  def _check(self):
    check_conversion(self._config, self._num_kv_heads, self._method)
    config = self._config
    if self._method == 'subspace' and self._statistics is None:
      raise ValueError(
        "The method 'subspace' needs statistics of the attentions' inputs; "
        "give a CALIBRATION_TASK or a STATISTICS file, or choose 'aligned', "
        'which does without.'
      )
    if self._permute and config.num_kv_heads != config.num_heads:
      raise ValueError(
        f'Heads can be permuted only while each query head has its own '
        f'key/value head, but this checkpoint is grouped: {config.num_heads} '
        f'query heads, {config.num_kv_heads} key/value heads; leave out '
        'PERMUTE_HEADS.'
      )
    if self._statistics is not None:
      for attention in self._attentions():
        try:
          moments = self._statistics.of(attention)
        except KeyError as error:
          raise ValueError(
            f'The statistics have nothing about {error.args[0]}; collect them '
            'on this checkpoint.'
          ) from error
        for m in moments:
          if m.second.shape != (config.emb_dim, config.emb_dim):
            raise ValueError(
              f'The statistics of {attention} are {m.second.shape}, but this '
              f'checkpoint has width {config.emb_dim}; collect them on it.'
            )


def check_conversion(config: T5Config, num_kv_heads, method):
  """Raises ValueError unless the method exists and the heads divide."""
  if method not in METHODS:
    near = difflib.get_close_matches(str(method), METHODS, n=1)
    hint = f' Did you mean {near[0]!r}?' if near else ''
    raise ValueError(
      f'There is no conversion method {method!r}; choose one of '
      f'{list(METHODS)}.{hint}'
    )
  if num_kv_heads not in divisors(config.num_kv_heads):
    raise ValueError(
      f'num_kv_heads = {num_kv_heads} does not divide the '
      f'{config.num_kv_heads} key/value heads of the checkpoint; choose one of '
      f'{divisors(config.num_kv_heads)}.'
    )


def _projection(name: str) -> str | None:
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
