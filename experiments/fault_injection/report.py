"""report.md and the plot, from the records alone."""

import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.fault_injection import plots, schedule
from gqa_flax.reporting import records
from gqa_flax.reporting.tables import markdown_table, paragraph

Kills = Sequence[Mapping[str, Any]]


def write(folder: pathlib.Path):
  """Writes report.md and steps.png of the last run.

  Raises:
    SystemExit: there is no record to report on.
  """
  path = folder / 'records.jsonl'
  found = records.read(path)
  if not found:
    raise SystemExit(
      f'{path} has no record: run `python -m experiments.fault_injection`.'
    )
  summary = found[-1]
  every = [
    kill
    for kill in records.read(folder / 'kills.jsonl')
    if kill['seed'] == summary['seed']
  ]
  kills = schedule.struck(every)
  plots.steps_over_time(folder / 'steps.png', summary, kills)
  kinds = _kinds(kills, len(every) - len(kills))
  sections = (
    _head(summary, len(kills)),
    _checks(summary),
    kinds,
    _time(summary),
  )
  text = '\n'.join((*sections, _every(every)))
  (folder / 'report.md').write_text(text, encoding='utf-8')


def _head(summary: Mapping[str, Any], kills: int) -> str:
  planned = summary['kills_planned']
  number = str(kills) if kills == planned else f'{kills} of {planned} planned'
  failed = [check for check, holds in summary['checks'].items() if not holds]
  result = 'Nothing differs.'
  if failed:
    result = f'SOMETHING DIFFERS from what must hold: {"; ".join(failed)}.'
  return '# Two processes, killed\n\n' + paragraph(f"""
    Two processes of four virtual CPU devices each train a small GQA-2 model
    with dropout on the mesh (2, 2, 2) for {summary['train_steps']} steps, with
    a checkpoint every {summary['checkpoint_every']}: once undisturbed, once
    with {number} kills (SIGKILL) at moments drawn by seed {summary['seed']}.
    {result} On {summary['provenance']['cpus']} cores of a shared machine, with
    a heartbeat of {summary['heartbeat_seconds']} s. Made by
    experiments/fault_injection.""")


def _checks(summary: Mapping[str, Any]) -> str:
  rows = [
    (check, 'yes' if holds else '**no**')
    for check, holds in summary['checks'].items()
  ]
  return markdown_table(('what must hold', 'holds'), rows)


def _kinds(kills: Kills, itself: int) -> str:
  """Counts the kills by victims; `itself` attempts ended before theirs."""
  rows = []
  for victims, name in plots.WHO.items():
    own = [kill for kill in kills if tuple(kill['victims']) == victims]
    ended = [
      kill['survivor_seconds'] for kill in own if kill['survivor_in_time']
    ]
    rows.append(
      (
        name,
        len(own),
        sum(kill['drawn']['phase'] == 'startup' for kill in own),
        sum(bool(kill['temporary']) for kill in own),
        sum(_lost(kill) for kill in own),
        _range(ended),
        ', '.join(
          sorted(
            {str(k['survivor_status']) for k in own if k['survivor_in_time']}
          )
        )
        or '-',
      )
    )
  header = (
    *('killed', 'kills', 'before the first step'),
    *('while a checkpoint was written', 'steps done again'),
    *('seconds to the end of the survivor', 'its status'),
  )
  waiting = sum(k['survivor_in_time'] is None for k in kills) - sum(
    len(k['victims']) == 2 for k in kills
  )
  return (
    '## Kills\n\n'
    + markdown_table(header, rows)
    + '\n'
    + paragraph(f"""
      The status -6 is SIGABRT, by which JAX ends a process whose peer has been
      silent for a heartbeat. {waiting} kills came before both processes had
      joined: the other waits up to 300 s for the first to be started again, as
      it should, and was ended by the experiment. Beside these kills, {itself}
      attempts ended by themselves: on a machine too busy, a heartbeat or the
      joining comes too late. The next attempt goes on all the same.""")
  )


def _lost(kill: Mapping[str, Any]) -> int:
  if kill['step'] is None:
    return 0
  return max(0, kill['step'] - (kill['latest_after'] or 0))


def _range(values: Sequence[float]) -> str:
  if not values:
    return '-'
  middle = statistics.median(values)
  return f'{middle:.1f} ({min(values):.1f} to {max(values):.1f})'


def _time(summary: Mapping[str, Any]) -> str:
  spent = summary['goodput']
  rows = [
    (name, f'{seconds:,.1f}', f'{spent["shares"][name]:.1%}')
    for name, seconds in spent['seconds'].items()
  ]
  return (
    '## Where the time went\n\n'
    + paragraph(f"""
      {spent['attempts']} attempts had restored, and the last was not killed;
      {spent['steps_done']:,} steps were done, {spent['steps_lost']:,} of them
      a second time.""")
    + '\n![Steps over time](steps.png)\n\n'
    + markdown_table(('category', 'seconds', 'share'), rows)
  )


def _every(kills: Kills) -> str:
  header = (
    *('kill', 'of', 's after start', 'step', 'newest checkpoint', 'in writing'),
    *('survivor', 's', 'went on from'),
  )
  rows = [
    (
      kill['kill'],
      'none' if kill['ended_before'] else plots.WHO[tuple(kill['victims'])],
      f'{kill["seconds_after_start"]:.1f}',
      _or_dash(kill['step']),
      _or_dash(kill['latest_checkpoint']),
      'yes' if kill['temporary'] else 'no',
      _or_dash(kill['survivor_status']),
      _or_dash(kill['survivor_seconds']),
      _or_dash(kill['went_on_from']),
    )
    for kill in kills
  ]
  text = """
    No step: the attempt was killed before it had restored. Where it is not
    known from where the next attempt went on, that one was killed so. A line of
    no process: the attempt ended by itself."""
  return (
    '## Every kill\n\n' + markdown_table(header, rows) + '\n' + paragraph(text)
  )


def _or_dash(value) -> str:
  return '-' if value is None else str(value)
