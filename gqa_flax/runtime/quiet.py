"""Keeps libraries from talking before, or over, what a command says.

What the user has set of these environment variables stays:

  TF_CPP_MIN_LOG_LEVEL  TensorFlow's and XLA's messages; 3 is none, 0 shows all
  JAX_PLATFORMS         what JAX looks for: no TPU where there is none

Nothing here imports JAX or TensorFlow, which read them once.
"""

import contextlib
import glob
import importlib.abc
import importlib.util
import os
import re
import sys
import tempfile
from collections.abc import Iterator

from gqa_flax.runtime import status

_LOG_LEVEL = 'TF_CPP_MIN_LOG_LEVEL'
_PLATFORMS = 'JAX_PLATFORMS'
_chosen_level = os.environ.get(_LOG_LEVEL)
# Log lines of every level but FATAL, and what absl prints before early ones.
_NOISE = re.compile(
  rb'[IWE]\d{4} \d\d:\d\d:\d\d|'
  rb'WARNING: All log messages before absl::InitializeLog|'
  rb'To enable the following instructions: '
)


def prepare():
  """Does all of it for a program, before it loads JAX and TensorFlow."""
  if _chosen_level is None and 'tensorflow' not in sys.modules:
    sys.meta_path.insert(0, _Finder())
  lower_log_level()
  if _PLATFORMS not in os.environ and (platforms := _platforms()):
    os.environ[_PLATFORMS] = platforms


def lower_log_level():
  """Lets TensorFlow log nothing once it is loaded."""
  os.environ.setdefault(_LOG_LEVEL, '3')


def _platforms() -> str | None:
  """Returns what JAX should look for; None for whatever it finds.

  Where libtpu is installed, to compile for TPUs that are elsewhere, JAX asks
  it for TPUs of this machine, which takes seconds and ends in error messages.
  """
  if importlib.util.find_spec('libtpu') is None or _may_have_tpu():
    return None
  if not any(map(glob.glob, ('/dev/nvidia*', '/dev/dxg', '/dev/kfd'))):
    return 'cpu'
  plugins = ('jax_cuda12_plugin', 'jax_cuda13_plugin')
  return 'cuda,cpu' if any(map(importlib.util.find_spec, plugins)) else None


def _may_have_tpu() -> bool:
  """Whether this machine, or its environment, shows any sign of a TPU."""
  named = any(name.startswith('TPU_') for name in os.environ)
  forced = 'JAX_FORCE_TPU_INIT' in os.environ
  return named or forced or any(map(glob.glob, ('/dev/accel*', '/dev/vfio/*')))


class _Finder(importlib.abc.MetaPathFinder):
  """Finds TensorFlow, and mutes what it logs before its log level counts."""

  def find_spec(self, fullname, path, target=None):
    if fullname != 'tensorflow':
      return None
    sys.meta_path.remove(self)
    spec = importlib.util.find_spec(fullname)
    if spec is not None and spec.loader is not None:
      load = spec.loader.exec_module

      def exec_module(module):
        with status.phase('loading TensorFlow'), _without_noise():
          load(module)

      spec.loader.exec_module = exec_module
    return spec


@contextlib.contextmanager
def _without_noise() -> Iterator[None]:
  """Drops noise that C code writes to standard error meanwhile.

  The rest comes late. What Python writes to `sys.stderr` comes at once.
  """
  stream = sys.stderr
  try:
    stderr = os.dup(2)
  except OSError:  # it is closed
    yield
    return
  with (
    open(stderr, 'w', buffering=1, errors='backslashreplace') as direct,
    tempfile.TemporaryFile() as written,
  ):
    if stream is not None:
      stream.flush()
      sys.stderr = direct
    os.dup2(written.fileno(), 2)
    try:
      yield
    finally:
      os.dup2(stderr, 2)
      sys.stderr = stream
      written.seek(0)
      for line in written:
        if not _NOISE.match(line):
          os.write(2, line)
