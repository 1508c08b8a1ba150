"""A vocabulary, a task of its, and a tiny model to decode with."""

import dataclasses

import pytest

from gqa_flax.checkpoints import native
from gqa_flax.data import embedded, tasks


@pytest.fixture(scope='session')
def vocabulary(tmp_path_factory):
  return embedded.vocabulary(600, cache_dir=tmp_path_factory.mktemp('cache'))


@pytest.fixture(scope='module')
def task(vocabulary):
  """For each file anew: others take tasks out of seqio's registry."""
  return tasks.get_task('wikipedia_summarization', vocabulary)


@pytest.fixture(scope='session')
def checkpoint(tmp_path_factory, tiny_config, make_params, vocabulary):
  config = dataclasses.replace(tiny_config, vocab_size=704, num_kv_heads=2)
  folder = tmp_path_factory.mktemp('model')
  with native.checkpoint_manager(folder) as manager:
    native.save(manager, native.Checkpoint(3, make_params(config), config))
  return str(folder)
