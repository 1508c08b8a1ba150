"""Which noise of libraries is kept off, and which settings stay."""

import importlib.util
import os
import shlex
import subprocess
import sys

import pytest

from gqa_flax.runtime import quiet


@pytest.fixture
def machine(monkeypatch):
  """Returns a function that sets what is installed and plugged in."""
  for name in list(os.environ):
    if name.startswith(('TPU_', 'JAX_')):
      monkeypatch.delenv(name)

  def set_up(packages, devices=()):
    monkeypatch.setattr(
      importlib.util,
      'find_spec',
      lambda name: name if name in packages else None,
    )
    monkeypatch.setattr(
      quiet.glob,
      'glob',
      lambda pattern: [d for d in devices if d.startswith(pattern[:-1])],
    )
    return quiet._platforms()

  return set_up


@pytest.mark.parametrize(
  'packages, devices, platforms',
  [
    ([], [], None),
    (['libtpu'], [], 'cpu'),
    (['libtpu'], ['/dev/accel0'], None),
    (['libtpu'], ['/dev/vfio/0'], None),
    # JAX says by itself that it lacks the plugin.
    (['libtpu'], ['/dev/nvidia0'], None),
    (['libtpu', 'jax_cuda12_plugin'], ['/dev/nvidia0'], 'cuda,cpu'),
    (['libtpu', 'jax_cuda13_plugin'], [], 'cpu'),
    (['jax_cuda12_plugin'], ['/dev/nvidia0'], None),
  ],
)
def test_jax_looks_for_what_can_be_there(machine, packages, devices, platforms):
  assert machine(packages, devices) == platforms


@pytest.mark.parametrize('name', ['TPU_NAME', 'JAX_FORCE_TPU_INIT'])
def test_a_tpu_that_the_environment_names_is_looked_for(
  machine, monkeypatch, name
):
  monkeypatch.setenv(name, '1')
  assert machine(['libtpu']) is None


def test_what_the_user_has_set_stays(monkeypatch):
  chosen = {'JAX_PLATFORMS': 'cuda', 'TF_CPP_MIN_LOG_LEVEL': '0'}
  for name, value in chosen.items():
    monkeypatch.setenv(name, value)
  monkeypatch.setattr(quiet, '_chosen_level', '0')
  monkeypatch.setattr(quiet, '_platforms', lambda: 'cpu')
  monkeypatch.setattr(sys, 'meta_path', [*sys.meta_path])
  finders = [*sys.meta_path]
  quiet.prepare()
  assert {name: os.environ[name] for name in chosen} == chosen
  assert sys.meta_path == finders


def run(code, **variables):
  kept = {k: v for k, v in os.environ.items() if 'TF_CPP' not in k}
  return subprocess.run(
    [sys.executable, '-c', code],
    env={**kept, **variables},
    capture_output=True,
    text=True,
  )


# What stands for TensorFlow.
NOISY = """
import os, sys
os.write(2, b'WARNING: All log messages before absl::InitializeLog() is...\\n')
os.write(2, b'I0000 00:00:1796061434.918159   14143 port.cc:153] oneDNN on\\n')
os.write(2, b'F0000 00:00:1796061434.918159   14143 cpu.cc:1] No AVX.\\n')
print('Python speaks.', file=sys.stderr)
"""


@pytest.fixture
def noisy(tmp_path):
  (tmp_path / 'tensorflow').mkdir()
  (tmp_path / 'tensorflow' / '__init__.py').write_text(NOISY)
  return f'import sys; sys.path.insert(0, {str(tmp_path)!r}); '


def test_tensorflow_s_noise_is_dropped_and_nothing_else(noisy):
  result = run(
    f'{noisy}from gqa_flax.runtime import quiet; quiet.prepare(); '
    'import tensorflow; print("later", file=sys.stderr)'
  )
  assert result.stderr.splitlines() == [
    'Python speaks.',
    'F0000 00:00:1796061434.918159   14143 cpu.cc:1] No AVX.',
    'later',
  ]


def test_who_asks_for_tensorflow_s_messages_gets_them(noisy):
  result = run(
    f'{noisy}from gqa_flax.runtime import quiet; quiet.prepare(); '
    'import tensorflow',
    TF_CPP_MIN_LOG_LEVEL='0',
  )
  assert 'oneDNN on' in result.stderr


def test_tensorflow_is_loaded_where_standard_error_is_closed(noisy):
  code = (
    f'{noisy}from gqa_flax.runtime import quiet; quiet.prepare(); '
    'sys.modules["os"].write = lambda *_: 0; import tensorflow; print("done")'
  )
  shell = f'exec {shlex.quote(sys.executable)} -c {shlex.quote(code)} 2>&-'
  kept = {k: v for k, v in os.environ.items() if 'TF_CPP' not in k}
  said = subprocess.check_output(shell, shell=True, env=kept, text=True)
  assert said.endswith('done\n')
