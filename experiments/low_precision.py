"""What parameters and caches in fewer bytes cost in quality.

A real checkpoint (see real_checkpoint/), multi-head and converted to two and to
one key/value head by `subspace`, decodes held-out translations and summaries in
float32, with bfloat16 parameters, with int8 kernels, with an int8 cache and
with both. Reference tokens are forced through the decoding cache, for the
cross-entropy and for the token that each step would have chosen; then all is
decoded greedily, and scored with BLEU or ROUGE.

  pip install -e '.[real-checkpoint]'
  python -m experiments.low_precision            # all cells that are missing
  python -m experiments.low_precision --report   # from the records alone

Every cell is one record in results/low_precision/records.jsonl; a run that is
stopped goes on with the next missing cell. Hardware: two CPU cores, some two
minutes a cell while others compute beside it.
"""

import argparse
import dataclasses
import functools
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from gqa_flax.evaluation import bootstrap, metrics
from gqa_flax.inference.decode import generate
from gqa_flax.inference.precision import in_step, prepare, weights
from gqa_flax.inference.sampling import Greedy
from gqa_flax.model.network import Transformer
from gqa_flax.reporting import records
from gqa_flax.reporting.tables import markdown_table, paragraph

# How it is called: param_dtype and cache_dtype.
PRECISIONS = {
  'float32': ('float32', 'auto'),
  'bfloat16 parameters': ('bfloat16', 'auto'),
  'int8 kernels': ('int8', 'auto'),
  'int8 cache': ('float32', 'int8'),
  'int8 kernels and cache': ('int8', 'int8'),
}
ATTENTIONS = {'MHA': 6, 'GQA-2': 2, 'MQA': 1}
# How many examples of a kind of text, in whole batches; what scores them.
EXAMPLES = {'translation': 64, 'summaries': 96}
METRICS = {'translation': 'bleu', 'summaries': 'rouge'}
SHOWN = {'bleu': 'BLEU', 'rougeLsum': 'ROUGE-L'}
BATCH_SIZE = 32


def run(results_dir: pathlib.Path, work_dir: pathlib.Path):
  """Measures the cells that have no record."""
  # Here and below, as it wants the packages of the real checkpoint.
  from experiments.real_checkpoint import study as real_checkpoint

  study = real_checkpoint.Study(work_dir, results_dir)
  work_dir.mkdir(parents=True, exist_ok=True)
  for attention in ATTENTIONS:
    for precision in PRECISIONS:
      study.run(
        f'{attention}, {precision}',
        functools.partial(_cell, study, work_dir, attention, precision),
      )


def _cell(study, work_dir, attention, precision) -> dict[str, Any]:
  """Returns what a record says of one attention and precision."""
  float32 = _float32(study, work_dir, attention)
  model, params = _prepared(study, attention, precision)
  param_bytes, token_bytes = _bytes(model, params)
  found = float32
  if precision != 'float32':
    found = _decoded(study, model, params, precision)
  return {
    'experiment': 'low_precision',
    'attention': attention,
    'num_kv_heads': ATTENTIONS[attention],
    'precision': precision,
    'dtypes': PRECISIONS[precision],
    'param_bytes': param_bytes,
    'token_bytes': token_bytes,
    'kinds': {
      kind: _compared(kind, found[kind], float32[kind]) for kind in EXAMPLES
    },
  }


def _prepared(study, attention, precision):
  """Returns a model, and its parameters as they are kept."""
  param_dtype, cache_dtype = PRECISIONS[precision]
  params, config = study.base('published')
  if ATTENTIONS[attention] < config.num_heads:
    params, config = study.convert(
      'published', 'subspace', 'broad', ATTENTIONS[attention]
    )
  config = dataclasses.replace(config, cache_dtype=cache_dtype)
  return Transformer(config), prepare(params, param_dtype)


def _float32(study, work_dir, attention) -> dict[str, dict[str, np.ndarray]]:
  """Returns what float32 decodes, from a file once it has been decoded."""
  path = work_dir / f'{attention}.npz'
  if not path.exists():
    model, params = _prepared(study, attention, 'float32')
    decoded = _decoded(study, model, params, 'float32')
    flat = traverse_util.flatten_dict(decoded, sep='/')
    np.savez(path, **flat)
  with np.load(path) as arrays:
    return traverse_util.unflatten_dict(dict(arrays), sep='/')


def _bytes(model, params) -> tuple[int, int]:
  """Returns bytes of parameters, and of the caches at one position."""

  def init_cache(params, tokens):
    variables = {'params': weights(params)}
    return model.apply(variables, tokens, 1, method='init_cache')

  token = jax.ShapeDtypeStruct((1, 1), np.int32)
  cache = jax.eval_shape(init_cache, params, token)
  held, position = (
    sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
    # The two caches have one position each.
    for tree in (params, cache.self_attention)
  )
  return held, position


