"""Claims with their verdicts, as one HTML table."""

import collections
import html
import itertools
import pathlib
from collections.abc import Callable, Mapping, Sequence

from gqa_flax.reporting import records

_FIELDS = ('group', 'report', 'claim', 'paper', 'ours', 'interval', 'verdict')
_COLUMNS = ('claim', 'paper', 'ours', '95% interval', 'verdict')
# How many of each are said to.
_VERDICTS = {
  'holds': 'hold',
  'undecided': 'are undecided',
  'does not hold': 'do not hold',
}
_ABOUT = """\
"Paper" is the paper's number for its own models, and a dash where the claim is
not the paper's. The interval is over seeds, and missing where nothing differs
between them; a claim is undecided where its interval contains zero."""


def read(path) -> list[dict[str, str]]:
  """Returns the claims of a file of JSON lines; none if it is absent.

  Args:
    path: each line has the strings group (a heading; claims of one stand
      together), report (a path from the file's folder), claim, paper, ours,
      interval (the last four may be empty) and verdict.

  Raises:
    ValueError: if a line lacks a string or has a verdict of another name.
  """
  path = pathlib.Path(path)
  rows = records.read(path)
  for n, row in enumerate(rows, 1):
    missing = [name for name in _FIELDS if not isinstance(row.get(name), str)]
    if missing:
      raise ValueError(
        f'{path}:{n} has no string {", ".join(missing)}; a claim has '
        f'{", ".join(_FIELDS)}.'
      )
    if row['verdict'] not in _VERDICTS:
      raise ValueError(
        f'{path}:{n} has the verdict {row["verdict"]!r}; give one of '
        f'{", ".join(map(repr, _VERDICTS))}.'
      )
  return rows


def table(
  claims: Sequence[Mapping[str, str]], link: Callable[[str], str]
) -> str:
  """Returns the table, and above it how many claims hold.

  Args:
    claims: of `read`.
    link: returns where a report is in the page.
  """
  counts = collections.Counter(claim['verdict'] for claim in claims)
  counted = ', '.join(
    f'{counts[verdict]} {what}' for verdict, what in _VERDICTS.items()
  )
  header = ''.join(f'<th scope="col">{name}</th>' for name in _COLUMNS)
  groups = itertools.groupby(claims, lambda c: (c['group'], c['report']))
  bodies = ''.join(
    f'<tbody>\n<tr><th colspan="{len(_COLUMNS)}" scope="rowgroup">'
    f'<a href="{html.escape(link(report))}">{html.escape(group)}</a></th></tr>'
    f'\n{"".join(map(_row, members))}</tbody>\n'
    for (group, report), members in groups
  )
  return (
    f'<p>Of {len(claims)} claims {counted}. {_ABOUT}</p>\n'
    f'<table class="claims">\n<thead><tr>{header}</tr></thead>\n{bodies}'
    '</table>\n'
  )


def _row(claim: Mapping[str, str]) -> str:
  kind = claim['verdict'].replace(' ', '-')
  return (
    f'<tr><td>{html.escape(claim["claim"])}</td>'
    + ''.join(
      f'<td data-label="{label}">{html.escape(claim[name])}</td>'
      for name, label in (
        ('paper', 'paper'),
        ('ours', 'ours'),
        ('interval', '95% interval'),
      )
    )
    + f'<td class="{kind}">{claim["verdict"]}</td></tr>\n'
  )
