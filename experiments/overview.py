"""results/README.md: what reproduces and what does not, figure by figure."""

import pathlib
import re
from collections.abc import Sequence

from experiments.study.command import Script
from experiments.study.results import Found
from experiments.study.scales import LAPTOP


def write(results: pathlib.Path, scripts: Sequence[Script], found: Found):
  """Writes README.md into the folder of results.

  Args:
    results: the folder, in which all reports are.
    scripts: of the paper's tables and figures.
    found: the laptop's records.
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
      *(part for s in scripts for part in _section(results, s, found)),
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
said of a difference whose 95% interval over the seeds lies above zero.
Everything on this page is made of records, by `python -m experiments.redraw`.
"""


def _section(results: pathlib.Path, script: Script, found: Found):
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
  for plot in sorted(folder.glob('*.png')):
    yield f'![{_first_line(script)}]({folder.name}/{plot.name})\n'
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