def _decoded(study, model, params, precision):
  """Returns of each kind losses, next tokens and greedy tokens, [N, T]."""
  decode = _decode_function(model)
  decoded = {}
  for kind in EXAMPLES:
    batches = [
      {**jax.device_get(decode(params, encoded, batch)), 'targets': batch[_OUT]}
      for batch, encoded in _encoded(study, kind, PRECISIONS[precision][0])
    ]
    decoded[kind] = {
      name: np.concatenate([batch[name] for batch in batches])
      for name in batches[0]
    }
  return decoded


@functools.cache
def _encoded(study, kind, param_dtype):
  """Returns batches, and the encoder's output that all attentions share."""
  from experiments.real_checkpoint import data

  params, config = study.base('published')
  model, params = Transformer(config), prepare(params, param_dtype)
  encode = jax.jit(
    lambda params, tokens: model.apply(
      {'params': weights(params)}, tokens, method='encode'
    )
  )
  examples = data.pairs(kind, 'validation')[: EXAMPLES[kind]]
  return [
    (batch, encode(params, batch['encoder_input_tokens']))
    for batch in data.batches(examples, kind, BATCH_SIZE)
  ]


_OUT = 'decoder_target_tokens'


@functools.cache
def _decode_function(model):
  @jax.jit
  def decode(params, encoded_BSD, batch):
    targets_BT = batch[_OUT]

    def step(cache, tokens):
      previous_B, target_B = tokens
      step_params, cache = in_step(params, cache)
      logits_BV, cache = model.apply(
        {'params': step_params}, previous_B, cache, method='decode_step'
      )
      log_probs_BV = jax.nn.log_softmax(logits_BV)
      taken_B1 = jnp.take_along_axis(log_probs_BV, target_B[:, None], axis=1)
      return cache, (-taken_B1[:, 0], jnp.argmax(logits_BV, axis=1))

    cache = model.apply(
      {'params': weights(params)},
      encoded_BSD,
      batch['encoder_input_tokens'],
      targets_BT.shape[1],
      method='fill_cache',
    )
    _, (losses_TB, next_TB) = jax.lax.scan(
      step, cache, (batch['decoder_input_tokens'].T, targets_BT.T)
    )
    return {
      'losses': jnp.where(targets_BT > 0, losses_TB.T, 0.0),
      'next': next_TB.T,
      'greedy': generate(model, params, cache, Greedy(), jax.random.key(0)),
    }

  return decode


def _compared(kind, found, float32) -> dict[str, Any]:
  """Returns what each example lost, and shares with float32."""
  from experiments.real_checkpoint import data

  real, written = found['targets'] > 0, float32['greedy'] > 0
  same_next = (found['next'] == float32['next']) & real
  same_greedy = (found['greedy'] == float32['greedy']) & written
  texts, references = (
    [data.tokenizer().decode(row.tolist()) for row in found[name]]
    for name in ('greedy', 'targets')
  )
  return {
    'tokens': real.sum(axis=1).tolist(),
    'losses': [round(float(x), 4) for x in found['losses'].sum(axis=1)],
    'same_next': same_next.sum(axis=1).tolist(),
    'greedy_tokens': written.sum(axis=1).tolist(),
    'same_greedy': same_greedy.sum(axis=1).tolist(),
    'same_texts': int((found['greedy'] == float32['greedy']).all(axis=1).sum()),
    'scores': metrics.compute(METRICS[kind], references, texts),
  }


def report(folder: pathlib.Path):
  """Writes report.md from the records alone."""
  found = {
    (r['attention'], r['precision']): r
    for r in records.read(folder / 'records.jsonl')
  }
  rows = [
    (attention, precision)
    for attention in ATTENTIONS
    for precision in PRECISIONS
    if (attention, precision) in found and (attention, 'float32') in found
  ]
  text = ['# Parameters and caches in fewer bytes\n', _head(found, rows)]
  text += ['## What it costs\n', _summary(found, rows)]
  for kind in EXAMPLES:
    text += [f'## {kind.capitalize()}\n', _of_kind(found, rows, kind)]
  text.append('Every number is in, or computed from, records.jsonl.\n')
  (folder / 'report.md').write_text('\n'.join(text), encoding='utf-8')


def _head(found, rows) -> str:
  """Returns what was measured."""
  examples = {
    kind: len(cell['tokens'])
    for row in rows
    for kind, cell in found[row]['kinds'].items()
  }
  return paragraph(
    _HEAD.format(
      attentions=', '.join(dict.fromkeys(attention for attention, _ in rows)),
      examples=', '.join(f'{n} of {kind}' for kind, n in examples.items()),
    )
  )


