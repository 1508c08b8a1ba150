"""The training state over a mesh: where it begins, and the compiled step."""

import functools

import jax
import jax.numpy as jnp

from gqa_flax import compilation, partitioning
from gqa_flax.checkpoints.architecture import abstract_params
from gqa_flax.config import T5Config
from gqa_flax.model.network import Transformer
from gqa_flax.training.step import TrainState, train_step


def abstract_state(config: T5Config, optimizer, mesh) -> TrainState:
  """Returns the state's shapes, dtypes and shardings; nothing is allocated.

  Args:
    config: the architecture.
    optimizer: an optax transformation.
    mesh: a Mesh or an AbstractMesh.
  """
  shapes = jax.eval_shape(
    functools.partial(_first_state, optimizer), abstract_params(config)
  )
  params = partitioning.param_shardings(shapes.params, config, mesh)
  opt_state = partitioning.state_shardings(
    shapes.opt_state, shapes.params, config, mesh
  )
  return TrainState(
    step=_placed(shapes.step, partitioning.replicated(mesh)),
    params=_placed(shapes.params, params),
    opt_state=_placed(shapes.opt_state, opt_state),
  )


def new_state(config: T5Config, optimizer, seed: int, mesh) -> TrainState:
  """Initializes parameters and optimizer, each device its own share."""
  shardings = shardings_of(abstract_state(config, optimizer, mesh))
  init = functools.partial(_init, config, optimizer, seed)
  return jax.jit(init, out_shardings=shardings)()


def new_optimizer_state(params, config: T5Config, optimizer, mesh):
  """Returns what the optimizer begins with for these parameters."""
  wanted = abstract_state(config, optimizer, mesh).opt_state
  init = jax.jit(optimizer.init, out_shardings=shardings_of(wanted))
  return init(params)


def num_params(config: T5Config) -> int:
  """Returns the number of parameters."""
  return sum(x.size for x in jax.tree.leaves(abstract_params(config)))


def shardings_of(tree):
  """Returns the shardings of a tree of arrays or of their shapes."""
  return jax.tree.map(lambda x: x.sharding, tree)


def step_function(state, **arguments):
  """Compiles `step.train_step` for a state, which the step gives up.

  Args:
    state: the first state, or what `abstract_state` returns.
    **arguments: the keyword arguments of `train_step`.
  """
  device, *_ = state.step.sharding.device_set
  return jax.jit(
    functools.partial(train_step, **arguments),
    donate_argnums=0,
    out_shardings=(shardings_of(state), None),
    compiler_options=compilation.options('training', device.platform),
  )


def _placed(shapes, shardings):
  return jax.tree.map(
    lambda x, sharding: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=sharding
    ),
    shapes,
    shardings,
  )


def _init(config, optimizer, seed):
  token = jnp.zeros((1, 1), jnp.int32)
  init = Transformer(config).init
  params = init(jax.random.key(seed), token, token, token)['params']
  return _first_state(optimizer, params)


def _first_state(optimizer, params):
  return TrainState(
    step=jnp.int32(0), params=params, opt_state=optimizer.init(params)
  )
