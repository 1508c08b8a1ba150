"""The toy's report, from its records alone."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.stages import write_lines, write_whole
from gqa_flax.reporting import plots
from gqa_flax.reporting.records import read as read_records
from gqa_flax.reporting.tables import markdown_table

LOSS = 'validation/cross_entropy'
TEXT_LOSS = 'validation_text/cross_entropy'
NUM_SAMPLES = 12

Record = Mapping[str, Any]


def write(
  results_dir,
  records: Sequence[Record],
  predictions: Mapping[str, Sequence[Record]],
):
  """Writes records.jsonl, report.md, ablation.png and predictions.jsonl.

  Args:
    results_dir: made if absent.
    records: one a stage, in the order they ran.
    predictions: variant name to test examples with inputs, target, prediction.
  """
  folder = pathlib.Path(results_dir)
  write_lines(folder / 'records.jsonl', records)
  write_lines(folder / 'predictions.jsonl', _samples(predictions))
  redraw(folder)


def redraw(results_dir):
  """Writes report.md and ablation.png from records and predictions."""
  folder = pathlib.Path(results_dir)
  records, samples = (
    read_records(folder / name)
    for name in ('records.jsonl', 'predictions.jsonl')
  )
  _plot(folder / 'ablation.png', records)
  write_whole(folder / 'report.md', report(records, samples))


def report(records: Sequence[Record], samples: Sequence[Record]) -> str:
  """Returns the report as Markdown."""
  by_stage = {record['stage']: record for record in records}
  baselines = by_stage['baselines']
  converted = _with_prefix(records, 'convert/')
  uptrained = _with_prefix(records, 'uptrain/')
  tuned = _with_prefix(records, 'finetune/')
  pretrained = converted[0]  # multi-head: nothing is pooled
  provenance = pretrained['provenance']
  seconds = sum(record['seconds'] for record in records)

  losses = markdown_table(
    ['', 'cross-entropy, all targets', 'text alone'],
    [
      [
        'unigrams of the training text',
        baselines['unigram/cross_entropy'],
        baselines['unigram_text/cross_entropy'],
      ],
      ['multi-head model', pretrained[LOSS], pretrained[TEXT_LOSS]],
    ],
  )
  after = {record['name']: record[LOSS] for record in uptrained}
  ablation = markdown_table(
    ['model', 'key/value heads', 'converted', 'uptrained'],
    [
      [c['name'], c['num_kv_heads'], c[LOSS], after.get(c['name'], '')]
      for c in converted
    ],
  )
  summaries = markdown_table(
    ['model', 'key/value heads', 'ROUGE-1', 'ROUGE-2', 'ROUGE-Lsum'],
    [
      [
        r['name'].removesuffix(', mean'),
        r['num_kv_heads'],
        *(r[f'test/{m}'] for m in ('rouge1', 'rouge2', 'rougeLsum')),
      ]
      for r in tuned
    ],
  )
  trivial = markdown_table(
    ['summary without a model', 'ROUGE-1'],
    [
      [
        f'the first {baselines["first_words/words"]} words',
        baselines['first_words/rouge1'],
      ],
      [
        f'the {baselines["common_words/words"]} most common words',
        baselines['common_words/rouge1'],
      ],
      [
        'a rule written by hand: what follows "is a", '
        f'{baselines["after_is_a/words"]} words at most',
        baselines['after_is_a/rouge1'],
      ],
    ],
  )
  models = [name for name in samples[0] if name not in ('inputs', 'target')]
  examples = markdown_table(
    ['description', *models],
    [[s['target'], *(s[name] for name in models)] for s in samples],
  )
  return f"""\
# A toy: the GQA paper's method on a small scale

A small run on {provenance['cpus']} CPU cores ({seconds / 60:.1f} minutes), not
a reproduction of the paper's numbers: one seed, and a model of
{pretrained['parameters'] / 1e6:.1f} million parameters. What it shows is that
every part works, and in which order the methods come out; the figures of three
seeds and longer runs are in the [overview](../README.md).

## The checkpoint

