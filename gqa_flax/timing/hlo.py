"""Reads compiled programs (HLO text), and how often each part runs; no JAX.

The compiler's own totals count the body of a loop once. Here every computation
is weighed by how often it runs: the body of a `while` by its trip count.
"""

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping

_BYTES = {'pred': 1, 'bf16': 2, 'f16': 2, 's4': 0.5, 'u4': 0.5}
ARRAY = re.compile(r'\b(pred|bf16|[fsuc]\d+\w*)\[([\d,]*)\]')
_HEADER = re.compile(r'^(ENTRY )?%?([\w.-]+) \(')
_NAME = re.compile(r'^\s+(ROOT )?%?([\w.-]+) = ')
_OPCODE = re.compile(r' ?([a-z][\w-]*)\(([^()]*)\)')
_CALLED = re.compile(
  r'\b(?:calls|body|condition|to_apply)=%?([\w.-]+)'
  r'|\b(?:branch_computations|called_computations)=\{([^}]*)\}'
)
_REFERENCE = re.compile(r'%([\w.-]+)')
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"?(\d+)')


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line of a computation.

  Attributes:
    name: unique within the computation.
    opcode: such as 'fusion' or 'all-reduce'.
    type: of the result, with layouts.
    operands: names, or the number of a constant.
    attributes: the rest of the line.
    is_root: whether it is the computation's result.
  """

  name: str
  opcode: str
  type: str
  operands: tuple[str, ...]
  attributes: str
  is_root: bool

  @property
  def called(self) -> list[str]:
    """Names of the computations that it runs."""
    names = []
    for one, several in _CALLED.findall(self.attributes):
      names += [one] if one else re.findall(r'[\w.-]+', several)
    return names


@dataclasses.dataclass(frozen=True)
class Program:
  """A compiled program.

  Attributes:
    computations: name to instructions.
    entry: the name of the one that is run.
  """

  computations: Mapping[str, tuple[Instruction, ...]]
  entry: str

  @classmethod
  def parse(cls, text: str) -> 'Program':
    """Reads a compiled program's text.

    Raises:
      ValueError: if it has no ENTRY.
    """
    computations: dict[str, list[Instruction]] = {}
    entry, current = None, None
    for line in text.splitlines():
      if not line.startswith(' '):
        header = _HEADER.match(line)
        if header and line.endswith('{'):
          current = computations.setdefault(header[2], [])
          entry = header[2] if header[1] else entry
      elif current is not None and (instruction := _instruction(line)):
        current.append(instruction)
    if entry is None:
      raise ValueError(
        'The text of a compiled program has no ENTRY; give what '
        'compiled.as_text() returns.'
      )
    return cls(
      {name: _with_elements(found) for name, found in computations.items()},
      entry,
    )

  def loop_body(self, trips: int) -> 'Program':
    """Returns one turn of a loop as a program.

    Args:
      trips: how often the loop runs.

    Raises:
      ValueError: if none or several of the loops run so often.
    """
    bodies = {
      re.search(r'body=%?([\w.-]+)', i.attributes)[1]
      for _, i, _ in self.weighed()
      if i.opcode == 'while' and self.trip_count(i) == trips
    }
    if len(bodies) != 1:
      raise ValueError(
        f'{len(bodies)} loops of the program run {trips} times; one was looked '
        'for.'
      )
    return Program(self.computations, bodies.pop())

  def times(self) -> dict[str, float]:
    """Returns how often each computation runs."""
    times: dict[str, float] = defaultdict(float)

    def visit(name, count):
      times[name] += count
      for instruction in self.computations.get(name, ()):
        trips = 1
        if instruction.opcode == 'while':
          trips = self.trip_count(instruction)
        for called in instruction.called:
          visit(called, count * trips)

    visit(self.entry, 1)
    return dict(times)

  def trip_count(self, loop: Instruction) -> int:
    """Returns how often a `while` runs its body.

    What the compiler noted, or else the bound that the counter is compared
    with over the step by which the body raises it. Counters start at 0.

    Raises:
      ValueError: if the bound is no constant.
    """
    if noted := _TRIPS.search(loop.attributes):
      return int(noted[1])
    condition = re.search(r'condition=%?([\w.-]+)', loop.attributes)[1]
    body = re.search(r'body=%?([\w.-]+)', loop.attributes)[1]
    instructions = self.computations[condition]
    constants = _constants(instructions)
    root = next(i for i in instructions if i.is_root)
    bounds = [constants[name] for name in root.operands if name in constants]
    if len(bounds) != 1:
      raise ValueError(
        f'The loop {loop.name} ends on a condition that is no comparison with '
        'a constant; its trips cannot be counted from the text.'
      )
    counter = next(
      i.attributes
      for i in instructions
      if i.name in root.operands and i.name not in constants
    )
    index = int(re.search(r'index=(\d+)', counter)[1])
    return math.ceil(bounds[0] / self._step(self.computations[body], index))

  def _step(self, body, index) -> int:
    """Returns what a loop's body adds to one element of its tuple."""
    by_name = {i.name: i for i in body}
    constants = _constants(body)
    result = next(i for i in body if i.is_root)
    value = by_name.get(result.operands[index])
    while value is not None and value.opcode in ('copy', 'bitcast'):
      value = by_name.get(value.operands[0])
    if value is not None and value.opcode == 'add':
      for name in value.operands:
        if constants.get(name, 0) > 0:
          return constants[name]
    return 1

  def weighed(self) -> Iterator[tuple[str, Instruction, float]]:
    """Yields (computation, instruction, times) of all that runs."""
    for name, count in self.times().items():
      for instruction in self.computations.get(name, ()):
        yield name, instruction, count

  def cycles(self) -> float:
    """Returns the compiler's estimate of the cycles of one chip's program.

    Without exchanges, and without waiting for copies that run beside it. What
    is inside a fusion belongs to the fusion's own estimate.
    """
    inside = self._fused()
    return sum(
      count * int(cycles[1])
      for name, instruction, count in self.weighed()
      if name not in inside
      and (cycles := _CYCLES.search(instruction.attributes))
    )

  def _fused(self) -> set[str]:
    """Returns the computations that fusions or reductions run."""
    inside: set[str] = set()
    waiting = [
      called
      for instructions in self.computations.values()
      for i in instructions
      if i.opcode not in ('while', 'call', 'conditional')
      and not i.opcode.startswith('async')
      for called in i.called
    ]
    while waiting:
      name = waiting.pop()
      if name not in inside:
        inside.add(name)
        for i in self.computations.get(name, ()):
          waiting += i.called
    return inside


