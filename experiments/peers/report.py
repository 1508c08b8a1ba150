"""report.md and the plot, from the records alone."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.peers import plots, summary
from experiments.peers.summary import Run
from gqa_flax.reporting import records
from gqa_flax.reporting.tables import markdown_table, paragraph
from gqa_flax.timing.spread import digits

_PARTS = {
  'decode': 'all, s',
  'encode': 'encoder alone, s',
  'step': 'step, s',
  'gradients': 'loss and gradients alone, s',
}
_PAGES = {
  'huge': 'huge pages of memory, given back to the system when they are freed',
  'kept': 'huge pages of memory, which the process keeps when they are freed',
}
_REST = {'decoding': 'decoder, ms a token', 'training': 'update, s'}


def write(folder: pathlib.Path):
  """Writes report.md and seconds.png.

  Raises:
    SystemExit: there are no records to report on.
  """
  path = folder / 'records.jsonl'
  found = records.read(path)
  if not found:
    raise SystemExit(
      f'{path} has no records: run `python -m experiments.peers`.'
    )
  runs = summary.latest(found)
  plots.seconds_bars(folder / 'seconds.png', _plotted(runs))
  sections = [
    _head(list(runs.values())),
    _targets(runs),
    *(_section(what, runs) for what in summary.WHOLE),
    _history(found),
  ]
  text = '\n'.join(section for section in sections if section)
  (folder / 'report.md').write_text(text, encoding='utf-8')


def _plotted(runs: Mapping[tuple, Run]) -> list[Run]:
  """Returns the first run of each kind: a target's, where there is one."""
  first: dict[str, Run] = {}
  for run in runs.values():
    first.setdefault(run.what, run)
  return [first[what] for what in summary.WHOLE if what in first]


def _head(runs: Sequence[Run]) -> str:
  record = runs[0].record
  machine, provenance = record['machine'], record['provenance']
  versions = ', '.join(
    f'{name} {version}'
    for name, version in [
      *machine['versions'].items(),
      ('jax', provenance['versions']['jax']),
    ]
  )
  rounds = sorted({run.record['repeats'] for run in runs})
  return '# Beside transformers on torch\n\n' + paragraph(f"""
    Decoding and training of T5.1.1 with random weights, the same in both
    libraries, in float32 on a CPU with as many threads for either
    ({machine['processor']}; the machine has {provenance['cpus']} processors):
    {versions}. All took turns in one process, {_and(map(str, rounds))} rounds;
    the numbers are medians with quartiles, after two calls that compile and
    settle. "Times as fast" is the median of the fastest of transformers'
    variants over ours; "in a round" is the same ratio within each round, its
    median and its range. Compilation is not counted. Made by
    experiments/peers.""")


def _and(texts) -> str:
  *most, last = texts
  return f'{", ".join(most)} and {last}' if most else last


def _targets(runs: Mapping[tuple, Run]) -> str:
  lines = []
  for target in summary.TARGETS:
    what, size, batch_size, source, length, _, threads = target.cell
    verb = 'decodes' if what == 'decoding' else 'takes a training step'
    where = (
      f'{size}, batch {batch_size}, {source} / {length} tokens, '
      f'{threads} threads'
    )
    if target.cell not in runs:
      lines.append(f'- {target.name}, {what} ({where}): not measured yet.\n')
      continue
    run = runs[target.cell]
    ratio = run.ratio(target.name)
    met = 'met' if ratio.of_medians >= target.times else '**not met**'
    if run.disturbed:
      met = (
        'undecided: other programs took '
        f'{run.record["others_share"]:.0%} of the processors'
      )
    lines.append(
      f'- {target.name} {verb} {ratio.of_medians:.2f} times as fast as '
      f'{run.fastest_of_theirs()}{_others(run, target.name)} ({where}). The '
      f'target, at least {target.times:g} times, is {met}.\n'
    )
  text = f"""
    A run in which other programs took more than {summary.DISTURBED:.0%} of the
    processors decides nothing: torch's threads wait for each other at every
    operation, and lose more than ours by each moment that one of them is not
    running."""
  return (
    f'## Targets\n\n{"".join(lines)}\n{paragraph(text)}\n'
    '![Seconds, side by side](seconds.png)\n'
  )


def _others(run: Run, name: str) -> str:
  """Tells how fast it is beside the variants that are not the fastest."""
  fastest = run.fastest_of_theirs()
  ratios = [
    f'{run.ratio(name, other).of_medians:.2f} times as fast as {other}'
    for other in run.names('transformers')
    if other != fastest
  ]
  return f', the fastest of theirs; {_and(ratios)}' if ratios else ''


