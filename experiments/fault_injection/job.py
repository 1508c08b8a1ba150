"""One attempt of two processes, and what its folder looks like."""

import dataclasses
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHECKPOINT_EVERY = 5
HEARTBEAT_SECONDS = 10  # where a process is killed, so that it is noticed soon
# Where none is killed. A machine that pauses for ten seconds, as virtual ones
# do, is not a death.
PATIENT_HEARTBEAT_SECONDS = 300
GIN_FILES = (
  'models/mini.gin',
  'attention/gqa_2.gin',
  'tasks/wikipedia_span_corruption.gin',
  'runs/pretrain.gin',
)
# Small enough for steps of a tenth of a second; dropout, so that the random
# keys matter; every step logged, so that every step can be compared.
BINDINGS = {
  'BATCH_SIZE': 8,
  'DROPOUT_RATE': 0.1,
  'MESH_DATA': 2,
  'MESH_FSDP': 2,
  'MESH_MODEL': 2,
  'EVALUATE_EVERY': 1_000_000,
  'CHECKPOINT_EVERY': CHECKPOINT_EVERY,
  'config.T5Config.emb_dim': 32,
  'config.T5Config.mlp_dim': 64,
  'config.T5Config.num_encoder_layers': 1,
  'config.T5Config.num_decoder_layers': 1,
  'loop.train.log_every': 1,
  'loop.train.evaluators': [],
}
_ENVIRONMENT = {
  'JAX_PLATFORMS': 'cpu',
  'XLA_FLAGS': '--xla_force_host_platform_device_count=4',
  'TF_CPP_MIN_LOG_LEVEL': '2',
  'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
  'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
}
_ESTABLISHED = '01'


@dataclasses.dataclass(frozen=True)
class Listing:
  """The checkpoints in a folder: whole, being written and set aside."""

  latest: int | None
  temporary: tuple[str, ...]
  corrupt: tuple[str, ...]


def listing(model_dir: pathlib.Path) -> Listing:
  """Looks into a folder, which may not be there yet."""
  names = sorted(p.name for p in model_dir.glob('*checkpoint_*'))
  whole = [re.fullmatch(r'checkpoint_(\d+)', name) for name in names]
  return Listing(
    max((int(m[1]) for m in whole if m), default=None),
    tuple(name for name in names if 'orbax-checkpoint-tmp' in name),
    tuple(name for name in names if name.startswith('corrupt_')),
  )


class Attempt:
  """Two processes from their start to their end."""

  def __init__(
    self,
    model_dir: pathlib.Path,
    cache: pathlib.Path,
    log: pathlib.Path,
    train_steps: int,
    heartbeat_seconds: int,
  ):
    """Starts both.

    Args:
      model_dir: of the run.
      cache: a folder for what is compiled.
      log: a path to which `_<process>.log` is added.
      train_steps: of the run.
      heartbeat_seconds: how long a process may be silent before the job ends.
    """
    self._goodput = model_dir / 'goodput.jsonl'
    self._offset = self._goodput.stat().st_size if self._goodput.exists() else 0
    self._rest = b''
    self.first_step: int | None = None
    self.step: int | None = None
    self.port = _free_port()
    self.logs = [log.with_name(f'{log.name}_{i}.log') for i in range(2)]
    log.parent.mkdir(parents=True, exist_ok=True)
    self.start = time.time()
    self.processes = [
      self._spawn(i, model_dir, cache, train_steps, heartbeat_seconds)
      for i in range(2)
    ]

  def _spawn(self, index, model_dir, cache, train_steps, heartbeat_seconds):
    bindings = {
      **BINDINGS,
      'MODEL_DIR': str(model_dir),
      'COMPILATION_CACHE': str(cache),
      'TRAIN_STEPS': train_steps,
    }
    command = [
      *(sys.executable, '-m', 'gqa_flax.cli', 'train'),
      *(f'--gin_file=gin_configs/{name}' for name in GIN_FILES),
      *(f'--gin.{name}={value!r}' for name, value in bindings.items()),
      f'--coordinator_address=localhost:{self.port}',
      '--process_count=2',
      f'--process_index={index}',
      f'--heartbeat_seconds={heartbeat_seconds}',
    ]
    with self.logs[index].open('w') as log:
      return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **_ENVIRONMENT},
        stdout=log,
        stderr=subprocess.STDOUT,
      )

  def look(self):
    """Reads how far the attempt has come, into first_step and step."""
    if not self._goodput.exists():
      return
    with self._goodput.open('rb') as file:
      file.seek(self._offset)
      new = file.read()
    self._offset += len(new)
    *lines, self._rest = (self._rest + new).split(b'\n')
    for line in lines:
      try:
        first, last = json.loads(line)['steps']
      except (json.JSONDecodeError, KeyError):
        continue  # ends a line that an earlier attempt has left torn
      if self.first_step is None:
        self.first_step = first
      self.step = last

  def joined(self) -> bool:
    """Whether both processes hold a connection to the coordinator."""
    peers = 0
    for table in ('/proc/net/tcp', '/proc/net/tcp6'):
      for line in pathlib.Path(table).read_text().splitlines()[1:]:
        _, _, remote, state, *_ = line.split()
        port = int(remote.rpartition(':')[2], 16)
        peers += port == self.port and state == _ESTABLISHED
    return peers >= 2

  def statuses(self) -> list[int | None]:
    """Returns the exit status of each, None while it runs."""
    return [process.poll() for process in self.processes]

  def kill(self, victims: Sequence[int]):
    """Sends SIGKILL."""
    for index in victims:
      self.processes[index].send_signal(signal.SIGKILL)

  def wait(self, seconds: float) -> bool:
    """Waits until both have ended; returns whether they have."""
    end = time.monotonic() + seconds
    while None in self.statuses():
      if time.monotonic() > end:
        return False
      time.sleep(0.02)
    return True

  def tail(self) -> str:
    """Returns the end of what both have said."""
    texts = [log.read_text(errors='replace')[-2000:] for log in self.logs]
    return '\n---\n'.join(texts)


def _free_port() -> int:
  with socket.socket() as bound:
    bound.bind(('localhost', 0))
    return bound.getsockname()[1]
