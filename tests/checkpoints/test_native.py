"""Checkpoints of our own: what goes in comes out, or nothing does."""

import jax
import numpy as np
import pytest

from gqa_flax.checkpoints import native


@pytest.fixture
def checkpoint(tiny_config, tiny_params):
  return native.Checkpoint(7, tiny_params, tiny_config)


def test_round_trip(checkpoint, tmp_path):
  with native.checkpoint_manager(tmp_path) as manager:
    native.save(manager, checkpoint)
  for path in (tmp_path, tmp_path / 'checkpoint_7'):
    restored = native.restore(path)
    assert restored.step == 7
    assert restored.config == checkpoint.config
    jax.tree.map(
      np.testing.assert_array_equal, restored.params, checkpoint.params
    )


def test_the_latest_is_read(checkpoint, tmp_path):
  with native.checkpoint_manager(tmp_path) as manager:
    for step in (7, 10, 9):
      later = native.Checkpoint(step, checkpoint.params, checkpoint.config)
      native.save(manager, later)
  assert native.locate(tmp_path)[1] == 10


def test_unfinished_checkpoints_are_not_seen(checkpoint, tmp_path):
  with native.checkpoint_manager(tmp_path) as manager:
    native.save(manager, checkpoint)
  (tmp_path / 'checkpoint_9.orbax-checkpoint-tmp-0').mkdir()
  assert native.locate(tmp_path)[1] == 7


@pytest.mark.parametrize('name', ['absent', '', 'checkpoint_3'])
def test_no_checkpoint_is_one_sentence(tmp_path, name):
  with pytest.raises(FileNotFoundError, match='There is no checkpoint at'):
    native.restore(tmp_path / name)


def test_another_format_is_one_sentence(tmp_path):
  (tmp_path / 'checkpoint_3' / 'state').mkdir(parents=True)
  with pytest.raises(ValueError, match='not a checkpoint that gqa_flax wrote'):
    native.restore(tmp_path)
