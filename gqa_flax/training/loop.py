"""The training loop: restore, step, log, evaluate, save."""

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from gqa_flax import partitioning
from gqa_flax.checkpoints import native
from gqa_flax.config import T5Config
from gqa_flax.model.network import Transformer
from gqa_flax.training import optimizer as optimizers
from gqa_flax.training.progress import MetricLog, ProgressLine
from gqa_flax.training.step import TrainState, train_step


class Batches(Iterator, Protocol):
  """An endless iterator over batches, whose position can be kept."""

  def save(self, directory): ...

  def restore(self, directory): ...


# Maps (model, params) to named numbers.
Evaluator = Callable[[Transformer, Any], dict[str, float]]


def train(
  *,
  model_dir: str,
  config: T5Config,
  train_data: Batches,
  train_steps: int,
  learning_rate: Callable,
  optimizer=None,
  initial_checkpoint: str | None = None,
  initial_optimizer: str = 'reset',
  evaluators: Sequence[Evaluator] = (),
  loss_normalizing_factor: float | str | None = None,
  z_loss: float = 1e-4,
  microbatches: int = 1,
  seed: int = 0,
  log_every: int = 50,
  evaluate_every: int = 1000,
  checkpoint_every: int = 1000,
  keep: int | None = 1,
  keep_best: str | None = None,
  keep_best_mode: str = 'max',
) -> TrainState:
  """Trains up to a step, from wherever model_dir or a checkpoint stands.

  The latest checkpoint in model_dir is continued from, as if there had been
  no stop: parameters, optimizer, step and position in the data. Else the
  parameters and the step come from initial_checkpoint, with a new optimizer
  state unless initial_optimizer is 'carry'; else parameters are initialised by
  the seed, at step 0.

  Args:
    model_dir: gets checkpoint_<step>/, metrics.jsonl and TensorBoard's files.
    config: the architecture.
    train_data: see Batches; rows as `data.batches` yields them.
    train_steps: the step to train up to, counted from the first step of
      pre-training as T5X counts (a checkpoint of step 1,000,000 fine-tuned
      for 20,000 steps ends at 1,020,000).
    learning_rate: a function of the step.
    optimizer: an optax transformation for a learning rate of 1; None is
      `optimizer.adafactor()`.
    initial_checkpoint: a folder that `checkpoints.native` reads.
    initial_optimizer: 'reset' begins with a new optimizer state, 'carry' with
      that of initial_checkpoint, its count of steps included.
    evaluators: called every evaluate_every steps and at the end.
    loss_normalizing_factor: see `losses.loss_normalizer`.
    z_loss: coefficient.
    microbatches: parts of a batch in which gradients are accumulated.
    seed: of initialisation and dropout.
    log_every: steps between records.
    evaluate_every: steps between evaluations.
    checkpoint_every: steps between checkpoints; the last is always written.
    keep: how many of the latest checkpoints to keep; None keeps all.
    keep_best: a metric of an evaluator; the best checkpoint is kept besides.
    keep_best_mode: 'max' or 'min'.

  Returns:
    The state at train_steps.

  Raises:
    FloatingPointError: if a loss is not finite; nothing of that state is saved.
    ValueError: if a checkpoint is of another architecture, if it has no
      optimizer state that was to be carried, or if a token id lies outside the
      vocabulary.
  """
  optimizer = optimizers.adafactor() if optimizer is None else optimizer
  mesh = partitioning.data_parallel_mesh()
  model = Transformer(config)
  manager = native.checkpoint_manager(
    model_dir, keep=keep, best=keep_best, mode=keep_best_mode
  )
  state = _initial_state(
    manager,
    config,
    optimizer,
    train_data,
    initial_checkpoint,
    initial_optimizer,
    seed,
    mesh,
  )
  first_step = int(state.step)
  if first_step >= train_steps:
    print(
      f'{model_dir} is at step {first_step} of {train_steps}: nothing to do.'
    )
    manager.close()
    return state

  step_function = jax.jit(
    functools.partial(
      train_step,
      model=model,
      optimizer=optimizer,
      learning_rate=learning_rate,
      loss_normalizing_factor=loss_normalizing_factor,
      z_loss=z_loss,
      microbatches=microbatches,
    ),
    donate_argnums=0,
  )
  rng = jax.random.key(seed) if config.dropout_rate > 0 else None
  log = MetricLog(model_dir, first_step)
  line = ProgressLine(epath.Path(model_dir).name, first_step, train_steps)
  window = _Window()
  for step in range(first_step + 1, train_steps + 1):
    batch = next(train_data)
    _check_tokens(batch, config.vocab_size)
    window.examples += _count_examples(batch)
    state, metrics = step_function(
      state, partitioning.shard_batch(batch, mesh), rng
    )
    window.metrics.append(metrics)

    last = step == train_steps
    evaluating = bool(evaluators) and (last or step % evaluate_every == 0)
    saving = last or step % checkpoint_every == 0
    if last or evaluating or saving or step % log_every == 0:
      numbers = window.close(step)
      rate = float(learning_rate(jnp.int32(step - 1)))
      log.write(step, {**numbers, 'learning_rate': rate})
      line.show(step, numbers['loss'], numbers['examples_per_second'])
    scores = {}
    if evaluating:
      for evaluator in evaluators:
        scores.update(evaluator(model, state.params))
      log.write(step, scores)
    if saving:
      _check_finite(state.params, step)
      native.save(
        manager,
        native.Checkpoint(step, state.params, config),
        opt_state=state.opt_state,
        data=train_data,
        metrics=scores,
      )
    if evaluating or saving:
      window.restart_clock()
  line.close()
  manager.close()
  return state


