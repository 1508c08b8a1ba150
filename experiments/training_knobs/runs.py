"""The records of the part for the CPU: what a run has, and what it adds."""

from collections.abc import Mapping
from typing import Any

from gqa_flax.reporting import records


def is_done(path, what: str, run_number: int, key: Mapping[str, Any]) -> bool:
  """Returns whether a run has the record of a cell's repeat.

  Args:
    path: of the records.
    what: was measured.
    run_number: of the run.
    key: of cell and repeat.
  """
  wanted = what, run_number, key
  return any(
    (record['what'], record.get('run'), record['key']) == wanted
    for record in records.read(path)
  )


def append(
  path, what: str, run_number: int, key: Mapping[str, Any], **found: Any
):
  """Adds a record to a run; arguments as of `is_done`, and what was found."""
  record = {
    'experiment': 'training_knobs',
    'what': what,
    'run': run_number,
    'key': key,
    **found,
    'provenance': records.provenance('cpu', 1),
  }
  records.append(path, record)
