"""Two real processes train as one does, and go on where the other was."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

SCRIPT = pathlib.Path(__file__).with_name('two_processes.py')

spec = importlib.util.spec_from_file_location('two_processes', SCRIPT)
two_processes = importlib.util.module_from_spec(spec)
spec.loader.exec_module(two_processes)


def run_two(root, jobs, port):
  """Runs jobs in two processes of four devices each."""
  environment = {
    **os.environ,
    'XLA_FLAGS': '--xla_force_host_platform_device_count=4 '
    '--xla_backend_optimization_level=0',
    'PYTHONPATH': str(SCRIPT.parents[2]),
  }
  address = f'localhost:{port}'
  processes = [
    subprocess.Popen(
      [sys.executable, SCRIPT, address, '2', str(i), root, json.dumps(jobs)],
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for i in range(2)
  ]
  try:
    outputs = [process.communicate(timeout=400)[0] for process in processes]
  finally:
    for process in processes:
      process.kill()
  for process, output in zip(processes, outputs):
    assert process.returncode == 0, output[-4000:]


@pytest.mark.alone
@pytest.mark.slow
def test_two_processes_train_and_decode_as_one_does(tmp_path, free_port):
  """MHA, GQA-2 and MQA; for GQA-2 the run also changes hands in its middle."""
  (tmp_path / 'two').mkdir()
  (tmp_path / 'one').mkdir()
  meshes = {8: (8, 1, 1), 2: (2, 2, 2), 1: (1, 1, 8)}
  one = {}
  for kv_heads, sizes in meshes.items():
    one[kv_heads] = two_processes.train_and_decode(
      tmp_path / 'one' / str(kv_heads), kv_heads, sizes, 20
    )
  # Begun by one process on another mesh, to be ended by two; and the reverse.
  two_processes.train_and_decode(tmp_path / 'two' / 'ended', 2, (1, 8, 1), 10)
  run_two(
    tmp_path / 'two',
    [
      *((str(k), k, sizes, 20) for k, sizes in meshes.items()),
      ('ended', 2, (2, 2, 2), 20),
      ('begun', 2, (4, 2, 1), 10),
    ],
    free_port(),
  )
  for kv_heads in meshes:
    np.testing.assert_allclose(
      two_processes.losses(tmp_path / 'two' / str(kv_heads)),
      two_processes.losses(tmp_path / 'one' / str(kv_heads)),
      rtol=1e-5,
    )
    tokens = np.load(tmp_path / 'two' / f'{kv_heads}.npy')
    np.testing.assert_array_equal(tokens, one[kv_heads])
    assert len(np.unique(tokens)) > 2
  two_processes.train_and_decode(tmp_path / 'two' / 'begun', 2, (2, 2, 2), 20)
  expected = two_processes.losses(tmp_path / 'one' / '2')
  for name in ('ended', 'begun'):
    found = two_processes.losses(tmp_path / 'two' / name)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
