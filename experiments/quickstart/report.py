"""The quickstart's report, from its records and predictions alone."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.quickstart import picture
from experiments.quickstart.picture import (
  BASELINES,
  ROUGE,
  baseline_name,
  models_of,
)
from experiments.stages import write_lines, write_whole
from gqa_flax.config import T5Config
from gqa_flax.evaluation import bootstrap
from gqa_flax.reporting.records import read as read_lines
from gqa_flax.reporting.tables import markdown_table
from gqa_flax.timing import geometries, kv_cache

NUM_SAMPLES = 6
# A batch whose cache is given: the paper's lengths for CNN/Daily Mail.
_BATCH, _LENGTHS = 32, (512, 256)

Record = Mapping[str, Any]


def write(
  results_dir,
  records: Sequence[Record],
  predictions: Mapping[str, Mapping[str, Sequence[Record]]],
):
  """Writes records.jsonl, predictions.jsonl, report.md and rouge.png.

  Args:
    results_dir: made if absent.
    records: one a stage, in the order they ran.
    predictions: {'converted' or 'finetuned': {model: those of the same test
      examples}}.
  """
  folder = pathlib.Path(results_dir)
  write_lines(folder / 'records.jsonl', records)
  examples = next(iter(predictions['finetuned'].values()))
  write_lines(
    folder / 'predictions.jsonl',
    [
      {
        'inputs': example['inputs'],
        'target': example['target'],
        **{
          kind: {name: rows[i]['prediction'] for name, rows in models.items()}
          for kind, models in predictions.items()
        },
      }
      for i, example in enumerate(examples)
    ],
  )
  redraw(folder)


def redraw(results_dir):
  """Writes report.md and rouge.png from records and predictions."""
  folder = pathlib.Path(results_dir)
  stages = {r['stage']: r for r in read_lines(folder / 'records.jsonl')}
  samples = read_lines(folder / 'predictions.jsonl')[:NUM_SAMPLES]
  picture.draw(folder / 'rouge.png', stages)
  write_whole(folder / 'report.md', report(stages, samples))


def report(stages: Mapping[str, Record], samples: Sequence[Record]) -> str:
  """Returns the report as Markdown.

  Args:
    stages: the records by their stages.
    samples: lines of predictions.jsonl.
  """
  checkpoint = stages['checkpoint']
  provenance, settings = checkpoint['provenance'], checkpoint['settings']
  lengths = settings['TASK_FEATURE_LENGTHS']
  seconds = sum(record['seconds'] for record in stages.values())
  tuned = [record['name'] for record in models_of(stages, 'finetuned')]
  return f"""\
# Quickstart: GQA and MQA from a public checkpoint

flan-t5-small ({checkpoint['parameters'] / 1e6:.1f} million parameters, 6 heads;
int8, dequantized; last fine-tuned to write titles) is converted to GQA-2 and
MQA, by the paper's mean and by `subspace`, a method of ours. Nothing is
uptrained. {_listed(tuned)} are fine-tuned on the introductions of
Wikipedia articles and their short descriptions:
{settings['FINETUNE_STEPS']} steps of {settings['BATCH_SIZE']} rows,
{lengths['inputs']} tokens in and {lengths['targets']} out, learning rate
{settings['LEARNING_RATE']:g}. It took
{seconds / 60:.1f} minutes on {provenance['cpus']} CPU cores: one seed and a
small model, so not a reproduction of the paper's numbers.

Before anything else is done to it, the checkpoint makes of

> {checkpoint['input']}

> {checkpoint['output']}

![ROUGE-1 of every model, converted and fine-tuned](rouge.png)

## Scores

ROUGE-1 on {settings['NUM_EXAMPLES']} articles of the test split, decoded
greedily, with the 95% interval of a bootstrap over the articles. "Converted" is
before any training: the multi-head checkpoint as it is, which writes titles.

{_scores(stages)}
{_verdicts(stages)}

## KV cache

What a decoder of each kind keeps in memory, in bfloat16: for one position, in
all layers, and for a batch of {_BATCH} sequences of {_LENGTHS[0]} tokens in and
{_LENGTHS[1]} out, the paper's lengths for CNN/Daily Mail. The method of
conversion makes no difference to it.

{_caches(stages)}
## The same {len(samples)} articles by every model

The first of the test split; all are in `predictions.jsonl`.

