"""What a conversion did to each array: checked, recorded, shown."""

import hashlib
import re
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from gqa_flax.checkpoints.arrays import StoredCheckpoint, check_finite
from gqa_flax.conversion.plan import Conversion


class Audit:
  """Sees every row that is written: refuses what is not finite, and hashes.

  Thread-safe for several arrays at once; the rows of one come in order.
  """

  def __init__(self, where):
    self._where = where
    self._hashes: dict[str, Any] = {}
    self._lock = threading.Lock()

  def __call__(self, name: str, start: int, rows: np.ndarray):
    """Takes the next rows of an array.

    Raises:
      ValueError: if one of them is NaN or infinite.
    """
    check_finite(rows, name, self._where, start)
    with self._lock:
      digest = self._hashes.setdefault(name, hashlib.sha256())
    digest.update(np.ascontiguousarray(rows).data)

  def sha256(self, name: str) -> str:
    """Returns the hash of an array's values, float32, in C order."""
    return self._hashes[name].hexdigest()


def record(
  source: StoredCheckpoint,
  conversion: Conversion,
  settings: Mapping[str, Any],
  audit: Audit,
) -> dict[str, Any]:
  """Returns what conversion.json holds.

  Args:
    source: what was read.
    conversion: what was done.
    settings: method, seed and so on.
    audit: which has seen all parameters.
  """
  statistics = conversion.statistics
  arrays = {
    name: {
      'action': conversion.action(name),
      'shape': list(conversion.array(name).shape),
      'from_shape': list(array.shape),
      'sha256': audit.sha256(name),
    }
    for name, array in sorted(source.params.items())
  }
  return {
    'source': source.path,
    'input_format': source.format,
    'model_type': source.model_type,
    'step': source.step,
    'num_kv_heads': {
      'from': source.config.num_kv_heads,
      'to': conversion.config.num_kv_heads,
    },
    **settings,
    'statistics': statistics
    and {'source': statistics.source, 'tokens': statistics.tokens},
    'config': conversion.config.to_dict(),
    'kept': {
      attention: {'key': kept.key, 'value': kept.value}
      for attention, kept in conversion.kept.items()
    },
    'head_order': conversion.orders,
    'arrays': arrays,
    'skipped': dict(source.skipped),
  }


def table(record: Mapping[str, Any]) -> str:
  """Returns a conversion's record as a table, one line for alike layers."""
  groups: dict[tuple[str, ...], list[int]] = {}
  width = 2 if record['output_dtype'] == 'bfloat16' else 4
  for name, array in record['arrays'].items():
    before, after = (
      'x'.join(map(str, array[key])) for key in ('from_shape', 'shape')
    )
    shapes = before if before == after else f'{before} -> {after}'
    pattern = re.sub(r'layers_\d+', 'layers_*', name)
    key = (array['action'], pattern, shapes)
    groups.setdefault(key, []).append(width * int(np.prod(array['shape'])))
  rows = [('action', 'arrays', 'MB', 'name', 'shape')]
  for (action, pattern, shapes), sizes in sorted(groups.items()):
    megabytes = f'{sum(sizes) / 1e6:.1f}'
    rows.append((action, str(len(sizes)), megabytes, pattern, shapes))
  for name, reason in record['skipped'].items():
    rows.append(('skipped', '', '', name, reason))
  widths = [max(len(row[i]) for row in rows) for i in range(4)]
  lines = [
    '  '.join(
      cell.rjust(width) if 1 <= i <= 2 else cell.ljust(width)
      for i, (cell, width) in enumerate(zip(row, [*widths, 0]))
    ).rstrip()
    for row in rows
  ]
  heads = record['num_kv_heads']
  change = f'{heads["from"]} key/value heads as before'
  if heads['from'] != heads['to']:
    change = (
      f'{heads["from"]} -> {heads["to"]} key/value heads by {record["method"]}'
    )
  lines.append(f'{change}; optimizer state: {record["optimizer_state"]}')
  if record['kept']:
    for kind in ('key', 'value'):
      kept = [layer[kind] for layer in record['kept'].values()]
      lines.append(
        f'weighted variance kept of the {kind}s: {np.mean(kept):.3f} on '
        f'average, {min(kept):.3f} to {max(kept):.3f}'
      )
  return '\n'.join(lines)
