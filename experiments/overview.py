"""results/README.md: what reproduces and what does not, figure by figure."""

import pathlib
import re
from collections.abc import Sequence

from experiments.study.command import Script
from experiments.study.results import Found
from experiments.study.scales import LAPTOP


def write(
  results: pathlib.Path,
  scripts: Sequence[Script],
  found: Found,
  times: pathlib.Path,
):
  """Writes README.md into the folder of results.

  Args:
    results: the folder, in which all reports are.
    scripts: of the paper's tables and figures.
    found: the laptop's records.
    times: records of `decode_times`.
  """
  own = {script.results_dir.name for script in scripts}
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


_ABOUT = """\
# What reproduces, and what does not

Nothing has been trained at the paper's size yet. What stands here is the
paper's grid on a small model on a CPU, with three seeds, and the paper's times
as the TPU's own compiler estimates them; never the two in one table. "Holds" is
said of a difference whose 95% interval over the seeds lies above zero. It is
taken seed by seed, as seeds share the order of the data, and so is better known
than either of what is compared; where a conversion draws nothing, there is one
value and no interval. Our numbers on this page are made of records, by
`python -m experiments.redraw`.

MHA is the multi-head model as it was pre-trained, of 8 heads ("MHA, small": of
4, and narrower); GQA-2 and MQA have two and one key/value heads; `subspace` and
`aligned` are ways of our own to convert. Alpha is the share of pre-training's
steps that uptraining takes, a nat the unit of a loss (per target token), and a
spike a training loss 10% above the lowest before.
"""


def _section(
  results: pathlib.Path, script: Script, found: Found, times: pathlib.Path
):
  folder = results / script.results_dir.name
  yield f'## {_first_line(script)}\n'
  yield f'{_claim(script)}\n'
  lines = script.claims(found)
  done = [cell.name in found for cell in script.cells(LAPTOP)]
  if lines:
    yield "At the laptop's scale:\n"
    yield '\n'.join(lines) + '\n'
  if not all(done):
    yield (
      f"Of the laptop's {len(done)} cells {sum(done)} are recorded: what is "
      'not said here is not known yet.\n'
    )
  estimates = script.estimates
  for plot in sorted(folder.glob('*.png')):
    if not estimates or plot.name != estimates.plot:
      yield f'![{_first_line(script)}]({folder.name}/{plot.name})\n'
  if estimates and times.exists():
    yield "Estimated by the TPU's compiler for the paper's eight TPU v4:\n"
    yield '\n'.join(estimates.claims(times)) + '\n'
    if estimates.plot:
      plot = f'{folder.name}/{estimates.plot}'
      yield f'![{_first_line(script)}, estimated]({plot})\n'
  links = [
    f'[{_title(path)}]({folder.name}/{path.name})'
    for path in sorted(folder.glob('*.md'))
  ]
  if links:
    yield f'In full: {", ".join(links)}.\n'


def _first_line(script: Script) -> str:
  return script.description.partition('\n')[0].rstrip('.')


def _claim(script: Script) -> str:
  """Returns the paragraph of a docstring that says what the paper claims."""
  paragraphs = script.description.split('\n\n')
  claim = next(p for p in paragraphs if p.startswith('The paper'))
  return re.sub(r'\s+', ' ', claim)


def _title(path: pathlib.Path) -> str:
  return path.read_text(encoding='utf-8').partition('\n')[0].lstrip('# ')
