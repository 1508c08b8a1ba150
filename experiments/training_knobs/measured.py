"""The part for this machine's CPU: seconds a step, in turns."""

import functools
import os
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from experiments.training_knobs import cells, runs
from experiments.training_knobs.cells import Knobs
from gqa_flax import partitioning
from gqa_flax.config import T5Config
from gqa_flax.model.network import Transformer
from gqa_flax.training.optimizer import adafactor, rsqrt_schedule
from gqa_flax.training.state import new_state, shardings_of, step_function
from gqa_flax.training.step import train_step

# Of each turn: all but the first find the caches as they left them.
STEPS = 3


def time_steps(
  path,
  model: T5Config,
  rows: int,
  todo: Sequence[Knobs],
  repeats: int,
  run_number: int,
):
  """Times what the records lack of a run, and appends a record a repeat.

  One state goes from cell to cell, as all programs take and give the same; so
  a donated one is never wanted again.

  Args:
    path: of the records.
    model: the knobs apart.
    rows: of the batch.
    todo: the cells, which take turns.
    repeats: of each.
    run_number: which run's records count as done.
  """
  wanted = [
    (repeat, knobs)
    for repeat in range(repeats)
    for knobs in todo
    if not runs.is_done(path, 'step', run_number, _key(knobs, repeat))
  ]
  if not wanted:
    return
  mesh = partitioning.data_parallel_mesh(jax.devices()[:1])
  with jax.set_mesh(mesh):
    state = new_state(model, adafactor(), 0, mesh)
    batch = partitioning.shard_batch(_batch(model, rows), mesh, rows)
    programs = {}
    for knobs in dict.fromkeys(knobs for _, knobs in wanted):
      programs[knobs] = _compile(knobs, model, state, batch)
      # The first run of a program is slower than the others.
      state, _ = jax.block_until_ready(programs[knobs](state, batch, None))
    for repeat, knobs in wanted:
      load, seconds = os.getloadavg()[0], []
      for _ in range(STEPS):
        begin = time.perf_counter()
        state, metrics = programs[knobs](state, batch, None)
        jax.block_until_ready((state, metrics))
        seconds.append(round(time.perf_counter() - begin, 5))
      runs.append(
        path,
        'step',
        run_number,
        _key(knobs, repeat),
        rows=rows,
        config=knobs.config(model).to_dict(),
        seconds=seconds,
        load=round(load, 2),
        **_memory(programs[knobs]),
      )
    print(f'{len(programs)} programs, {repeats} repeats', flush=True)


def _compile(knobs: Knobs, model: T5Config, state, batch):
  arguments: dict[str, Any] = {
    'model': Transformer(knobs.config(model)),
    'optimizer': adafactor(),
    'learning_rate': rsqrt_schedule(),
    'microbatches': knobs.microbatches,
  }
  if knobs.donated:
    function = step_function(state, **arguments)
  else:
    function = jax.jit(
      functools.partial(train_step, **arguments),
      out_shardings=(shardings_of(state), None),
    )
  return function.lower(state, batch, None).compile()


def _memory(program) -> dict[str, int]:
  memory = program.memory_analysis()
  return {
    'argument_bytes': memory.argument_size_in_bytes,
    'output_bytes': memory.output_size_in_bytes,
    'alias_bytes': memory.alias_size_in_bytes,
    'temporary_bytes': memory.temp_size_in_bytes,
  }


def _batch(model: T5Config, rows: int) -> dict[str, np.ndarray]:
  rng = np.random.default_rng(0)
  lengths = cells.CPU_LENGTHS

  def tokens(length):
    return rng.integers(2, model.vocab_size, (rows, length), np.int32)

  targets = tokens(lengths['targets'])
  return {
    'encoder_input_tokens': tokens(lengths['inputs']),
    'decoder_input_tokens': np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
    'decoder_target_tokens': targets,
    'decoder_loss_weights': np.ones(targets.shape, np.float32),
  }


def _key(knobs: Knobs, repeat: int) -> dict[str, Any]:
  return {
    'remat': knobs.remat,
    'microbatches': knobs.microbatches,
    'dtype': knobs.dtype,
    'donated': knobs.donated,
    'repeat': repeat,
  }
