"""Which checkpoints of ours stay, and writing them in the background."""

import asyncio
import gc
import os
import subprocess
import sys
import textwrap
import threading

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from orbax.checkpoint._src.serialization import serialization

from gqa_flax.checkpoints import native

NAN = float('nan')


def steps_in(folder):
  return sorted(
    int(p.name.rpartition('_')[2]) for p in folder.glob('checkpoint_*')
  )


@pytest.fixture
def checkpoint_at(tiny_config, tiny_params):
  return lambda step: native.Checkpoint(step, tiny_params, tiny_config)


def test_the_best_by_scores_that_come_later_stays(checkpoint_at, tmp_path):
  scores = {}
  with native.checkpoint_manager(
    tmp_path, keep=2, scores=scores, background=True
  ) as manager:
    for step, score in enumerate([0.1, 0.9, 0.5, NAN, 0.2, None], start=1):
      native.save(manager, checkpoint_at(step))
      if score is not None:
        scores[step] = score
  assert steps_in(tmp_path) == [2, 5, 6]


def test_the_smallest_may_be_the_best(checkpoint_at, tmp_path):
  scores = {1: 5.0, 2: 0.5}
  with native.checkpoint_manager(
    tmp_path, keep=1, scores=scores, mode='min'
  ) as manager:
    for step in range(1, 5):
      native.save(manager, checkpoint_at(step))
  assert steps_in(tmp_path) == [2, 4]


def test_best_step():
  scores = {1: 0.5, 2: 0.7, 3: 0.7, 4: NAN, 5: 0.9}
  assert native.best_step(scores) == 5
  assert native.best_step(scores, among=[1, 2, 3, 4]) == 3
  assert native.best_step(scores, 'min') == 1
  assert native.best_step({4: NAN}) is None
  assert native.best_step({}) is None
  with pytest.raises(ValueError, match="'best'; give 'max' or 'min'"):
    native.best_step(scores, 'best')


def test_checkpoints_with_orbax_s_metrics_still_open(checkpoint_at, tmp_path):
  """As they were written before scores were kept elsewhere."""
  old = checkpoint_at(3)
  with ocp.CheckpointManager(
    tmp_path,
    options=ocp.CheckpointManagerOptions(
      step_prefix='checkpoint', best_fn=lambda m: m['score']
    ),
  ) as manager:
    manager.save(
      3,
      args=ocp.args.Composite(
        params=ocp.args.StandardSave(old.params),
        model=ocp.args.JsonSave({'config': old.config.to_dict(), 'step': 3}),
      ),
      metrics={'score': 0.5},
    )
  assert (tmp_path / 'checkpoint_3' / 'metrics').exists()
  jax.tree.map(
    np.testing.assert_array_equal,
    native.restore(tmp_path).params,
    old.params,
  )
  with native.checkpoint_manager(tmp_path, keep=1, scores={}) as manager:
    native.save(manager, checkpoint_at(4))
  assert steps_in(tmp_path) == [4]


def test_what_is_donated_after_saving_was_saved(
  tiny_config, tiny_params, tmp_path, monkeypatch
):
  overwritten = threading.Event()
  write = serialization.async_serialize_from_host

  async def write_later(*args, **kwargs):
    await asyncio.to_thread(overwritten.wait)
    await write(*args, **kwargs)

  monkeypatch.setattr(serialization, 'async_serialize_from_host', write_later)
  overwrite = jax.jit(
    lambda tree: jax.tree.map(lambda x: x * 0 - 1, tree), donate_argnums=0
  )
  state = jax.tree.map(jnp.array, tiny_params)
  counts = np.arange(5, dtype=np.int32)
  jax.block_until_ready(state)
  with native.checkpoint_manager(tmp_path, background=True) as manager:
    native.save(
      manager,
      native.Checkpoint(1, state, tiny_config),
      opt_state={'counts': counts},
    )
    try:
      given, state = state, jax.block_until_ready(overwrite(state))
      # The memory was given away indeed, not kept because of the writing.
      assert all(x.is_deleted() for x in jax.tree.leaves(given))
      jax.block_until_ready(overwrite(state))
      counts[:] = 7
    finally:
      overwritten.set()
  jax.tree.map(
    np.testing.assert_array_equal,
    native.restore(tmp_path).params,
    tiny_params,
  )
  opt_state = native.restore_optimizer(tmp_path, {'counts': counts})
  np.testing.assert_array_equal(opt_state['counts'], np.arange(5))