def _summary(found, rows) -> str:
  """Returns a table over all attentions and kinds, and what it says."""
  lines = []
  for precision in PRECISIONS:
    cells = [found[row] for row in rows if row[1] == precision]
    if precision == 'float32' or not cells:
      continue
    kinds = [
      (found[r['attention'], 'float32']['kinds'][kind], r['kinds'][kind])
      for r in cells
      for kind in r['kinds']
    ]
    changes = [_per_token(b) - _per_token(a) for a, b in kinds]
    worse = sum(_interval(a, b)[0] > 0 for a, b in kinds)
    lines.append(
      (
        precision,
        _share_of_float32(found, cells, 'param_bytes'),
        _share_of_float32(found, cells, 'token_bytes'),
        f'{min(changes):+.4f} to {max(changes):+.4f}',
        f'{worse} of {len(kinds)}',
        f'{100 * min(_share(b, "same_next", "tokens") for _, b in kinds):.1f}%',
      )
    )
  header = ('kept', 'parameters', 'cache', 'nats a token', 'worse')
  table = markdown_table((*header, 'same next token'), lines)
  costs = [
    f'{_per_token(r["kinds"][kind]) - _per_token(mha["kinds"][kind]):+.2f} '
    f'({attention}, {kind})'
    for mha in [found.get(('MHA', 'float32'))]
    if mha
    for attention in ATTENTIONS
    for r in [found.get((attention, 'float32'))]
    if r and r is not mha
    for kind in r['kinds']
  ]
  beside = (
    'For comparison, the conversion alone, in float32 and before any '
    f'uptraining, changes the cross-entropy by {", ".join(costs)}.'
    if costs
    else ''
  )
  return '\n'.join([paragraph(_SUMMARY), table, paragraph(beside)])


def _of_kind(found, rows, kind) -> str:
  """Returns the table of a kind of text."""
  lines, scores = [], ()
  for attention, precision in rows:
    cell = found[attention, precision]['kinds'][kind]
    float32 = found[attention, 'float32']['kinds'][kind]
    scores = tuple(name for name in cell['scores'] if name in SHOWN)
    low, high = _interval(float32, cell)
    change = f'{_per_token(cell) - _per_token(float32):+.4f}'
    lines.append(
      (
        attention,
        precision,
        f'{_per_token(cell):.4f}',
        '' if cell is float32 else f'{change} ({low:+.4f} to {high:+.4f})',
        f'{100 * _share(cell, "same_next", "tokens"):.1f}%',
        f'{100 * _share(cell, "same_greedy", "greedy_tokens"):.1f}%',
        f'{cell["same_texts"]} of {len(cell["tokens"])}',
        *(f'{cell["scores"][name]:.2f}' for name in scores),
      )
    )
  header = (
    *('attention', 'kept', 'nats a token', 'against float32'),
    *('same next token', 'same greedy tokens', 'same texts'),
    *(SHOWN[name] for name in scores),
  )
  return markdown_table(header, lines)


def _per_token(cell: Mapping[str, Any]) -> float:
  return sum(cell['losses']) / sum(cell['tokens'])


def _share(cell: Mapping[str, Any], part: str, whole: str) -> float:
  return sum(cell[part]) / sum(cell[whole])


def _share_of_float32(found, cells: Sequence[Mapping[str, Any]], what) -> str:
  """Returns the bytes as a share of float32's, the smallest to the largest."""
  shares = [r[what] / found[r['attention'], 'float32'][what] for r in cells]
  ends = [f'{100 * x:.0f}%' for x in (min(shares), max(shares))]
  return ends[0] if ends[0] == ends[1] else ' to '.join(ends)


def _interval(float32, cell) -> tuple[float, float]:
  """Returns the 95% interval of what a token's cross-entropy changes by."""
  a, b = (
    np.array([x['losses'], x['tokens']], np.float64).T for x in (float32, cell)
  )
  low, high = bootstrap.paired_difference(
    [a], [b], lambda sums, _: sums[:, :1] / sums[:, 1:]
  ).interval[:, 0]
  return float(low), float(high)


_HEAD = """
flan-t5-small (fine-tuned to write titles; 6 heads of 64, 8 + 8 layers), as it
is or with its decoder converted to fewer key/value heads by `subspace`.
Attentions: {attentions}. Held-out examples, which no conversion was calibrated
on: {examples}. All activations are float32, and so is the cache where it is not
int8. The package keeps the checkpoint's matrices as int8 with one scale each,
dequantized here to float32, so float32 itself has lost something already; a
kernel's columns with a scale each are another grid, and rounding to it is what
is measured. Made by experiments/low_precision.py.
"""
_SUMMARY = """
Bytes of all parameters, and of a position's keys and values, as shares of
float32's; the change of the cross-entropy of the reference tokens, forced
through the decoding cache, smallest to largest over attentions and kinds of
text, and in how many of these the 95% interval of paired bootstrap samples lies
above zero; and the smallest share of reference positions at which the most
probable next token is float32's.
"""


def main() -> int:
  """Measures what is missing, then writes the report."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    '--results_dir', default='results/low_precision', type=pathlib.Path
  )
  parser.add_argument(
    '--work_dir', default='runs/low_precision', type=pathlib.Path
  )
  parser.add_argument('--report', action='store_true')
  args = parser.parse_args()
  if not args.report:
    run(args.results_dir, args.work_dir)
  report(args.results_dir)
  return 0


if __name__ == '__main__':
  sys.exit(main())
