"""What chips exchange in a compiled program; no JAX."""

import dataclasses
import math
import re

from gqa_flax.timing.hlo import (
  ARRAY,
  Instruction,
  Program,
  array_bytes,
  dims,
  type_bytes,
)

COLLECTIVES = (
  'all-gather',
  'all-reduce',
  'reduce-scatter',
  'all-to-all',
  'collective-permute',
)


@dataclasses.dataclass(frozen=True)
class Collective:
  """One exchange between chips, by one chip.

  Attributes:
    kind: one of COLLECTIVES.
    size: bytes of the whole array: what all-gather and all-reduce leave on a
      chip, what reduce-scatter and the others start from.
    group_size: chips that exchange with each other.
    times: how often it runs.
  """

  kind: str
  size: float
  group_size: int
  times: float

  @property
  def sent(self) -> float:
    """Bytes a chip sends, all times together, in a ring."""
    share = (self.group_size - 1) / self.group_size
    factor = {'all-reduce': 2 * share, 'collective-permute': 1}
    return self.times * self.size * factor.get(self.kind, share)


def collectives(program: Program) -> list[Collective]:
  """Returns the exchanges, each once.

  An exchange that starts and ends apart, or in several fusions that compute
  meanwhile, is known by its channel.
  """
  found, channels = [], set()
  for name, instruction, count in program.weighed():
    kind = instruction.opcode.removesuffix('-start')
    if kind not in COLLECTIVES:
      continue
    channel = re.search(r'channel_id=(\d+)', instruction.attributes)
    if channel:
      if channel[1] in channels:
        continue
      channels.add(channel[1])
    if name.startswith('all-reduce-scatter'):
      kind = 'reduce-scatter'  # a fusion that keeps its chip's part
    size = _exchanged(program, name, instruction, kind)
    group = _group_size(instruction)
    if group > 1:
      found.append(Collective(kind, size, group, count))
  return found


def _exchanged(program, name, instruction, kind) -> float:
  if instruction.opcode == 'reduce-scatter':
    types = {i.name: i.type for i in program.computations[name]}
    return sum(type_bytes(types[o]) for o in instruction.operands)
  if not instruction.opcode.endswith('-start'):
    return type_bytes(instruction.type)
  # A start's result holds its operands as well, and a permute's two flags.
  sizes = [array_bytes(a) for a in ARRAY.findall(instruction.type)]
  if kind == 'all-reduce':
    return sum(sizes)
  if kind == 'collective-permute':
    return sizes[1]
  return sum(sizes[len(sizes) // 2 :])


def _group_size(instruction: Instruction) -> int:
  """Returns how many chips take part in one exchange."""
  text = instruction.attributes
  if 'source_target_pairs={' in text:
    pairs = re.findall(r'\{(\d+),(\d+)\}', text)
    return 2 if any(a != b for a, b in pairs) else 1
  if listed := re.search(r'replica_groups=\{\{([\d,]*)\}', text):
    return len(dims(listed[1]))
  if iota := re.search(r'replica_groups=\[(\d+),(\d+)\]<=', text):
    return int(iota[2])
  mesh = re.search(r'replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}', text)
  if mesh:
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
    return math.prod(int(sizes[a]) for a in re.findall(r"'(\w+)'", mesh[2]))
  raise ValueError(
    f'The exchange {instruction.name} does not say between which chips it is; '
    'teach timing.exchanges how its replica_groups are written.'
  )
