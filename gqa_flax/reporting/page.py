"""All reports as one HTML page that needs no other file."""

import base64
import datetime
import html
import pathlib
import posixpath
import re
from collections.abc import Sequence

import markdown

from gqa_flax.reporting import claims_table, records

_TITLE = 'gqa_flax: results'
_STYLE = """\
body { font: 16px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 64em;
  padding: 0 1em; color: #222; overflow-wrap: break-word; }
a { color: #2f5d9b; }
h1 { line-height: 1.2; }
section > h1 { font-size: 1.6em; }
section { border-top: 3px solid #2f5d9b; margin-top: 3em; }
img { max-width: 100%; }
pre { overflow-x: auto; }
code { background: #f4f4f4; }
.wide { display: block; overflow-x: auto; margin: 1em 0; }
table { border-collapse: collapse; font-size: 14px; }
th, td { border-bottom: 1px solid #ddd; padding: 3px 8px; text-align: left;
  vertical-align: top; }
.claims { width: 100%; }
.claims th[scope=col]:first-child { width: 38%; }
.claims th[scope=rowgroup] { padding-top: 1.2em; font-size: 16px; }
.claims td:nth-last-child(-n+2) { white-space: nowrap; }
.claims td:last-child { font-weight: 600; }
.claims td:empty::before { content: "\\2013"; }
.holds { color: #1f7a45; }
.undecided { color: #666; }
.does-not-hold { color: #b3502e; }
@media (max-width: 40em) {
  .wide img { max-width: none; width: 40em; }
  .claims thead { display: none; }
  .claims tr, .claims th, .claims td { display: block; border: 0; padding: 0; }
  .claims tr { border-bottom: 1px solid #ddd; padding: 6px 0; }
  .claims td:empty { display: none; }
  .claims [data-label]::before { content: attr(data-label) ": "; color: #666; }
}
"""


def build(results) -> str:
  """Returns the page of a folder's reports.

  Args:
    results: a folder; its claims come first, if it has a claims.jsonl (see
      `claims_table.read`), then README.md, then the reports in the folders
      below it, by name.

  Raises:
    FileNotFoundError: if there is no report, or a plot is missing.
    ValueError: if claims.jsonl is malformed.
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
  contents = '\n'.join(
    f'<li><a href="#{_anchor(path, results)}">{html.escape(_title(path))}</a>'
    '</li>'
    for path in reports
  )
  sections = ''.join(_section(path, results, reports) for path in reports)
  return (
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f'<title>{_TITLE}</title>\n<style>\n{_STYLE}</style>\n</head>\n'
    f'<body id="top">\n<h1>{_TITLE}</h1>\n<p>{_origin()}</p>\n'
    f'{_claims(results, reports)}'
    f'<nav>\n<h2>Reports</h2>\n<ul>\n{contents}\n</ul>\n</nav>\n{sections}'
    '</body>\n</html>\n'
  )


def _origin() -> str:
  """Returns when and of which revision the page is made."""
  today = datetime.datetime.now(datetime.UTC)
  revision = records.git_revision()
  at = f' at revision <code>{revision}</code>' if revision else ''
  return f'Made on {today:%B} {today.day}, {today.year}{at}.'


def _claims(results: pathlib.Path, reports: Sequence[pathlib.Path]) -> str:
  claims = claims_table.read(results / 'claims.jsonl')
  if not claims:
    return ''
  here = results / 'README.md'
  table = claims_table.table(
    claims, lambda report: _target(report, here, results, reports)
  )
  return f'<h2 id="claims">Claims</h2>\n{_wide(table)}'


def _wide(body: str) -> str:
  """Lets tables and plots scroll by themselves where the page is narrow."""
  body = re.sub(r'<img [^>]*>', r'<span class="wide">\g<0></span>', body)
  body = body.replace('<table', '<div class="wide"><table')
  return body.replace('</table>', '</table></div>')


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
  return (
    f'<section id="{anchor}">\n{_wide(body)}\n'
    '<p><a href="#top">Back to top</a></p>\n</section>\n'
  )


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
