"""All reports as one HTML page that needs no other file."""

import base64
import html
import pathlib
import posixpath
import re
from collections.abc import Sequence

import markdown

_STYLE = """\
body { font: 16px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 64em;
  padding: 0 1em; color: #222; }
table { border-collapse: collapse; display: block; overflow-x: auto;
  font-size: 13px; margin: 1em 0; }
th, td { border-bottom: 1px solid #ddd; padding: 3px 8px; text-align: left; }
img { max-width: 100%; }
section { border-top: 3px solid #2f5d9b; margin-top: 3em; }
code { background: #f4f4f4; }
"""


def build(results) -> str:
  """Returns the page of a folder's reports.

  Args:
    results: a folder; README.md in it comes first, then the reports in the
      folders below it, by name.

  Raises:
    FileNotFoundError: if there is no report, or a plot is missing.
  """
  results = pathlib.Path(results)
  reports = [
    *results.glob('README.md'),
    *sorted(results.glob('*/*.md')),
  ]
  if not reports:
    raise FileNotFoundError(
      f'There are no reports in {results}; give the folder that holds '
      'EXPERIMENT/report.md, or run an experiment first.'
    )
  sections = [_section(path, results, reports) for path in reports]
  titles = [(_anchor(path, results), _title(path)) for path in reports]
  contents = '\n'.join(
    f'<li><a href="#{anchor}">{html.escape(title)}</a></li>'
    for anchor, title in titles
  )
  return (
    '<!DOCTYPE html>\n<html lang="en">\n<meta charset="utf-8">\n'
    f'<title>gqa_flax: results</title>\n<style>\n{_STYLE}</style>\n'
    f'<ul>\n{contents}\n</ul>\n{"".join(sections)}</html>\n'
  )


def _section(
  path: pathlib.Path, results: pathlib.Path, reports: Sequence[pathlib.Path]
) -> str:
  body = markdown.markdown(
    path.read_text(encoding='utf-8'), extensions=['tables', 'fenced_code']
  )
  body = re.sub(
    r'src="([^":]+\.png)"',
    lambda found: f'src="{_data_uri(path.parent / found[1], path)}"',
    body,
  )
  body = re.sub(
    r'href="([^":#]+)"',
    lambda found: f'href="{_target(found[1], path, results, reports)}"',
    body,
  )
  anchor = _anchor(path, results)
  return f'<section id="{anchor}">\n{body}\n</section>\n'


def _data_uri(plot: pathlib.Path, report: pathlib.Path) -> str:
  if not plot.exists():
    raise FileNotFoundError(
      f'{report} shows {plot}, which is not there; make the report anew.'
    )
  return 'data:image/png;base64,' + base64.b64encode(plot.read_bytes()).decode()


def _target(
  link: str,
  report: pathlib.Path,
  results: pathlib.Path,
  reports: Sequence[pathlib.Path],
) -> str:
  """Returns where a link to another report goes in the page."""
  place = posixpath.normpath(posixpath.join(report.parent.as_posix(), link))
  for path in reports:
    if path.as_posix() == place:
      return f'#{_anchor(path, results)}'
  return link


def _anchor(path: pathlib.Path, results: pathlib.Path) -> str:
  return path.relative_to(results).with_suffix('').as_posix().replace('/', '-')


def _title(path: pathlib.Path) -> str:
  first = path.read_text(encoding='utf-8').partition('\n')[0]
  return first.lstrip('# ')
