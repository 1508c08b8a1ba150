"""What runs in stages: each is done once, and leaves a record."""

import json
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from gqa_flax.reporting import records


def share_compiled(work_dir: pathlib.Path):
  """Lets models of one shape share what was compiled for the first of them."""
  import jax

  jax.config.update('jax_compilation_cache_dir', str(work_dir / 'compiled'))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)


def check_settings(work_dir: pathlib.Path, settings: Mapping[str, Any]):
  """Keeps the settings of a work_dir, whose stages are run once.

  Raises:
    ValueError: if stages in it were run with other settings.
  """
  path = work_dir / 'settings.json'
  if path.exists():
    found = json.loads(path.read_text())
    differing = [
      f'{name} is {found.get(name)!r} there and {value!r} here'
      for name, value in settings.items()
      if found.get(name) != value
    ]
    if differing:
      raise ValueError(
        f'{work_dir} holds stages of other settings ({"; ".join(differing)}), '
        'which would be taken for done; give another WORK_DIR.'
      )
  write_whole(path, json.dumps(settings, indent=2) + '\n')


class Stages:
  """Runs each stage once, and keeps its record beside its checkpoints.

  Attributes:
    records: of the stages run or found so far, in their order.
  """

  def __init__(
    self, work_dir: pathlib.Path, seed: int, on_start: Callable[[str], None]
  ):
    """Runs nothing yet.

    Args:
      work_dir: gets a folder for each stage.
      seed: for the records.
      on_start: called with the name of each stage that has to run.
    """
    # Late: reports import this module to write files, and need no JAX.
    import jax

    self._work_dir = work_dir
    self._on_start = on_start
    device = jax.devices()[0]
    self._provenance = {
      'seed': seed,
      **records.provenance(device.device_kind, jax.device_count()),
    }
    self.records: list[dict[str, Any]] = []

  def folder(self, name: str) -> str:
    """Returns where a stage keeps its checkpoints."""
    return str(self._work_dir / name)

  def done(self, name: str) -> bool:
    """Whether a stage has a record."""
    return self._path(name).exists()

  def run(
    self,
    name: str,
    stage: Callable[[], Mapping[str, Any]],
    about: Mapping[str, Any] | None = None,
  ) -> dict[str, Any]:
    """Returns a stage's record: `about`, its numbers, and its seconds.

    Args:
      name: of the stage, and of its folder.
      stage: returns the numbers; called only if there is no record.
      about: what else the record says.
    """
    path = self._path(name)
    if not path.exists():
      self._on_start(name)
      start = time.monotonic()
      numbers = stage()
      record = {
        'stage': name,
        **(about or {}),
        **numbers,
        'seconds': round(time.monotonic() - start, 1),
        'provenance': self._provenance,
      }
      write_whole(path, json.dumps(record))
    self.records.append(json.loads(path.read_text()))
    return self.records[-1]

  def _path(self, name: str) -> pathlib.Path:
    return self._work_dir / name / 'record.json'


def write_whole(path: pathlib.Path, text: str):
  """Writes a file that is there whole or not at all."""
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_suffix('.tmp')
  temporary.write_text(text, encoding='utf-8')
  temporary.replace(path)


def write_lines(path: pathlib.Path, rows):
  """Writes JSON lines, whole or not at all."""
  lines = [json.dumps(row, ensure_ascii=False) + '\n' for row in rows]
  write_whole(path, ''.join(lines))
