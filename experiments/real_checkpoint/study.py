"""Conversion of a real checkpoint, before and during uptraining.

The paper converts by the mean (section 2.1) and uptrains; Figure 4 finds mean
better than first better than random. Here flan-t5-small, as the package
traceforge-title-model carries it, is converted from 6 to 3, 2 and 1 key/value
heads in every way that gqa_flax knows, and the cross-entropy on held-out text
of three kinds is measured before any uptraining. Translation and summaries
are scored with the checkpoint as published. It was never trained on sentinels
by its last owners, so span corruption is scored, and uptraining begun, with
the same checkpoint after 150 steps of span corruption, multi-head.

  pip install -e '.[study]'
  python -m experiments.real_checkpoint.study            # all that is missing
  python -m experiments.real_checkpoint.study --list     # which cells exist
  python -m experiments.real_checkpoint.study --only table

Every cell is one record in results/real_checkpoint/records.jsonl; a run that
is stopped goes on with the next missing cell. Hardware: two CPU cores, an hour
and a half.
"""

import argparse
import functools
import itertools
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from experiments.real_checkpoint import (
  checkpoint,
  data,
  exactness,
  held_out,
  report,
)
from gqa_flax.checkpoints.formats import load_params, save_params
from gqa_flax.conversion import statistics
from gqa_flax.conversion.convert import convert_params
from gqa_flax.inference.decode import greedy_decode
from gqa_flax.model.network import Transformer
from gqa_flax.reporting import records
from gqa_flax.training import optimizer as optimizer_lib
from gqa_flax.training.step import TrainState, loss_and_metrics, train_step

NUM_KV_HEADS = (3, 2, 1)
# (method, text that it is calibrated on, seed of the draws)
METHODS = (
  ('mean', None, 0),
  ('first', None, 0),
  *(('random', None, seed) for seed in range(3)),
  ('aligned', None, 0),
  ('aligned', 'broad', 0),
  ('subspace', 'narrow', 0),
  ('subspace', 'broad', 0),
)
UPTRAINED = (
  ('mean', None),
  ('aligned', None),
  ('subspace', 'broad'),
)
CALIBRATION = {'narrow': ('span',), 'broad': data.KINDS}
CALIBRATION_TOKENS = 12_000
# The model that scores a kind of text: see above.
BASES = {'published': ('translation', 'summaries'), 'adapted': ('span',)}
ADAPTATION = {'steps': 150, 'batch_size': 8, 'learning_rate': 1e-3}
UPTRAINING = {'steps': 200, 'batch_size': 4, 'learning_rate': 1e-3}
EVALUATED_STEPS = (0, 10, 25, 50, 100, 150, 200)
UPTRAINING_EXAMPLES = 32


class Study:
  """The cells of the study, each run once."""

  def __init__(self, work_dir, results_dir):
    self._work = pathlib.Path(work_dir)
    self._path = pathlib.Path(results_dir) / 'records.jsonl'
    device = jax.devices()[0]
    self._provenance = records.provenance(
      device.device_kind, jax.device_count()
    )

  def done(self):
    """Returns the names of the cells that have a record."""
    return {record['cell'] for record in records.read(self._path)}

  def run(self, cell: str, measure):
    """Runs a cell unless it has a record; `measure` returns its numbers."""
    if cell in self.done():
      return
    start = time.monotonic()
    numbers = measure()
    record = {
      'cell': cell,
      **numbers,
      'seconds': round(time.monotonic() - start, 1),
      'provenance': self._provenance,
    }
    records.append(self._path, record)
    print(f'{cell}: {record["seconds"]} s', file=sys.stderr, flush=True)

  @functools.cache  # noqa: B019, one study a process
  def base(self, name: str):
    """Returns (params, config) of a multi-head model."""
    if name == 'published':
      return checkpoint.load()
    folder = self._work / 'adapted'
    if not folder.exists():
      params, config = checkpoint.load()
      steps = ADAPTATION['steps']
      state = train(params, config, ADAPTATION, seed=0, steps=(steps,))
      save_params(folder, next(state)[1], config, step=steps)
    return load_params(folder)

  @functools.cache  # noqa: B019
  def statistics(self, base: str, calibration: str):
    """Returns the moments of a base model's inputs on a text."""
    path = self._work / f'{base}_{calibration}.npz'
    if not path.exists():
      batches = itertools.chain.from_iterable(
        zip(
          *(
            data.batches(data.pairs(kind, 'train', seed=1), kind, 16)
            for kind in CALIBRATION[calibration]
          )
        )
      )
      params, config = self.base(base)
      collected = statistics.collect(
        params, config, batches, CALIBRATION_TOKENS, calibration
      )
      statistics.save(path, collected)
    return statistics.load(path)

  @functools.cache  # noqa: B019
  def held_out(self, base: str, kind: str) -> held_out.HeldOut:
    """Returns the evaluation of a kind of text for a base model."""
    return held_out.HeldOut(kind, *self.base(base))

  def convert(self, base, method, calibration, num_kv_heads, seed=0):
    """Returns (params, config) of a converted base model."""
    params, config = self.base(base)
    moments = self.statistics(base, calibration) if calibration else None
    return convert_params(
      params, config, num_kv_heads, method, seed, statistics=moments
    )


def translate(study: Study):
  """Returns what the checkpoint makes of the sentence that T5 is known by."""
  params, config = study.base('published')
  text = 'translate English to German: The house is wonderful.'
  tokens = np.asarray([data.encode(text)], np.int32)
  model = Transformer(config)
  decode = jax.jit(lambda p, x: greedy_decode(model, p, x, 16))
  output = np.asarray(decode(params, tokens))[0]
  return {
    'input': text,
    'output': data.tokenizer().decode(output.tolist()),
    'parameters': sum(x.size for x in jax.tree.leaves(params)),
  }