The multi-head model of [results/pretraining](../pretraining/report.md) after
{pretrained['step']:,} steps of span corruption, in nats a target token on
held-out articles. Sentinels come in a fixed order and cost a model nothing;
"text alone" leaves them out: the fair comparison.

{losses}
{_verdict_pretraining(baselines, pretrained)}

## Conversion and uptraining

The same checkpoint, its decoder's key/value heads pooled, before and after
uptraining for {uptrained[0]['step'] - pretrained['step']:,} steps
({_alpha(converted, uptrained):.1%} of the pre-training; the paper's share is
5%). Cross-entropy of span corruption, in nats a target token; uptrained are the
models that are fine-tuned below. `subspace` is a
method of ours; that it loses next to nothing says as much of this small model,
whose attentions have few directions that matter, as of the method: see
[a real checkpoint](../real_checkpoint/report.md).

{ablation}
![Cross-entropy after conversion and after uptraining](ablation.png)

{_verdict_ablation(converted)}

## Fine-tuning on summarization

Introduction to short description, {tuned[-1]['step'] - uptrained[0]['step']:,}
steps, decoded greedily, on the test split.

{summaries}
{trivial}
{_verdict_summaries(baselines, tuned)}

Test examples, the first {len(samples)}; more in `predictions.jsonl`:

{examples}
Text: Wikipedia, CC BY-SA 4.0. Every number above is in `records.jsonl`, with
its seed, versions and git revision.
"""


def _alpha(converted, uptrained) -> float:
  return uptrained[0]['step'] / converted[0]['step'] - 1


def _verdict_pretraining(baselines, pretrained) -> str:
  below = baselines['unigram_text/cross_entropy'] - pretrained[TEXT_LOSS]
  if below > 0:
    return f'On text alone the model is {below:.2f} nats below unigrams.'
  return f'On text alone the model is {-below:.2f} nats **above** unigrams.'


def _verdict_ablation(converted) -> str:
  mqa = {r['method']: r[LOSS] for r in converted if r['num_kv_heads'] == 1}
  best_first = sorted(mqa, key=mqa.get)
  papers = ['mean', 'first', 'random']
  agrees = [method for method in best_first if method in papers] == papers
  order = ' < '.join(f'{method} {mqa[method]:.3f}' for method in best_first)
  order += f' ({"as" if agrees else "not as"} in Figure 4)'
  return f'Loss of multi-query attention by method, converted: {order}.'


def _verdict_summaries(baselines, tuned) -> str:
  verdicts = []
  for key, what in (
    ('first_words', 'the first words'),
    ('common_words', 'the most common words'),
    ('after_is_a', 'the rule written by hand'),
  ):
    floor = baselines[f'{key}/rouge1']
    beats = [
      r['name'].removesuffix(', mean')
      for r in tuned
      if r['test/rouge1'] > floor
    ]
    verdicts.append(f'{what}: {", ".join(beats) if beats else "none"}')
  return f'Models that beat {"; ".join(verdicts)}.'


def _with_prefix(records, prefix) -> list[Record]:
  return [r for r in records if r['stage'].startswith(prefix)]


def _samples(predictions) -> list[Record]:
  rows = zip(*predictions.values(), strict=True)
  samples = []
  for row in list(rows)[:NUM_SAMPLES]:
    texts = {
      name.removesuffix(', mean'): p['prediction']
      for name, p in zip(predictions, row, strict=True)
    }
    samples.append(
      {'inputs': row[0]['inputs'], 'target': row[0]['target'], **texts}
    )
  return samples


def _plot(path, records):
  by_stage = {record['stage']: record for record in records}
  converted = _with_prefix(records, 'convert/')
  uptrained = _with_prefix(records, 'uptrain/')
  after = {record['name']: record[LOSS] for record in uptrained}
  plots.paired_bars(
    path,
    [r['name'] for r in converted],
    {
      'converted': [r[LOSS] for r in converted],
      f'uptrained for {_alpha(converted, uptrained):.1%}': [
        after.get(r['name'], math.nan) for r in converted
      ],
    },
    lines={'unigrams': by_stage['baselines']['unigram/cross_entropy']},
    title='Span corruption on held-out text, before and after uptraining',
    xlabel='cross-entropy, nats per target token (lower is better)',
  )
