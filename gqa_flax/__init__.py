"""Grouped-query attention from multi-head T5 checkpoints, in JAX and Flax.

The public names below are imported when they are first used, so that
`import gqa_flax` alone loads neither JAX, TensorFlow nor gin.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from gqa_flax.checkpoints.formats import load_params, save_params
  from gqa_flax.config import T5Config
  from gqa_flax.conversion.convert import convert_params
  from gqa_flax.data.span_corruption import span_corruption
  from gqa_flax.inference.beam import beam_search
  from gqa_flax.inference.decode import greedy_decode, sample_decode
  from gqa_flax.inference.sampling import Greedy, Temperature
  from gqa_flax.model.attention import grouped_query_attention
  from gqa_flax.model.network import Transformer

_HOMES = {
  'T5Config': 'config',
  'Transformer': 'model.network',
  'grouped_query_attention': 'model.attention',
  'convert_params': 'conversion.convert',
  'load_params': 'checkpoints.formats',
  'save_params': 'checkpoints.formats',
  'greedy_decode': 'inference.decode',
  'sample_decode': 'inference.decode',
  'beam_search': 'inference.beam',
  'Greedy': 'inference.sampling',
  'Temperature': 'inference.sampling',
  'span_corruption': 'data.span_corruption',
}

__all__ = [
  'Greedy',
  'T5Config',
  'Temperature',
  'Transformer',
  'beam_search',
  'convert_params',
  'greedy_decode',
  'grouped_query_attention',
  'load_params',
  'sample_decode',
  'save_params',
  'span_corruption',
]


def __getattr__(name):
  if name not in _HOMES:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(f'{__name__}.{_HOMES[name]}'), name)


def __dir__():
  return sorted([*globals(), *__all__])
