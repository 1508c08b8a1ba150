"""Names of Adafactor's state: optax and Orbax are asked what they are."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import traverse_util

from gqa_flax.checkpoints import adafactor_state, orbax_items
from gqa_flax.training import optimizer

# A matrix that is factored either way round, one that is not, a vector.
PARAMS = {
  'wide': {'kernel': jnp.ones((128, 200))},
  'tall': {'kernel': jnp.ones((200, 128))},
  'narrow': {'kernel': jnp.ones((200, 16))},
  'scale': jnp.ones(128),
}
NAMES = ['narrow/kernel', 'scale', 'tall/kernel', 'wide/kernel']


def some_state():
  adafactor = optimizer.adafactor()
  state = adafactor.init(PARAMS)
  for seed in range(2):
    keys = jax.random.split(jax.random.key(seed), 4)
    leaves, tree = jax.tree.flatten(PARAMS)
    grads = [jax.random.normal(k, x.shape) for k, x in zip(keys, leaves)]
    _, state = adafactor.update(jax.tree.unflatten(tree, grads), state, PARAMS)
  return state


def stored(path, state):
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(path, state)
  return orbax_items.open_item(path)


def test_slots_are_the_statistics_that_optax_keeps(tmp_path):
  state = some_state()
  stores = stored(tmp_path / 'item', state)
  assert adafactor_state.is_adafactor(stores, NAMES)
  slots = adafactor_state.slots_of(stores)
  assert {name: store.shape for name, store in slots.items()} == {
    'wide/kernel/v_row': (128,),
    'wide/kernel/v_col': (200,),
    'tall/kernel/v_row': (128,),
    'tall/kernel/v_col': (200,),
    'narrow/kernel/v': (200, 16),
    'scale/v': (128,),
  }
  for name, store in slots.items():
    param, _, kind = name.rpartition('/')
    kept = traverse_util.flatten_dict(getattr(state[0], kind), sep='/')
    np.testing.assert_array_equal(store.read().result(), kept[param])


def test_what_is_written_is_the_real_state(tmp_path):
  state = some_state()
  stores = stored(tmp_path / 'optax', state)
  slots = {
    name: adafactor_state.LazyArray.of(store.read().result())
    for name, store in adafactor_state.slots_of(stores).items()
  }
  path = tmp_path / 'ours'
  orbax_items.write_item(
    path,
    adafactor_state.state_arrays(slots, NAMES),
    scalars={adafactor_state.COUNT: np.int32(2)},
    empty=adafactor_state.EMPTY,
  )
  with ocp.StandardCheckpointer() as checkpointer:
    restored = checkpointer.restore(path, optimizer.adafactor().init(PARAMS))
    # Without a target, its structure is what was written of it.
    found, wanted = (
      checkpointer.restore(tmp_path / name) for name in ('ours', 'optax')
    )
  jax.tree.map(np.testing.assert_array_equal, restored, state)
  jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_other_optimizers_are_told_apart(tmp_path):
  stores = stored(tmp_path / 'adam', optax.adam(1e-3).init(PARAMS))
  assert not adafactor_state.is_adafactor(stores, NAMES)
  stores = stored(tmp_path / 'adafactor', some_state())
  assert not adafactor_state.is_adafactor(stores, [*NAMES, 'another'])
  assert not adafactor_state.is_adafactor(stores, NAMES[1:])


@pytest.mark.parametrize(
  ('slots', 'message'),
  [
    ({'a/v_row': 4, 'a/v_col': 6, 'b/v': 3}, None),
    ({'a/v_row': 6, 'a/v_col': 4, 'b/v': 3}, None),
    ({}, None),
    ({'a/v_row': 4, 'a/v_col': 6}, 'b has none'),
    ({'a/v_row': 4, 'b/v': 3}, 'a has none, or one of two'),
    ({'a/v_row': 4, 'a/v_col': 4, 'b/v': 3}, r'a of shape \(6, 4\)'),
    ({'a/v_row': 4, 'a/v_col': 6, 'b/v': 4}, r'b of shape \(3,\)'),
    ({'a/v_row': 4, 'a/v_col': 6, 'b/v': 3, 'c/v': 1}, 'c/v belongs to no'),
  ],
)
def test_slots_are_checked_against_the_parameters(slots, message):
  slots = {name: np.zeros(size) for name, size in slots.items()}
  shapes = {'a': (6, 4), 'b': (3,)}
  if message is None:
    adafactor_state.check_slots(slots, shapes, '/here')
  else:
    with pytest.raises(ValueError, match=f'in /here do not fit.*{message}'):
      adafactor_state.check_slots(slots, shapes, '/here')
