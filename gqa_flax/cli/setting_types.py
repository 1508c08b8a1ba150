"""The types of settings: what each accepts, and how to say that."""

import abc
import argparse
import ast
import dataclasses
import difflib
import math
import re
from collections.abc import Callable, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Type(abc.ABC):
  """A type of values.

  Attributes:
    also: Words, or None, that are accepted as well.
  """

  also: tuple[Any, ...] = dataclasses.field(default=(), kw_only=True)

  def accepts(self, value: Any) -> bool:
    """Whether a setting of this type may have the value."""
    # `in` would take 1.0 for 1 and True for 1.
    is_word = any(type(value) is type(a) and value == a for a in self.also)
    return is_word or self._accepts(value)

  def __str__(self) -> str:
    """What to give, such as 'an integer of at least 1, or None'."""
    return ', or '.join([self._wanted(), *map(repr, self.also)])

  def remedy(self, value: Any) -> str:
    """What to give instead of a value that is not accepted."""
    del value
    return str(self)

  @abc.abstractmethod
  def _accepts(self, value) -> bool:
    """Whether a value is of the type, words in `also` apart."""

  @abc.abstractmethod
  def _wanted(self) -> str:
    """What to give, words in `also` apart."""


@dataclasses.dataclass(frozen=True)
class Integer(Type):
  """An integer of at least `minimum`; neither True nor 1.0 is one."""

  minimum: int

  def _accepts(self, value):
    # What JAX and TensorFlow can count with.
    return type(value) is int and self.minimum <= value < 2**31

  def _wanted(self):
    return f'an integer of at least {self.minimum}'


@dataclasses.dataclass(frozen=True)
class Number(Type):
  """A finite number: at least `minimum` or above it, and below `below`."""

  minimum: float
  below: float = math.inf
  above_minimum: bool = False

  def _accepts(self, value):
    if type(value) not in (int, float) or not math.isfinite(value):
      return False
    large = (
      value > self.minimum if self.above_minimum else (value >= self.minimum)
    )
    return large and value < self.below

  def _wanted(self):
    low = 'above' if self.above_minimum else 'of at least'
    high = '' if self.below == math.inf else f' and below {self.below:g}'
    return f'a number {low} {self.minimum:g}{high}'


@dataclasses.dataclass(frozen=True)
class Boolean(Type):
  """True or False."""

  def _accepts(self, value):
    return type(value) is bool

  def _wanted(self):
    return 'True or False'


@dataclasses.dataclass(frozen=True)
class Choice(Type):
  """One of some words."""

  words: tuple[str, ...]

  def _accepts(self, value):
    return isinstance(value, str) and value in self.words

  def _wanted(self):
    return f'one of {", ".join(map(repr, self.words))}'

  def remedy(self, value):
    near = difflib.get_close_matches(str(value), self.words, n=1)
    return f'{self} (is {near[0]!r} meant?)' if near else str(self)


@dataclasses.dataclass(frozen=True)
class Text(Type):
  """A text, perhaps an empty one."""

  def _accepts(self, value):
    return isinstance(value, str)

  def _wanted(self):
    return 'a text'


@dataclasses.dataclass(frozen=True)
class Name(Type):
  """A text that is not empty."""

  def _accepts(self, value):
    return isinstance(value, str) and bool(value.strip())

  def _wanted(self):
    return 'a name'


@dataclasses.dataclass(frozen=True)
class TfdsName(Name):
  """A data set of TFDS with its version."""

  def _accepts(self, value):
    pattern = r'\w+(/[\w.+-]+)?:\d+\.\d+\.\d+'
    return isinstance(value, str) and bool(re.fullmatch(pattern, value))

  def _wanted(self):
    return "a data set with its version, as 'cnn_dailymail:3.4.0'"


@dataclasses.dataclass(frozen=True)
class Path(Name):
  """A path; gin takes one of digits alone for a number."""

  def _accepts(self, value):
    return super()._accepts(value) and '\0' not in value

  def _wanted(self):
    return 'a path'

  def remedy(self, value):
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return f'./{value} for a path of that name' if is_number else str(self)


@dataclasses.dataclass(frozen=True)
class Lengths(Type):
  """The most tokens of inputs and targets."""

  def _accepts(self, value):
    return (
      isinstance(value, Mapping)
      and set(value) == {'inputs', 'targets'}
      and all(map(Integer(1).accepts, value.values()))
    )

  def _wanted(self):
    return "tokens as in {'inputs': 512, 'targets': 128}, each at least 1"


@dataclasses.dataclass(frozen=True)
class Files(Type):
  """Paths by split."""

  def _accepts(self, value):
    if not isinstance(value, Mapping) or not value:
      return False
    paths = [
      path
      for found in value.values()
      for path in (found if isinstance(found, list | tuple) else [found])
    ]
    one_each = all(value.values())
    return one_each and all(map(Path().accepts, (*value.keys(), *paths)))

  def _wanted(self):
    return "paths by split, as in {'train': 'data/train-*.jsonl'}"


@dataclasses.dataclass(frozen=True)
class Configurable(Type):
  """A reference to a function; a literal is never one."""

  example: str

  def _accepts(self, value):
    return False

  def _wanted(self):
    return f'a function, such as {self.example}'


def flag(type_: Type) -> Callable[[str], Any]:
  """Returns what argparse takes as the `type` of a flag."""

  def parse(text: str) -> Any:
    try:
      value = ast.literal_eval(text)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
      value = text
    if not type_.accepts(value):
      raise argparse.ArgumentTypeError(f'{text!r}; give {type_.remedy(value)}.')
    return value

  return parse