def test_only_the_job_that_writes_removes_what_was_left(
  checkpoint_at, tmp_path
):
  left = tmp_path / 'checkpoint_9.orbax-checkpoint-tmp-0'
  left.mkdir()
  (left / 'part').write_text('half')
  with native.checkpoint_manager(tmp_path) as manager:
    native.save(manager, checkpoint_at(1))
  assert left.exists()
  with native.checkpoint_manager(tmp_path, background=True):
    assert not left.exists()
  assert steps_in(tmp_path) == [1]


# Writes checkpoint_1, then makes writing fail, then checkpoint_2.
FAILING = """
import os, resource, signal, sys, time
import jax, numpy as np
from gqa_flax.checkpoints import native
from gqa_flax.checkpoints.architecture import abstract_params
from gqa_flax.config import T5Config

folder, how, background = sys.argv[1], sys.argv[2], sys.argv[3] == 'True'
config = T5Config(
  vocab_size=8, emb_dim=8, num_heads=2, head_dim=4, mlp_dim=8,
  num_encoder_layers=1, num_decoder_layers=1,
)
params = abstract_params(config)
rng = np.random.default_rng(0)
params = jax.tree.map(
  lambda x: rng.normal(size=x.shape).astype(np.float32), params
)
opt_state = {
  f'v{i}': rng.normal(size=(100, 100)).astype(np.float32) for i in range(50)
}
manager = native.checkpoint_manager(folder, keep=1, background=background)
native.save(manager, native.Checkpoint(1, params, config))
native.wait(manager)
if how == 'full':
  signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
  resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
else:
  os.rename(folder, folder + '-gone')
  open(folder, 'w').close()
try:
  native.save(
    manager, native.Checkpoint(2, params, config), opt_state=opt_state
  )
  if how == 'full' and background:
    while manager.is_saving_in_progress():
      native.check(manager)
      time.sleep(0.01)
    native.check(manager)
    print('not noticed')
  manager.close()
  print('no error')
except native.CheckpointWriteError as error:
  print(error)
if how == 'full':
  native.save(manager, native.Checkpoint(3, params, config))
  manager.close()
"""


@pytest.mark.parametrize('writes', ['orbax-checkpoint-tmp', 'elsewhere'])
def test_errors_of_parallel_writes_are_not_logged(tmp_path, writes, caplog):
  """Orbax raises the first; asyncio would log the others as tracebacks."""

  async def fail():
    raise ValueError(f'Error writing {tmp_path / writes}')

  async def gather():
    failing = asyncio.ensure_future(fail())
    await asyncio.wait([failing])

  with native.checkpoint_manager(tmp_path):
    asyncio.run(gather())
    gc.collect()
  logged = [r for r in caplog.records if 'never retrieved' in r.message]
  assert len(logged) == (writes == 'elsewhere')


@pytest.mark.slow
@pytest.mark.parametrize('background', [False, True])
@pytest.mark.parametrize('how', ['full', 'replaced'])
def test_writing_that_fails_is_one_sentence(tmp_path, how, background):
  folder = tmp_path / 'model'
  done = subprocess.run(
    [sys.executable, '-c', textwrap.dedent(FAILING)]
    + [str(folder), how, str(background)],
    capture_output=True,
    text=True,
    env={**os.environ, 'XLA_FLAGS': ''},
  )
  assert done.returncode == 0, done.stderr
  assert 'Traceback' not in done.stderr
  (sentence,) = done.stdout.splitlines()
  assert f'checkpoint_2 could not be written to {folder} (' in sentence
  if how == 'full':
    assert '(file too large); the newest whole one there is check' in sentence
    # Nothing of the second is left, and the next may be written again.
    assert [p.name for p in folder.iterdir()] == ['checkpoint_3']
  else:
    assert 'nor can it be listed' in sentence
    folder = tmp_path / 'model-gone'
    assert [p.name for p in folder.iterdir()] == ['checkpoint_1']
  assert native.restore(folder).step == (3 if how == 'full' else 1)
