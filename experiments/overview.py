"""What reproduces and what does not: results/README.md and claims.jsonl."""

import json
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence

from experiments.study.claims import Claim
from experiments.study.command import Script
from experiments.study.results import Found


def write(
  results: pathlib.Path,
  scripts: Sequence[Script],
  found: Mapping[str, Found],
  times: pathlib.Path,
):
  """Writes README.md and claims.jsonl into the folder of results.

  The first has the claims as sentences; the second has each as a row of the
  table that `gqa-flax report` makes.

  Args:
    results: the folder, in which all reports are.
    scripts: of the paper's tables and figures; one without any record is left
      out.
    found: the records, by the names of their scales.
    times: records of `decode_times`.
  """
  own = {script.results_dir.name for script in scripts}
  scripts = [script for script in scripts if any(_done(script, found))]
  others = [
    f'- [{_title(path)}]({path.parent.name}/{path.name})'
    for path in sorted(results.glob('*/report.md'))
    if path.parent.name not in own
  ]
  text = '\n'.join(
    [
      _ABOUT,
      *(part for s in scripts for part in _section(results, s, found, times)),
      '## Other studies\n',
      *others,
      '',
    ]
  )
  (results / 'README.md').write_text(text, encoding='utf-8')
  rows = [row for s in scripts for row in _rows(s, found, times)]
  (results / 'claims.jsonl').write_text(
    ''.join(f'{json.dumps(row)}\n' for row in rows), encoding='utf-8'
  )


_ABOUT = """\
# What reproduces, and what does not

Nothing has been trained at the paper's size yet. This page shows the
paper's grid on a small model on a CPU, with three seeds, and the paper's times
as the TPU's own compiler estimates them; the two are never in one table. A
claim about a difference holds if the difference's 95% interval over the seeds
lies above zero, does not hold if it lies below, and is undecided if zero is in
it. Differences are taken seed by seed: seeds share the order of the data, so a
difference is known better than either of the two numbers. Where a conversion
draws nothing at random there is one value and no interval. "Paper" is the
paper's number for its own models, which are larger; it is missing where the
claim is not the paper's. Our numbers are generated from the records by
`python -m experiments.redraw`; `gqa-flax report` puts the claims in one table.

MHA is the multi-head model as it was pre-trained, of 8 heads (small MHA: of 4,
and narrower); GQA-2 and MQA have two and one key/value heads; `subspace` and
`aligned` are our own conversion methods. Alpha is the share of the pre-training
steps that uptraining takes, a nat the unit of a loss (per target token), and a
spike a training loss 10% above the lowest before.
"""


def _done(script: Script, found: Mapping[str, Found]) -> list[bool]:
  """Returns which of a script's cells are recorded."""
  scale = script.scales[0]
  return [cell.name in found[scale.name] for cell in script.cells(scale)]


def _section(
  results: pathlib.Path,
  script: Script,
  found: Mapping[str, Found],
  times: pathlib.Path,
) -> Iterator[str]:
  folder = results / script.results_dir.name
  yield f'## {_first_line(script)}\n'
  yield f'{_claim(script)}\n'
  scale, done = script.scales[0], _done(script, found)
  claims = script.claims(found[scale.name])
  if claims:
    yield f'{scale.where[0].upper()}{scale.where[1:]}:\n'
    yield _sentences(claims)
  if not all(done):
    yield (
      f'{sum(done)} of {len(done)} cells {scale.where} are recorded; the '
      'others have not been run yet.\n'
    )
  estimates = script.estimates
  for plot in sorted(folder.glob('*.png')):
    if not estimates or plot.name != estimates.plot:
      yield f'![{_first_line(script)}]({folder.name}/{plot.name})\n'
  if estimates and times.exists():
    yield "Estimated by the TPU's compiler for the paper's eight TPU v4:\n"
    yield _sentences(estimates.claims(times))
    if estimates.plot:
      plot = f'{folder.name}/{estimates.plot}'
      yield f'![{_first_line(script)}, estimated]({plot})\n'
  links = [
    f'[{_title(path)}]({folder.name}/{path.name})'
    for path in sorted(folder.glob('*.md'))
  ]
  if links:
    yield f'In full: {", ".join(links)}.\n'


def _sentences(claims: Sequence[Claim]) -> str:
  return ''.join(f'{claim.sentence()}\n' for claim in claims)


def _rows(
  script: Script, found: Mapping[str, Found], times: pathlib.Path
) -> Iterator[dict[str, str]]:
  """Yields a script's claims, each with its group and the report it is from."""
  folder = script.results_dir.name
  scale = script.scales[0]
  report = 'laptop.md' if script.estimates else 'report.md'
  groups = [(scale.where, report, script.claims(found[scale.name]))]
  if script.estimates and times.exists():
    estimated = script.estimates.claims(times)
    groups.append(('estimated for eight TPU v4', 'report.md', estimated))
  for where, report, claims in groups:
    group = f'{_first_line(script)} ({where})'
    for claim in claims:
      yield {'group': group, 'report': f'{folder}/{report}', **claim.row()}


def _first_line(script: Script) -> str:
  return script.description.partition('\n')[0].rstrip('.')


def _claim(script: Script) -> str:
  """Returns the paragraph of a docstring that says what the paper claims."""
  paragraphs = script.description.split('\n\n')
  claim = next(p for p in paragraphs if p.startswith('The paper'))
  return re.sub(r'\s+', ' ', claim)


def _title(path: pathlib.Path) -> str:
  return path.read_text(encoding='utf-8').partition('\n')[0].lstrip('# ')