{_examples(samples)}
Text: Wikipedia, CC BY-SA 4.0. Every number above comes from `records.jsonl`,
with its seed, versions and git revision.
"""


def _scores(stages) -> str:
  tuned = {r['name']: r for r in models_of(stages, 'finetuned')}
  rows: list[list[str | float | int]] = [
    [
      r['name'],
      r['num_kv_heads'],
      _with_interval(r),
      _with_interval(tuned[r['name']]) if r['name'] in tuned else '',
    ]
    for r in models_of(stages, 'converted')
  ]
  baselines = [
    [baseline_name(stages, key), f'{stages["baselines"][f"{key}/rouge1"]:.1f}']
    for key in BASELINES
  ]
  return '\n'.join(
    [
      markdown_table(
        ['model', 'key/value heads', 'converted', 'fine-tuned'], rows
      ),
      markdown_table(['without a model', 'ROUGE-1'], baselines),
      'The rule takes what follows the first "is a", up to the next comma or '
      'clause; how many words serve best was chosen on the validation split.\n',
    ]
  )


def _listed(names: Sequence[str]) -> str:
  *others, last = names
  return f'{", ".join(others)} and {last}' if others else last


def _with_interval(record) -> str:
  low, high = record['interval']
  return f'{record[ROUGE]:.1f} ({low:.1f} to {high:.1f})'


def _verdicts(stages) -> str:
  """Returns what holds of the fine-tuned models, as a list."""
  tuned = {r['name']: r for r in models_of(stages, 'finetuned')}
  mha = tuned['MHA']
  gaps = ', '.join(
    f'{baseline_name(stages, key)} '
    f'({mha[ROUGE] - stages["baselines"][f"{key}/rouge1"]:+.1f})'
    for key in BASELINES
  )
  lines = [
    f'{name} minus MHA: {_difference(mha, r)}, that is '
    f'{r[ROUGE] / max(mha[ROUGE], 1e-9):.0%} of its score.'
    for name, r in tuned.items()
    if r is not mha
  ]
  pair = [tuned.get(f'MQA {method}') for method in ('mean', 'subspace')]
  if all(pair):
    lines.append(f'MQA subspace minus MQA mean: {_difference(*pair)}.')
  return '\n'.join(
    [
      f'Fine-tuned MHA compared with the baselines, in points: {gaps}. '
      'Differences between models, paired by article, with 95% intervals:\n',
      *(f'- {line}' for line in lines),
    ]
  )


def _difference(a: Record, b: Record) -> str:
  """Returns b - a with its interval, paired by example."""
  of_a, of_b = (
    np.asarray(r['rouge1_of_examples'])[:, None].astype(float) for r in (a, b)
  )
  found = bootstrap.paired_difference([of_a], [of_b], lambda sums, n: sums / n)
  (low,), (high,) = found.interval
  return f'{(of_b - of_a).mean():+.1f} ({low:+.1f} to {high:+.1f})'


def _caches(stages) -> str:
  rows = []
  heads = sorted({r['num_kv_heads'] for r in models_of(stages, 'converted')})
  for num_kv_heads in reversed(heads):
    config = T5Config.t5_1_1('small', num_kv_heads=num_kv_heads)
    position = kv_cache.cache_bytes(config, 1, 1)
    batch = kv_cache.cache_bytes(config, _BATCH, sum(_LENGTHS))
    rows.append(
      [
        kv_cache.attention_name(config),
        num_kv_heads,
        f'{geometries.num_params(config) / 1e6:.1f} M',
        f'{position / 1024:.0f} KiB',
        f'{batch / 2**20:.0f} MiB',
        f'{num_kv_heads / config.num_heads:.0%}',
      ]
    )
  return markdown_table(
    [
      'model',
      'key/value heads',
      'parameters',
      'a position',
      'the batch',
      'of MHA',
    ],
    rows,
  )


def _examples(samples) -> str:
  parts = []
  for number, sample in enumerate(samples, 1):
    source = sample['inputs'].removeprefix('summarize: ')
    rows = [
      [name, text, sample['finetuned'].get(name, '')]
      for name, text in sample['converted'].items()
    ]
    parts.append(
      f'**{number}. {_escape(sample["target"])}** (its description). The '
      f'introduction begins: {_escape(_beginning(source))}\n\n'
      + markdown_table(
        ['model', 'converted', 'fine-tuned'],
        [[_escape(cell) for cell in row] for row in rows],
      )
    )
  return '\n'.join(parts)


def _beginning(text: str, num_words: int = 25) -> str:
  words = text.split()
  more = ' ...' if len(words) > num_words else ''
  return ' '.join(words[:num_words]) + more


def _escape(text: str) -> str:
  """Returns a text that Markdown and its tables leave as it is."""
  for mark in '\\`*_[]<>|':
    text = text.replace(mark, f'\\{mark}')
  return text
