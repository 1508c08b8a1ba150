"""JSON that others may have written: read without trusting it."""

import json
from typing import Any


def parse(text: bytes) -> dict[str, Any]:
  """Returns a JSON object.

  Raises:
    ValueError: If the text is anything else, with the reason as a clause.
  """
  try:
    fields = json.loads(text.decode())
  except RecursionError:
    raise ValueError('the JSON is nested too deeply') from None
  except UnicodeDecodeError:
    raise ValueError('the JSON is not UTF-8') from None
  except ValueError as error:
    raise ValueError(f'there is no JSON ({error})') from error
  if not isinstance(fields, dict):
    found = 'null' if fields is None else type(fields).__name__
    raise ValueError(f'there is a JSON {found}, not an object')
  return fields


def is_integer(value: Any, least: int) -> bool:
  """Whether a value of JSON is an integer of at least `least`."""
  # In Python, True is an integer, too.
  return type(value) is int and value >= least
