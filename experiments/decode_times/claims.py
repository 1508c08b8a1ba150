"""What the estimates say of the paper's claims on the time to decode."""

import itertools
from collections.abc import Mapping

from experiments.decode_times import tables
from experiments.decode_times.cells import Cell, Found
from experiments.study.claims import Claim, verdict
from gqa_flax.timing.spread import digits


def table1(
  best: Mapping[tuple, Found], values: Mapping[str, float]
) -> list[Claim]:
  """Returns what the estimates say of Table 1."""
  seconds = {f.cell.model: f.seconds for f in best.values()}
  claims = [
    Claim(
      f"{model} takes the paper's time within {tables.CLOSE:.0%}",
      f'{digits(own)} s a sample',
      verdict(abs(own / values[model] - 1) <= tables.CLOSE),
      paper=f'{values[model]:.2f} s',
      joint='; it takes ',
    )
    for model, own in seconds.items()
  ]
  better, worse = 'MQA-XXL', 'MHA-Large'
  if {better, worse} <= seconds.keys():
    ratios = (x[better] / x[worse] for x in (seconds, values))
    claims.append(faster(better, worse, *ratios))
  return claims


def faster(better: str, worse: str, ratio: float, paper: float) -> Claim:
  """Returns the claim that one model decodes faster than another.

  Args:
    better: the model that should.
    worse: the other.
    ratio: of their times.
    paper: the same in the paper.
  """
  return Claim(
    f'{better} decodes faster than {worse}',
    f'{ratio:.2f} times as long',
    verdict(ratio < 1),
    paper=f'{paper:.2f} times as long',
    joint='; it takes ',
  )


def figure6(
  best: Mapping[int, Found], found: Mapping[Cell, Found], paper
) -> list[Claim]:
  """Returns what the estimates say of Figure 6."""
  return [*shape(best, paper), *_targets(found)]


def shape(best: Mapping[int, Found], paper) -> list[Claim]:
  """Returns what becomes of the figure's shape; nothing without MQA."""
  if 1 not in best:
    return []
  return [rises({K: chosen.seconds for K, chosen in best.items()}, paper)]


def _targets(found: Mapping[Cell, Found]) -> list[Claim]:
  """Returns which targets of decode steps are reached."""
  return [
    Claim(
      f'a decode step of {name}, without exchanges, takes at most '
      f'{target.replace(" x", " times its bound")}',
      f'{step} ms, {ratio} times its bound',
      verdict(reached == 'yes'),
      joint='; it takes ',
    )
    for name, step, _, ratio, target, reached, *_ in tables.step_rows(found)
  ]


def rises(seconds: Mapping[int, float], paper, aside: str = '') -> Claim:
  """Returns the claim that more key/value heads never take less time.

  Args:
    seconds: by number of key/value heads, of which 1 is one.
    paper: of `paper_values.read`.
    aside: what the claim ends with.
  """
  readings = {int(K): ends for K, ends in paper['values'].items()}
  return Claim(
    f'more key/value heads never take less time{aside}',
    f'{_as_long(_multiples(seconds))} times as long as 1',
    verdict(all(a <= b for a, b in itertools.pairwise(seconds.values()))),
    paper=_as_long(
      {
        K: tables.reading([x / readings[1][0] for x in ends])
        for K, ends in readings.items()
        if K > 1
      }
    ),
    joint=': ',
  )


def _multiples(seconds: Mapping[int, float]) -> dict[int, str]:
  return {K: f'{s / seconds[1]:.2f}' for K, s in seconds.items() if K > 1}


def _as_long(multiples: Mapping[int, str]) -> str:
  return ', '.join(f'{K} take {times}' for K, times in multiples.items())
