"""The machine: as many processors for either library, and what it is.

Neither library may be imported before `pin`: both count the processors once.
"""

import os
import pathlib
import time
from typing import Any

from gqa_flax.reporting import records


def pin(threads: int) -> list[int]:
  """Keeps this process to so many processors; returns which.

  Raises:
    SystemExit: there are not as many.
  """
  allowed = sorted(os.sched_getaffinity(0))
  if len(allowed) < threads:
    raise SystemExit(
      f'--threads={threads}, but this process may use {len(allowed)} '
      f'processor(s): give --threads={len(allowed)}.'
    )
  os.sched_setaffinity(0, allowed[:threads])
  # Before JAX is imported, which would look for an accelerator.
  os.environ['JAX_PLATFORMS'] = 'cpu'
  return allowed[:threads]


def limit_torch(threads: int):
  """Lets torch use so many threads; XLA sees how many processors it has."""
  import torch

  torch.set_num_threads(threads)
  torch.set_num_interop_threads(1)


def describe() -> dict[str, Any]:
  """Returns the processor, and what was computed with."""
  import torch
  import transformers

  return {
    'processor': records.processor(),
    'versions': {
      'torch': torch.__version__,
      'transformers': transformers.__version__,
    },
    'torch_threads': torch.get_num_threads(),
    'torch_mkl': torch.backends.mkl.is_available(),
    'torch_onednn': torch.backends.mkldnn.is_available(),
    'xla_flags': os.environ.get('XLA_FLAGS', ''),
    'glibc_tunables': os.environ.get('GLIBC_TUNABLES', ''),
  }


def load() -> float:
  """Returns the mean number of running processes of the last minute."""
  return round(os.getloadavg()[0], 2)


class Others:
  """How much of our processors other programs take, since this was made."""

  def __init__(self):
    self._begin = _ticks(), time.process_time()

  def share(self) -> float | None:
    """Returns it, from 0 to 1; None where the system does not say."""
    (before, own_before), now = self._begin, _ticks()
    if before is None or now is None:
      return None
    busy, whole = now[0] - before[0], now[1] - before[1]
    own = (time.process_time() - own_before) * os.sysconf('SC_CLK_TCK')
    return round(max(busy - own, 0) / max(whole, 1), 3)


def _ticks() -> tuple[int, int] | None:
  """Returns the ticks of our processors since the start: busy, and all."""
  stat = pathlib.Path('/proc/stat')
  if not stat.exists():
    return None
  ours = {f'cpu{i}' for i in os.sched_getaffinity(0)}
  busy = whole = 0
  for name, *ticks in map(str.split, stat.read_text().splitlines()):
    if name in ours:
      # user nice system idle iowait irq softirq steal; the rest is in user.
      found = [int(x) for x in ticks[:8]]
      whole += sum(found)
      busy += sum(found) - found[3] - found[4]
  return busy, whole