def _section(what: str, runs: Mapping[tuple, Run]) -> str:
  own = [run for run in runs.values() if run.what == what]
  if not own:
    return ''
  text, describe = {
    'decoding': (_DECODING_TEXT, _agreement),
    'training': (_TRAINING_TEXT, _losses),
  }[what]
  cells = ''.join(
    f'\n### {_where(run)}\n\n{_table(run)}\n'
    f'{paragraph(describe(run) + " " + _disturbance(run))}'
    for run in own
  )
  return f'## {what.capitalize()}\n\n{paragraph(text)}{cells}'


_DECODING_TEXT = """
  Greedy decoding of whole batches: the encoder, then one token a step to the
  full length, EOS being a token as any other. No row is padded. transformers
  runs `generate` in inference mode with its cache ("compiled": by
  torch.compile, with a cache of fixed size); ours is `sample_decode` with
  `Greedy()`. GQA-2 and MQA are the multi-head weights converted by the mean:
  the same encoder, other tokens. The decoder's milliseconds a token are what is
  left without the encoder, divided by the length."""
_TRAINING_TEXT = """
  Loss (cross-entropy alone), gradients and Adafactor's update, with the same
  constants and a constant learning rate; `transformers.optimization.Adafactor`
  on one side, the step that `training.loop` compiles on the other, its state
  donated. With dropout the two draw differently: ours, as T5X's, one draw for
  all positions of a row, theirs one for each."""


def _where(run: Run) -> str:
  record = run.record
  dropout = ''
  if run.what == 'training':
    dropout = f', dropout {record["dropout_rate"]:g}'
  return (
    f'{record["size"]}, batch {record["batch_size"]}, '
    f'{record["source_length"]} / {record["target_length"]} tokens{dropout}, '
    f'{record["threads"]} thread{"s" * (record["threads"] != 1)}'
  )


def _table(run: Run) -> str:
  whole, part = run.parts
  header = (
    *('', _PARTS[whole], 'times as fast', 'in a round', _PARTS[part]),
    *(_REST[run.what], 'first call, s'),
  )
  rows = []
  for name in run.names():
    ratio = run.ratio(name)
    rest = run.rest_seconds(name)
    if run.what == 'decoding':
      rest *= 1e3 / run.record['target_length']
    rows.append(
      (
        name,
        str(run.seconds(name)),
        f'{ratio.of_medians:.2f}',
        f'{ratio.paired:.2f} ({ratio.low:.2f} to {ratio.high:.2f})',
        str(run.seconds(name, part)) if name in run.names(part=part) else '',
        digits(rest) if rest > 0 else 'too little to tell',
        digits(run.record['first_call_seconds'][whole][name]),
      )
    )
  return markdown_table(header, rows)


def _agreement(run: Run) -> str:
  sentences = []
  for name, found in run.record['agreement'].items():
    first, share = found['first_difference'], f'{found["equal_tokens"]:.2%}'
    where = 'all of them' if found['equal_tokens'] == 1 else share
    sentence = f'Of the tokens of {name}, our multi-head model decodes {where}'
    if first:
      sentence += (
        f', the first other one at position {first["position"]} of row '
        f'{first["row"]}'
      )
    sentences.append(
      f'{sentence}; logits after the same tokens differ by up to '
      f'{found["largest_logit_difference"]:.1e}, where the best and the second '
      f'are at least {found["smallest_margin"]:.1e} apart.'
    )
  return ' '.join(sentences)


def _losses(run: Run) -> str:
  parts = [
    f'{name} {", ".join(f"{loss:.4f}" for loss in losses)}'
    for name, losses in run.record['losses'].items()
  ]
  return f'The losses of the first two steps: {"; ".join(parts)}.'


def _disturbance(run: Run) -> str:
  record = run.record
  text = (
    f'The load was {record["load_before"]:.1f} before and '
    f'{record["load_after"]:.1f} after'
  )
  if record['others_share'] is not None:
    text += (
      f'; other programs took {record["others_share"]:.0%} of these '
      'processors meanwhile'
    )
  if run.pages in _PAGES:
    text += f'. Both had {_PAGES[run.pages]}'
  return f'{text}.'


def _history(found: Sequence[Mapping[str, Any]]) -> str:
  header = (
    *('time', 'revision', 'what', 'cell', 'pages', 'load before'),
    'times as fast as the fastest of transformers',
  )
  rows = []
  for run in map(Run, found):
    provenance = run.record['provenance']
    ratios = ', '.join(
      f'{name.removeprefix("gqa_flax ")} {run.ratio(name).of_medians:.2f}'
      for name in run.names('gqa_flax')
    )
    rows.append(
      (
        provenance['time'],
        _short(provenance['git_revision']),
        run.what,
        _where(run),
        run.pages,
        f'{run.record["load_before"]:.1f}',
        ratios,
      )
    )
  text = 'Every run on record; the sections above tell of the last of each.'
  return f'## All runs\n\n{text}\n\n{markdown_table(header, rows)}'


def _short(revision: str | None) -> str:
  if revision is None:
    return 'unknown'
  head, _, dirty = revision.partition('-')
  return f'{head[:10]}-{dirty}' if dirty else head[:10]