def exact(study: Study):
  """Returns by how much changes of basis alone change the logits."""
  batch = next(
    data.batches(data.pairs('translation', 'validation'), 'translation', 16)
  )
  moments = study.statistics('published', 'broad')
  return exactness.largest_changes(*study.base('published'), moments, batch)


def score(study: Study, base: str, params, config):
  """Returns the losses of every example of the kinds that a base scores."""
  return {
    'losses': {
      kind: study.held_out(base, kind).losses(params, config)
      for kind in BASES[base]
    }
  }


def table(study: Study, bases, heads):
  """Runs the cells before uptraining."""
  if 'published' in bases:
    study.run('translate', lambda: translate(study))
    study.run('change of basis', lambda: exact(study))
  for base in bases:
    kinds = BASES[base]

    def multi_head(base=base, kinds=kinds):
      tokens = {kind: study.held_out(base, kind).tokens for kind in kinds}
      return {
        'base': base,
        'method': 'multi-head',
        'num_kv_heads': 6,
        'tokens': tokens,
        **score(study, base, *study.base(base)),
      }

    study.run(f'{base}/multi-head', multi_head)
    for num_kv_heads, (method, calibration, seed) in itertools.product(
      heads, METHODS
    ):

      def converted(
        base=base,
        num_kv_heads=num_kv_heads,
        method=method,
        calibration=calibration,
        seed=seed,
      ):
        model = study.convert(base, method, calibration, num_kv_heads, seed)
        return {
          'base': base,
          'method': method,
          'calibration': calibration,
          'num_kv_heads': num_kv_heads,
          'seed': seed,
          **score(study, base, *model),
        }

      study.run(
        f'{base}/{num_kv_heads} heads/{method}, {calibration}, seed {seed}',
        converted,
      )


def uptrain(study: Study, bases, heads):
  """Runs 200 steps of span corruption from some conversions."""
  examples = data.pairs('span', 'validation')[:UPTRAINING_EXAMPLES]
  batches = list(data.batches(examples, 'span', 32))
  if 'adapted' not in bases:
    return
  for seed, num_kv_heads, (method, calibration) in itertools.product(
    range(3), set(heads) & {1, 2}, UPTRAINED
  ):

    def curve(
      num_kv_heads=num_kv_heads,
      method=method,
      calibration=calibration,
      seed=seed,
    ):
      params, config = study.convert(
        'adapted', method, calibration, num_kv_heads
      )
      states = train(params, config, UPTRAINING, seed, EVALUATED_STEPS)
      return {
        'method': method,
        'calibration': calibration,
        'num_kv_heads': num_kv_heads,
        'seed': seed,
        'settings': UPTRAINING,
        'examples': UPTRAINING_EXAMPLES,
        'curve': [
          (step, mean_loss(params, config, batches)) for step, params in states
        ],
      }

    study.run(f'uptrain/{num_kv_heads} heads/{method}, seed {seed}', curve)


def train(params, config, settings, seed: int, steps):
  """Trains by span corruption; yields (step, params) at some steps."""
  batches = itertools.cycle(
    data.batches(
      data.pairs('span', 'train', seed=100 + seed),
      'span',
      settings['batch_size'],
    )
  )
  optimizer = optimizer_lib.adafactor()
  params = jax.tree.map(jnp.array, params)
  state = TrainState(jnp.int32(0), params, optimizer.init(params))
  for i in range(max(steps) + 1):
    if i in steps:
      yield i, state.params
    if i < max(steps):
      state = _step(state, next(batches), config, settings['learning_rate'])


@functools.partial(jax.jit, static_argnums=(2, 3), donate_argnums=0)
def _step(state, batch, config, learning_rate):
  state, _ = train_step(
    state,
    batch,
    None,
    model=Transformer(config),
    optimizer=optimizer_lib.adafactor(),
    learning_rate=optimizer_lib.constant_schedule(learning_rate),
  )
  return state


def mean_loss(params, config, batches) -> float:
  """Returns the cross-entropy a token, in nats."""
  metrics = [_metrics(params, batch, config) for batch in batches]
  total = sum(float(m.cross_entropy) for m in metrics)
  return round(total / sum(float(m.tokens) for m in metrics), 4)


@functools.partial(jax.jit, static_argnums=2)
def _metrics(params, batch, config):
  return loss_and_metrics(Transformer(config), params, batch)[1]


def main() -> int:
  """Runs what is missing, then writes the report."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--work_dir', default='runs/real_checkpoint')
  parser.add_argument('--results_dir', default='results/real_checkpoint')
  parser.add_argument('--only', choices=('table', 'uptrain', 'report'))
  parser.add_argument('--list', action='store_true')
  # Cells that share nothing may run side by side.
  parser.add_argument('--base', nargs='*', default=list(BASES))
  parser.add_argument('--heads', nargs='*', type=int, default=NUM_KV_HEADS)
  args = parser.parse_args()
  study = Study(args.work_dir, args.results_dir)
  if args.list:
    print('\n'.join(sorted(study.done())))
    return 0
  pathlib.Path(args.work_dir).mkdir(parents=True, exist_ok=True)
  for name, stage in (('table', table), ('uptrain', uptrain)):
    if args.only in (None, name):
      stage(study, args.base, args.heads)
  report.write(args.results_dir)
  return 0


if __name__ == '__main__':
  sys.exit(main())
