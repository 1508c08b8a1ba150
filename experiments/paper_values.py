"""The paper's numbers, and how each is known."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

_PATH = pathlib.Path('results/paper_values.json')


def read(name: str) -> Mapping[str, Any]:
  """Returns the paper's numbers by name, and how they are known."""
  return json.loads(_PATH.read_text(encoding='utf-8'))[name]
