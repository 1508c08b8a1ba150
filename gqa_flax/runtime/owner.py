"""A folder has one owner: the process that writes there.

The owner leaves a record in the folder and refreshes it until it ends. Where
the file system has locks, it also holds one on the record: the kernel releases
that when the process dies, so a record left by a killed process of this machine
is known to be stale at once. A lock may not reach other machines, and buckets
have none; there the refreshes are the sign of life, and a newcomer that finds a
recent record watches it for a while before it takes over.
"""

import contextlib
import datetime
import fcntl
import json
import os
import pathlib
import socket
import threading
import time
import uuid
from typing import Any

from etils import epath

from gqa_flax.runtime import interrupts, status

NAME = '.owner.json'
REFRESH_SECONDS = 30.0
# More than NFS caches a file's content, so that a refresh is seen by then.
WATCH_SECONDS = 120.0
# Of a record by its own clock, which may differ from that of a newcomer.
STALE_SECONDS = 300.0
# Two that write to a bucket at once both look again after this time.
_SETTLE_SECONDS = 2.0


class FolderInUseError(RuntimeError):
  """Another process writes to the folder."""


class Owner:
  """Owns a folder, or an output that is yet to appear, within a context.

  A folder that is made for the record is removed with it if nothing was
  written there.

  Args:
    path: the folder, local or in a bucket.
    setting: what `path` is the value of, for errors, such as 'MODEL_DIR'.
    beside: whether the record is kept beside `path` instead of inside, for an
      output that appears by a rename.
    owns: False on all processes of a job but one; the others own nothing.

  Raises:
    FolderInUseError: on entering, if another process owns it.
    OSError: on entering, if the folder cannot be written.
  """

  def __init__(
    self, path, setting: str, *, beside: bool = False, owns: bool = True
  ):
    self._path, self._setting, self._owns = path, setting, owns
    self._is_local = '://' not in str(path)
    folder = epath.Path(path)
    if self._is_local:
      folder = folder.absolute()
    self._file = folder / NAME
    if beside and folder.name:
      self._file = folder.with_name(f'{folder.name}{NAME}')
    self._made = False
    self._lock: int | None = None
    self._lost: dict[str, Any] | None = None
    self._over = threading.Event()
    self._cleanup = contextlib.ExitStack()
    self._record: dict[str, Any] = {
      'host': socket.gethostname(),
      'machine': _machine(),
      'process': os.getpid(),
      'started': round(time.time()),
      'token': uuid.uuid4().hex,
      'refreshed': 0.0,
    }
    self._refresher = threading.Thread(target=self._refresh, daemon=True)

  def __enter__(self) -> 'Owner':
    if not self._owns:
      return self
    folder = self._file.parent
    self._made = not folder.exists()
    try:
      folder.mkdir(parents=True, exist_ok=True)
      self._acquire()
    except OSError as error:
      self._release()
      raise OSError(
        f'{self._setting} {self._path} cannot be written '
        f'({error.strerror or error}); give another {self._setting}.'
      ) from error
    except BaseException:
      self._release()
      raise
    self._refresher.start()
    self._cleanup.enter_context(interrupts.cleanup(self._release))
    return self

  def __exit__(self, *_):
    if self._owns:
      self._cleanup.close()
      self._over.set()
      self._refresher.join()
      self._release()

  def check(self):
    """Raises FolderInUseError if another process has taken over meanwhile.

    That happens when this one has stood still, as in a suspended machine.
    """
    if self._lost is not None:
      raise self._in_use(self._lost)

  def _acquire(self):
    self._lock = self._take_lock()
    found = self._read()
    # The lock is held by no other process of this machine.
    is_dead = self._lock is not None and self._is_of_this_machine(found)
    if found and not is_dead and self._lives(found):
      raise self._in_use(found)
    if self._lock is not None and not self._file.exists():
      os.close(self._lock)  # somebody has removed the record meanwhile
      return self._acquire()
    self._write()
    if self._lock is None:
      time.sleep(_SETTLE_SECONDS)
      found = self._read()
      if found and not self._is_own(found):
        raise self._in_use(found)

  def _take_lock(self) -> int | None:
    """Returns the locked record, or None where files cannot be locked."""
    while self._is_local:
      file = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o666)
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        current = os.stat(self._file)
        if os.path.samestat(os.fstat(file), current):
          return file
      except BlockingIOError:
        os.close(file)
        raise self._in_use(self._read()) from None
      except FileNotFoundError:
        pass  # its owner has just removed it
      except OSError:
        os.close(file)
        return None
      os.close(file)
    return None

  def _lives(self, found: dict[str, Any]) -> bool:
    """Watches a record of another machine for a refresh."""
    if time.time() - found['refreshed'] > STALE_SECONDS:
      return False
    status.say(
      f'{self._setting} {self._path} has a record of {_describe(found)}: '
      f'waiting up to {WATCH_SECONDS:.0f} s for a sign of life. If that job is '
      f'dead, remove {self._file} to continue at once.'
    )
    end = time.monotonic() + WATCH_SECONDS
    while time.monotonic() < end:
      time.sleep(min(1.0, WATCH_SECONDS / 10))
      now = self._read()
      if now is not None and now != found:
        return True
      if not self._file.exists():
        return False
    return False

  def _refresh(self):
    while not self._over.wait(REFRESH_SECONDS):
      try:
        found = self._read()
        if found and not self._is_own(found):
          self._lost = found
          return
        self._write()
      except Exception:
        pass  # a passing trouble: the next refresh is soon enough

  def _read(self) -> dict[str, Any] | None:
    """Returns the record, or None if there is none that is whole."""
    try:
      found = json.loads(self._file.read_text())
      return {name: type(x)(found[name]) for name, x in self._record.items()}
    except (OSError, ValueError, KeyError, TypeError):
      return None

  def _write(self):
    self._record['refreshed'] = round(time.time(), 3)
    text = json.dumps(self._record, indent=2) + '\n'
    if self._lock is None:
      self._file.write_text(text)
    else:  # in place, for the lock is on this very file
      os.pwrite(self._lock, text.encode(), 0)
      os.ftruncate(self._lock, len(text))

  def _release(self):
    found = self._read()
    if self._is_own(found) if found else self._lock is not None:
      self._file.unlink(missing_ok=True)
    if self._lock is not None:
      os.close(self._lock)
      self._lock = None
    folder = self._file.parent
    if self._made and folder.exists() and not any(folder.iterdir()):
      folder.rmdir()

  def _is_own(self, found: dict[str, Any]) -> bool:
    return found['token'] == self._record['token']

  def _is_of_this_machine(self, found: dict[str, Any] | None) -> bool:
    return bool(found) and found['machine'] == self._record['machine']

  def _in_use(self, found: dict[str, Any] | None) -> FolderInUseError:
    who = _describe(found) if found else 'another process of this machine'
    return FolderInUseError(
      f'{self._setting} {self._path} is in use by {who}; wait until it ends, '
      f'or give another {self._setting}.'
    )


def _describe(found: dict[str, Any]) -> str:
  started = datetime.datetime.fromtimestamp(found['started'], datetime.UTC)
  return (
    f'process {found["process"]} on {found["host"]}, which started at '
    f'{started:%Y-%m-%d %H:%M:%S} UTC'
  )


def _machine() -> str:
  """Returns what differs between machines, and between boots of one."""
  try:
    return pathlib.Path('/proc/sys/kernel/random/boot_id').read_text().strip()
  except OSError:
    return socket.gethostname()
