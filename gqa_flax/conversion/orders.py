"""The order of heads in each attention, where heads may change groups."""

import threading
from collections.abc import Mapping

import numpy as np

from gqa_flax.checkpoints.arrays import LazyArray, check_finite
from gqa_flax.config import T5Config
from gqa_flax.conversion import alignment, grouping
from gqa_flax.conversion.statistics import Statistics

SELF, CROSS = ATTENTIONS = ('self_attention', 'encoder_decoder_attention')


def attentions(config: T5Config, kind: str | None = None) -> list[str]:
  """Returns the names of the decoder's attentions, or of those of one kind."""
  kinds = ATTENTIONS if kind is None else (kind,)
  return [
    f'decoder/layers_{i}/{kind}'
    for i in range(config.num_decoder_layers)
    for kind in kinds
  ]


def read_heads(
  params: Mapping[str, LazyArray], name: str, head_dim: int, where: str
):
  """Reads a kernel as [D, heads, head_dim], to compare its heads.

  Raises:
    ValueError: if not all of it are numbers.
  """
  kernel = params[name].read()
  check_finite(kernel, name, where)
  return kernel.reshape(len(kernel), -1, head_dim)


class HeadOrders:
  """Finds the permutations that bring heads that are alike together.

  The self-attentions share the relative bias, and so one permutation, named
  'self_attention'; each cross-attention has its own. Thread-safe.
  """

  def __init__(
    self,
    params: Mapping[str, LazyArray],
    config: T5Config,
    num_kv_heads: int,
    statistics: Statistics | None,
    rotate: bool,
    where: str,
  ):
    """Reads nothing yet.

    Args:
      params: by T5X name.
      config: the architecture; multi-head.
      num_kv_heads: groups to be made.
      statistics: of the attentions' inputs; None compares weights alone.
      rotate: whether heads will be rotated onto each other.
      where: the checkpoint's path, for the errors.

    Raises:
      ValueError: if heads already share keys and values.
    """
    if config.num_kv_heads != config.num_heads:
      raise ValueError(
        f'Heads can be permuted only while each query head has its own '
        f'key/value head, but this checkpoint is grouped: {config.num_heads} '
        f'query heads, {config.num_kv_heads} key/value heads; leave out '
        'PERMUTE_HEADS.'
      )
    self._params = params
    self._config = config
    self._num_kv_heads = num_kv_heads
    self._statistics = statistics
    self._rotate = rotate
    self._where = where
    self._lock = threading.Lock()
    self.found: dict[str, np.ndarray] = {}

  def __getitem__(self, attention: str) -> np.ndarray:
    """Returns which old head stands at each place, int [N].

    Args:
      attention: such as 'decoder/layers_0/self_attention', or SELF for all
        of these.
    """
    shared = attention.endswith(SELF)
    key = SELF if shared else attention
    with self._lock:
      if key not in self.found:
        layers = attentions(self._config, SELF) if shared else [attention]
        affinity_NN = sum(self._affinity(layer) for layer in layers)
        self.found[key] = grouping.permutation(affinity_NN, self._num_kv_heads)
      return self.found[key]

  def _affinity(self, attention):
    """Returns how alike the keys and the values of each two heads are."""
    source = None
    if self._statistics is not None:
      source = self._statistics.of(attention)[1]
    total = 0
    for name, moment in (
      ('key', source and source.within),
      ('value', source and source.second),
    ):
      kernel_DKH = read_heads(
        self._params,
        f'{attention}/{name}/kernel',
        self._config.head_dim,
        self._where,
      )
      gram_KHKH = alignment.gram(kernel_DKH, moment)
      total += grouping.affinity(gram_KHKH, self._rotate)
    return total