class _Window:
  """Metrics of the steps since the last record, still on the devices."""

  def __init__(self):
    self.metrics, self.examples = [], 0
    self.restart_clock()

  def restart_clock(self):
    self._start = time.monotonic()

  def close(self, step):
    """Returns the means over the window's tokens, and starts the next one."""
    per_step = jax.device_get(self.metrics)
    first_step = step - len(per_step) + 1
    for i, metrics in enumerate(per_step):
      loss = (metrics.cross_entropy + metrics.z_loss) / metrics.tokens
      if not np.isfinite(loss):
        raise FloatingPointError(
          f'The loss of step {first_step + i} is {loss}; nothing was saved '
          'since the last checkpoint. Lower the learning rate, or go on from '
          'there with another RANDOM_SEED.'
        )
    total = jax.tree.map(lambda *xs: float(np.sum(xs)), *per_step)
    seconds = time.monotonic() - self._start
    examples_per_second = self.examples / seconds
    self.__init__()
    return {
      'loss': (total.cross_entropy + total.z_loss) / total.tokens,
      'cross_entropy': total.cross_entropy / total.tokens,
      'accuracy': total.correct / total.tokens,
      'target_tokens': total.tokens,
      'examples_per_second': examples_per_second,
      'seconds': seconds,
    }


def _initial_state(
  manager,
  config,
  optimizer,
  train_data,
  initial_checkpoint,
  initial_optimizer,
  seed,
  mesh,
):
  """Returns the state of the latest or the initial checkpoint, or a new one."""
  if initial_optimizer not in ('reset', 'carry'):
    raise ValueError(
      f"OPTIMIZER_STATE is {initial_optimizer!r}; give 'reset' or 'carry'."
    )
  latest = manager.latest_step()
  if latest is not None:
    checkpoint = native.restore(manager.directory / f'{native.PREFIX}_{latest}')
  elif initial_checkpoint:
    checkpoint = native.restore(initial_checkpoint)
  else:
    token = jnp.zeros((1, 1), jnp.int32)
    init = jax.jit(Transformer(config).init)
    params = init(jax.random.key(seed), token, token, token)['params']
    checkpoint = native.Checkpoint(0, params, config)
  _check_architecture(checkpoint.config, config, initial_checkpoint)

  opt_state = optimizer.init(checkpoint.params)
  if latest is not None:
    opt_state = native.restore_training(
      manager, latest, opt_state=opt_state, data=train_data
    )
  elif initial_checkpoint and initial_optimizer == 'carry':
    opt_state = native.restore_optimizer(initial_checkpoint, opt_state)
  state = TrainState(
    step=jnp.int32(checkpoint.step),
    params=checkpoint.params,
    opt_state=opt_state,
  )
  return jax.device_put(state, partitioning.replicated(mesh))


def _check_architecture(found: T5Config, wanted: T5Config, path):
  """Raises ValueError that names every size in which they differ."""
  found_fields, wanted_fields = found.architecture(), wanted.architecture()
  differing = [
    f'{name} {found_fields[name]} (configured: {wanted_fields[name]})'
    for name in found_fields
    if found_fields[name] != wanted_fields[name]
  ]
  if differing:
    raise ValueError(
      f'The checkpoint{f" {path}" if path else ""} has '
      f'{", ".join(differing)}; configure the model as the checkpoint is, or '
      'convert it first (gqa-flax convert).'
    )


def _check_finite(params, step):
  """Raises FloatingPointError: the loss comes before the update, and may be."""
  if not _all_finite(params):
    raise FloatingPointError(
      f'A parameter is not finite after step {step}, which is not saved; lower '
      'the learning rate, or go on from the last checkpoint with another '
      'RANDOM_SEED.'
    )


@jax.jit
def _all_finite(params):
  leaves = jax.tree.leaves(params)
  return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in leaves]))


def _check_tokens(batch, vocab_size):
  largest = max(
    batch[name].max()
    for name in ('encoder_input_tokens', 'decoder_target_tokens')
  )
  if largest >= vocab_size:
    raise ValueError(
      f'The data holds token id {largest}, but the model has only '
      f'{vocab_size}; set T5Config.vocab_size to at least the size of the '
      'VOCABULARY.'
    )


def _count_examples(batch):
  """Counts sequences, each of those packed into a row by itself."""
  segments = batch.get('encoder_segment_ids')
  if segments is None:
    return len(batch['encoder_input_tokens'])
  return int(segments.max(axis=1).sum())
