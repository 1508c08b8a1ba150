"""The plot of steps against time, over all attempts."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from gqa_flax.reporting import plots

WHO = {(0,): 'process 0', (1,): 'process 1', (0, 1): 'both'}
_COLORS = {(0,): '#c8553d', (1,): '#e0a030', (0, 1): '#6b3fa0'}


def steps_over_time(
  path: pathlib.Path,
  summary: Mapping[str, Any],
  kills: Sequence[Mapping[str, Any]],
):
  """Draws a line an attempt, from its checkpoint up, and a mark a kill."""
  figure, axes = plots.new(8.5, 4.2)
  attempts = summary['attempts']
  zero = attempts[0][0]

  def minutes(seconds):
    return (seconds - zero) / 60

  for start, first_time, first, last_time, last in attempts:
    axes.plot(
      [minutes(start), minutes(first_time)], [first] * 2, color='#c9ccd1', lw=1
    )
    axes.plot(
      [minutes(first_time), minutes(last_time)],
      [first, last],
      color='#2f5d9b',
      lw=1.5,
    )
  for victims, name in WHO.items():
    own = [kill for kill in kills if tuple(kill['victims']) == victims]
    # Before an attempt has logged anything it stands at its checkpoint.
    heights = [
      (kill['latest_after'] or 0) if kill['step'] is None else kill['step']
      for kill in own
    ]
    axes.scatter(
      [minutes(kill['time']) for kill in own],
      heights,
      s=22,
      marker='x',
      color=_COLORS[victims],
      label=f'SIGKILL to {name}',
      zorder=3,
    )
  axes.plot([], [], color='#c9ccd1', lw=1, label='starting, restoring')
  axes.plot([], [], color='#2f5d9b', lw=1.5, label='training')
  axes.set_xlabel('minutes since the first attempt began')
  axes.set_ylabel('step')
  axes.set_title(
    f'{len(kills)} kills, {len(attempts)} attempts that had restored',
    fontsize=11,
  )
  axes.legend(fontsize=8, frameon=False, loc='upper left')
  plots.save(figure, path)
