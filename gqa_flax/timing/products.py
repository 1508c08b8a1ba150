"""The FLOPs of a compiled program's matrix products; no JAX."""

import math
import re
from collections.abc import Mapping

from gqa_flax.timing.hlo import ARRAY, Instruction, Program, dims


def matrix_flops(program: Program) -> float:
  """Returns the FLOPs of one chip's matrix products."""
  shapes = {
    name: {i.name: i.type for i in instructions}
    for name, instructions in program.computations.items()
  }
  return sum(
    count * _product_flops(instruction, shapes[name])
    for name, instruction, count in program.weighed()
    if instruction.opcode in ('convolution', 'dot')
  )


def _product_flops(instruction: Instruction, types: Mapping[str, str]) -> float:
  out = dims(ARRAY.search(instruction.type)[2])
  lhs, rhs = (
    dims(ARRAY.search(types[name])[2]) for name in instruction.operands[:2]
  )
  if instruction.opcode == 'dot':
    contracted = re.search(
      r'lhs_contracting_dims=\{([\d,]*)\}', instruction.attributes
    )
    inner = math.prod(lhs[i] for i in dims(contracted[1]))
    return 2.0 * math.prod(out) * inner
  return _convolution_flops(instruction.attributes, lhs, rhs, out)


def _convolution_flops(attributes, lhs, rhs, out) -> float:
  """Returns the FLOPs of a convolution, as which TPUs run matrix products.

  Batch dimensions of a product become spatial ones, dilated so that a window
  meets one element of them: only what a window meets is counted.
  """
  labels = re.search(r'dim_labels=(\w+)_(\w+)->(\w+)', attributes)
  window = re.search(r'window=\{([^}]*)\}', attributes)
  options = dict(re.findall(r'(\w+)=(\S+)', window[1])) if window else {}
  spatial = sorted(c for c in labels[1] if c.isdigit())
  met = 1
  for i, c in enumerate(spatial):
    met *= _met(
      lhs[labels[1].index(c)],
      rhs[labels[2].index(c)],
      out[labels[3].index(c)],
      {name: value.split('x')[i] for name, value in options.items()},
    )
  features = rhs[labels[2].index('i')] * out[labels[3].index('f')]
  groups = re.search(r'batch_group_count=(\d+)', attributes)
  batch = lhs[labels[1].index('b')] // (int(groups[1]) if groups else 1)
  return 2.0 * met * features * batch


def _met(size, window, out, options) -> int:
  """Returns the pairs of output and window positions that meet an element."""
  stride = int(options.get('stride', 1))
  low = int(options.get('pad', '0_0').split('_')[0])
  base = int(options.get('lhs_dilate', 1))
  dilation = int(options.get('rhs_dilate', 1))
  count = 0
  for w in range(window):
    for o in range(out):
      position = o * stride - low + w * dilation
      if position % base == 0 and 0 <= position // base < size:
        count += 1
  return count
