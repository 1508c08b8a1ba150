"""Checks of settings as text, before anything slow is imported."""

import dataclasses
import difflib

from gqa_flax.cli.gin_text import (
  REQUIRED,
  MacroReference,
  Text,
  UsageError,
  has_references,
)
from gqa_flax.cli.settings import SETTINGS, setting

# What commands read themselves, without a gin file that uses it.
_READ_BY_COMMAND = {'data': {'TASK_FEATURE_LENGTHS', 'TFDS_NAME'}}


def check(text: Text, command: str):
  """Checks names and values of all macros, and sizes of the model.

  Args:
    text: What gin files and bindings say.
    command: Name of the command, such as 'train'.

  Raises:
    UsageError: A value is not of its setting's type, nothing uses a macro, or
      settings contradict each other.
  """
  for name, binding in text.macros.items():
    _check_name(text, name, binding.place, command)
    _check_value(text, name, name, binding, command)
  for key, binding in text.parameters.items():
    # Bound past its macro.
    if name := text.macro_of.get(key):
      _check_value(text, key, name, binding, command)
  _check_model(text)
  _check_together(text)


def missing(text: Text) -> list[str]:
  """Returns the macros that are REQUIRED and have no value yet."""
  return [n for n in text.macros if text.resolve(MacroReference(n)) == REQUIRED]


def unset(text: Text) -> list[str]:
  """Returns the macros that are used, and that nothing sets."""
  return [name for name in text.referenced if name not in text.macros]


def _check_value(text, shown, name, binding, command):
  found = setting(name, command)
  value = text.resolve(binding.value)
  if found is None or has_references(value) or found.type.accepts(value):
    return
  place = '' if binding.place == f'--gin.{shown}' else f' ({binding.place})'
  option = '--gin.' if not place else ''
  is_number = not isinstance(value, str) and value is binding.value
  written = binding.written if is_number and binding.written else repr(value)
  raise UsageError(
    f'{option}{shown} is {_shortened(written)}{place}; give '
    f'{found.type.remedy(value)}.'
  )


def _shortened(text: str) -> str:
  """Returns the beginning of a long text."""
  return text if len(text) <= 80 else f'{text[:80]}...'


def _check_name(text, name, place, command):
  """Refuses a macro that nothing uses, if it is bound by hand or misspelled.

  Files may set more than a command uses: a task's KEEP_BEST is for training.
  """
  if name in text.referenced or name in _READ_BY_COMMAND.get(command, ()):
    return
  used = text.referenced.keys() | _READ_BY_COMMAND.get(command, set())
  by_upper = {k.upper(): k for k in sorted(used)}
  near = [
    by_upper[n] for n in difflib.get_close_matches(name.upper(), by_upper, n=3)
  ]
  if place.startswith('--gin.') and name not in text.in_files:
    remedy = (
      f'the nearest are {", ".join(near)}'
      if near
      else f'`gqa-flax {command} --help` lists the settings'
    )
    raise UsageError(f'{place}: no gin file given uses {name}; {remedy}.')
  misspelled = [n for n in near if _alike(n, name)]
  if name not in SETTINGS and misspelled:
    raise UsageError(f'{place}: nothing uses {name}; is {misspelled[0]} meant?')


def _alike(a, b) -> bool:
  return difflib.SequenceMatcher(None, a.upper(), b.upper()).ratio() > 0.85


def _check_model(text):
  """Refuses sizes that fit no model."""
  fields = text.fields('T5Config')
  if 'vocab_size' not in fields:
    return
  # Not before it is needed: it loads NumPy.
  from gqa_flax.config import T5Config

  known = {f.name for f in dataclasses.fields(T5Config)}
  try:
    T5Config(**{k: v for k, v in fields.items() if k in known})
  except ValueError as error:
    raise UsageError(str(error)) from error


def _check_together(text):
  """Refuses settings that contradict each other."""
  batch, parts = text.value('BATCH_SIZE'), text.value('MICROBATCHES')
  if batch and parts and batch % parts:
    raise UsageError(
      f'MICROBATCHES is {parts} ({text.macros["MICROBATCHES"].place}), which '
      f'does not divide BATCH_SIZE = {batch}; give a divisor.'
    )
  task = text.value('CALIBRATION_TASK')
  name = text.value('MIXTURE_OR_TASK_NAME')
  is_one = 'tasks.get_task.spec' in text.parameters
  if task and name and task != name and is_one:
    place = text.macros['CALIBRATION_TASK'].place
    raise UsageError(
      f'CALIBRATION_TASK is {task!r} ({place}), but the task file given is '
      f'that of {name!r}; give the file of {task!r}, or '
      f'CALIBRATION_TASK={name}.'
    )
  method = text.value('CONVERSION_METHOD')
  if task is not None and method in ('mean', 'first', 'random'):
    place = text.macros['CONVERSION_METHOD'].place
    raise UsageError(
      f'CALIBRATION_TASK is {task!r}, but the method {method!r} ({place}) uses '
      'no statistics; leave it out, or set CONVERSION_METHOD to '
      "'subspace' or 'aligned'."
    )