def type_bytes(text: str) -> float:
  """Returns the bytes of a type, a tuple's elements together."""
  return sum(array_bytes(array) for array in ARRAY.findall(text))


def array_bytes(array: tuple[str, str]) -> float:
  """Returns the bytes of one match of ARRAY."""
  dtype, sides = array
  size = _BYTES.get(dtype) or int(re.search(r'\d+', dtype)[0]) // 8
  return size * math.prod(dims(sides))


def dims(text: str) -> list[int]:
  """Reads '8,16'."""
  return [int(n) for n in text.split(',') if n]


def _instruction(line: str) -> Instruction | None:
  name = _NAME.match(line)
  if not name:
    return None
  # The first word before a parenthesis: within a type, those follow a colon.
  opcode = re.compile(r' ([a-z][\w-]*)\(').search(line, name.end() - 1)
  if not opcode:
    return None
  end = line.find(')', opcode.end())
  operands = re.sub(r'/\*.*?\*/', '', line[opcode.end() : end])
  return Instruction(
    name=name[2],
    opcode=opcode[1],
    type=line[name.end() : opcode.start()],
    operands=tuple(
      o.strip().split(' ')[-1].lstrip('%') for o in operands.split(',') if o
    ),
    attributes=line[end + 1 :],
    is_root=bool(name[1]),
  )


def _with_elements(
  instructions: list[Instruction],
) -> tuple[Instruction, ...]:
  """Adds the elements of tuples that newer texts name as 'x#2' alone."""
  known = {i.name: i for i in instructions}
  result = []

  def add(name):
    source, _, index = name.rpartition('#')
    if name in known or not source:
      return
    add(source)
    types = _tuple_types(known[source].type)
    known[name] = Instruction(
      name=name,
      opcode='get-tuple-element',
      type=types[int(index)],
      operands=(source,),
      attributes=f', index={index}',
      is_root=False,
    )
    result.append(known[name])

  for instruction in instructions:
    for operand in instruction.operands:
      add(operand)
    result.append(instruction)
  return tuple(result)


def _tuple_types(text: str) -> list[str]:
  """Returns the types in a tuple's, which may be tuples themselves."""
  parts, depth = [''], 0
  for letter in re.sub(r'/\*.*?\*/', '', text.strip())[1:-1]:
    depth += (letter in '([{') - (letter in ')]}')
    if letter == ',' and not depth:
      parts.append('')
    else:
      parts[-1] += letter
  return [part.strip() for part in parts]


def _constants(instructions) -> dict[str, int]:
  return {
    i.name: int(i.operands[0])
    for i in instructions
    if i.opcode == 'constant'
    and i.operands
    and re.fullmatch(r'-?\d+', i.operands[0])
  }
