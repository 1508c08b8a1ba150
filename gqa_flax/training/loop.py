"""The training loop: restore, step, log, save, evaluate."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from etils import epath

from gqa_flax import partitioning
from gqa_flax.checkpoints import native
from gqa_flax.config import T5Config
from gqa_flax.model.network import Transformer
from gqa_flax.partitioning import hosts
from gqa_flax.runtime import interrupts, status
from gqa_flax.runtime.owner import Owner
from gqa_flax.training import checks, goodput, losses, preemption, watchdog
from gqa_flax.training import optimizer as optimizers
from gqa_flax.training.progress import MetricLog, records
from gqa_flax.training.start import initial_state
from gqa_flax.training.state import num_params, step_function
from gqa_flax.training.step import TrainState
from gqa_flax.training.window import Window


class Batches(Iterator, Protocol):
  """An endless iterator over batches, whose position can be kept."""

  batch_size: int  # rows of all processes together
  vocab_size: int  # may be absent: token ids are checked as they come

  def assign(self, rows, num_processes, process): ...

  def save(self, directory): ...

  def restore(self, directory): ...


# Maps (model, params) to named numbers. If it has them, its `metric_names` and
# `vocab_size` are checked before the first step.
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
  run_eval_before_training: bool = False,
  checkpoint_every: int = 1000,
  keep: int | None = 2,
  keep_best: str | None = None,
  keep_best_mode: str | None = None,
  mesh: partitioning.MeshShape | None = None,
  non_finite: str = 'stop',
  hang_seconds: float | None = 1800,
  compilation_cache: str | None = None,
  on_start: Callable[[], None] | None = None,
  on_log: Callable[[int, Mapping[str, float]], None] | None = None,
) -> TrainState:
  """Trains up to a step, from wherever model_dir or a checkpoint stands.

  The latest checkpoint in model_dir is continued from, as if there had been
  no stop: parameters, optimizer, step and position in the data. Else the
  parameters and the step come from initial_checkpoint, with a new optimizer
  state unless initial_optimizer is 'carry'; else parameters are initialized by
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
    initial_checkpoint: of any format, as in `checkpoints.formats.
      open_checkpoint`.
    initial_optimizer: 'reset' begins with a new optimizer state, 'carry' with
      that of initial_checkpoint, its count of steps included.
    evaluators: called every evaluate_every steps and at the end, when the
      checkpoint of that step is written: what a stop cuts short is done by the
      next attempt.
    loss_normalizing_factor: see `losses.loss_normalizer`.
    z_loss: coefficient.
    microbatches: parts of a batch in which gradients are accumulated.
    seed: of initialization and dropout.
    log_every: steps between records.
    evaluate_every: steps between evaluations.
    run_eval_before_training: whether the evaluators are called before the first
      step, too.
    checkpoint_every: steps between checkpoints; the last is always written.
    keep: how many of the latest checkpoints to keep; None keeps all. With two,
      there is one to go back to where the newest is damaged.
    keep_best: a metric of an evaluator; the checkpoint with the best score is
      kept as well.
    keep_best_mode: 'max' or 'min'; None is 'min' for a loss, else 'max'.
    mesh: the axes over which batch, parameters and heads are divided.
    non_finite: 'stop', or 'skip' what gives no finite update; see `train_step`.
    hang_seconds: without progress for so long, the process ends with status
      75, so that its job can be restarted; None waits forever. Compiling,
      restoring and saving count.
    compilation_cache: a folder for what was compiled, local or in a bucket.
    on_start: called once the run is sure to train, before its first step.
    on_log: called with a step and its numbers every log_every steps, in place
      of the progress line and of the table of where the time went.

  Returns:
    The state at train_steps.

  Raises:
    Preempted: after SIGTERM, when the state is saved.
    FloatingPointError: if a loss is not finite; nothing of that state is saved.
    CheckpointWriteError: if a checkpoint cannot be written.
    FolderInUseError: if another process trains in model_dir.
    ValueError: if an argument is out of range, keep_best names no metric, there
      is nothing to train, a checkpoint is of another architecture or has no
      optimizer state that was to be carried, or a token id lies outside the
      vocabulary.
  """
  checks.check_settings(
    paths={
      'MODEL_DIR': model_dir,
      'INITIAL_CHECKPOINT_PATH': initial_checkpoint,
      'COMPILATION_CACHE': compilation_cache,
    },
    counts={
      'TRAIN_STEPS': train_steps,
      'EVALUATE_EVERY': evaluate_every,
      'CHECKPOINT_EVERY': checkpoint_every,
      'KEEP_CHECKPOINTS': keep,
      'log_every': log_every,
    },
    batch_size=train_data.batch_size,
    microbatches=microbatches,
  )
  if non_finite not in ('stop', 'skip'):
    raise ValueError(f"NON_FINITE is {non_finite!r}; give 'stop' or 'skip'.")
  losses.check_normalizing_factor(loss_normalizing_factor)
  checks.check_vocabularies([train_data, *evaluators], config)
  checks.check_keep_best(keep_best, evaluators)
  checks.make_cache_folder(compilation_cache)
  if compilation_cache is not None:
    jax.config.update('jax_compilation_cache_dir', compilation_cache)
  optimizer = optimizers.adafactor() if optimizer is None else optimizer
  device_mesh = partitioning.make_mesh(
    mesh or partitioning.MeshShape(),
    config=config,
    num_params=num_params(config),
    batch_size=train_data.batch_size,
  )
  train_data.assign(
    functools.partial(partitioning.own_rows, device_mesh),
    jax.process_count(),
    jax.process_index(),
  )
  scores: dict[int, float] = {}
  mode = keep_best_mode or checks.best_mode(keep_best)
  with (
    Owner(model_dir, 'MODEL_DIR', owns=hosts.is_primary()) as owner,
    native.checkpoint_manager(
      model_dir, keep=keep, scores=scores, mode=mode, background=True
    ) as manager,
    jax.set_mesh(device_mesh),
    watchdog.Watchdog(hang_seconds),
    preemption.listening() as preempted,
    contextlib.ExitStack() as at_end,
  ):
    state, goes_on = initial_state(
      manager,
      config,
      optimizer,
      train_data,
      initial_checkpoint=initial_checkpoint,
      initial_optimizer=initial_optimizer,
      seed=seed,
      mesh=device_mesh,
    )
    first_step = int(state.step)
    if initial_checkpoint and not goes_on:
      warning = optimizers.warmup_warning(
        learning_rate, first_step, initial_checkpoint
      )
      if warning:
        _say(warning)

    def due(step):
      last = step == train_steps
      return bool(evaluators) and (last or step % evaluate_every == 0)

    logged = records(model_dir, first_step) if goes_on else []
    for record in logged:
      if keep_best in record:
        scores[int(record['step'])] = record[keep_best]
    evaluated = {record['step'] for record in logged if 'loss' not in record}
    missed = first_step not in evaluated and (
      due(first_step)
      if goes_on
      else run_eval_before_training and bool(evaluators)
    )
    checks.check_steps(
      first_step,
      train_steps,
      model_dir=model_dir,
      initial_checkpoint=initial_checkpoint,
      continues=goes_on,
      evaluates=missed,
    )
    if first_step == train_steps and not missed:
      if hosts.is_primary():
        print(
          f'{model_dir} is at step {first_step} of {train_steps}: nothing to '
          'do.'
        )
      return state

    if on_start is not None:
      on_start()
    run = _Run(model_dir, config, evaluators, manager, first_step, goes_on)
    if missed:
      # What is not saved cannot be the best that is kept.
      run.evaluate(state, keep_best, scores if goes_on else {})
    compiled = step_function(
      state,
      model=run.model,
      optimizer=optimizer,
      learning_rate=learning_rate,
      loss_normalizing_factor=loss_normalizing_factor,
      z_loss=z_loss,
      microbatches=microbatches,
      skip_non_finite=non_finite == 'skip',
    )
    rng = jax.random.key(seed) if config.dropout_rate > 0 else None
    bar = status.Bar(
      epath.Path(model_dir).name,
      train_steps,
      initial=first_step,
      unit='step',
      shows=hosts.is_primary() and on_log is None,
    )
    # Before whatever is said of a run that ends early.
    at_end.callback(bar.close)
    window = Window()
    for step in range(first_step + 1, train_steps + 1):
      watchdog.beat()
      with run.clock('input'):
        batch = next(train_data)
        checks.check_tokens(batch, config)
        placed = partitioning.shard_batch(
          batch, device_mesh, train_data.batch_size
        )
      is_first = step == first_step + 1
      with (
        run.clock('compilation' if is_first else 'step'),
        status.phase('compiling the training step')
        if is_first
        else contextlib.nullcontext(),
      ):
        state, metrics = compiled(state, placed, rng)
        window.add(metrics, _count_examples(batch, train_data.batch_size))
      interrupts.check()
      # Every process asks at every step.
      stopping = preempted(step)
      saving = stopping or due(step) or step % checkpoint_every == 0
      saving = saving or step == train_steps
      if saving or step % log_every == 0:
        with run.clock('step'):
          numbers = window.close(step)
        if numbers is not None:
          rate = float(learning_rate(jnp.int32(step - 1)))
          run.log.write(step, {**numbers, 'learning_rate': rate})
          bar.show(step, _describe(numbers))
          if on_log is not None:
            on_log(step, numbers)
        native.check(manager)
      if saving:
        owner.check()
        run.save(state, train_data)
      if stopping:
        run.end(step)
        raise preemption.Preempted(step, model_dir)
      if due(step):
        run.evaluate(state, keep_best, scores)
      if saving or step % log_every == 0:
        run.clock.record(step)
        window.restart_clock()
    bar.close()
    run.end(train_steps, finished=True, tells=on_log is None)
  return state


class _Run:
  """What belongs to one attempt: model, log, clock and checkpoints."""

  def __init__(
    self, model_dir, config, evaluators, manager, first_step, goes_on
  ):
    self.model = Transformer(config)
    # A new beginning is evaluated anew.
    last_logged = first_step if goes_on else first_step - 1
    self.log = MetricLog(model_dir, last_logged, hosts.is_primary())
    self.clock = goodput.Goodput(
      model_dir, first_step, writes=hosts.is_primary()
    )
    self._model_dir = model_dir
    self._evaluators = evaluators
    self._manager = manager

  def evaluate(self, state, keep_best, scores):
    """Logs what the evaluators say, and keeps the score of the step."""
    found, step = {}, int(state.step)
    with (
      self.clock('evaluation'),
      status.phase(f'evaluating at step {step:,}'),
    ):
      for evaluator in self._evaluators:
        found.update(evaluator(self.model, state.params))
        watchdog.beat()
    self.log.write(step, found)
    checks.check_found(keep_best, found)
    if keep_best is not None:
      scores[step] = found[keep_best]

  def save(self, state, train_data):
    """Begins to write a checkpoint."""
    step = int(state.step)
    with self.clock('checkpoint'):
      checks.check_finite(state.params, step)
      native.save(
        self._manager,
        native.Checkpoint(step, state.params, self.model.config),
        opt_state=state.opt_state,
        data=train_data,
      )

  def end(self, step, finished=False, tells=True):
    """Waits for the last checkpoint, and tells where the time went."""
    with self.clock('checkpoint'):
      native.wait(self._manager)
    self.clock.record(step, finished)
    if tells and hosts.is_primary():
      print(goodput.table(goodput.summary(self._model_dir)))


def _say(text: str):
  """Says a thing once for all processes."""
  if hosts.is_primary():
    status.say(text)


def _describe(numbers) -> str:
  rate = numbers['examples_per_second']
  return f'loss {numbers["loss"]:.3f}, {rate:,.0f} examples/s'


def _count_examples(batch, num_rows: int) -> float:
  """Counts sequences, each of those packed into a row by itself.

  Of rows that other processes feed, as many are taken to be in each.
  """
  segments = batch.get('encoder_segment_ids')
  own = len(batch['encoder_input_tokens'])
  examples = own if segments is None else int(segments.max(axis=1).sum())
  return examples * num_rows / own
