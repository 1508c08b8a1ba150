"""The page of all reports: whole, self-contained, and linked within."""

import base64
import html.parser
import json
import re

import pytest

from gqa_flax import cli
from gqa_flax.reporting import page, plots, records

CLAIM = {
  'group': 'Table 1 (here)',
  'report': 'table1/laptop.md',
  'claim': 'GQA < MHA & all',
  'paper': '0.1 points',
  'ours': '0.2 points',
  'interval': '-0.1 to 0.5',
  'verdict': 'undecided',
}


@pytest.fixture
def results(tmp_path):
  folder = tmp_path / 'results'
  for name in ('figure4', 'table1'):
    (folder / name).mkdir(parents=True)
  (folder / 'README.md').write_text('# What reproduces\n\nMost <of> it.\n')
  (folder / 'figure4' / 'report.md').write_text(
    '# Figure 4 & more\n\n'
    '| method | loss |\n| --- | ---: |\n| mean | 4.23 |\n\n'
    '![a plot](plot.png)\n\nSee [times](../table1/laptop.md) and '
    '[the paper](https://arxiv.org/abs/2305.13245).\n'
  )
  (folder / 'table1' / 'laptop.md').write_text('# Table 1\n\ntext\n')
  figure, axes = plots.new()
  axes.plot([1, 2], [3, 4], label='a line')
  plots.save(figure, folder / 'figure4' / 'plot.png')
  return folder


def test_the_page_holds_all_reports_and_plots(results, tmp_path, capsys):
  output = tmp_path / 'all.html'
  arguments = ['report', f'--results={results}', f'--output={output}']
  assert cli.main(arguments) == 0
  assert capsys.readouterr().out == f'{output}\n'
  text = output.read_text()
  assert text == page.build(results)
  plot = (results / 'figure4' / 'plot.png').read_bytes()
  uri = f'src="data:image/png;base64,{base64.b64encode(plot).decode()}"'
  assert text.count('src=') == 1 and uri in text
  assert '<td style="text-align: right;">4.23</td>' in text
  assert 'href="#table1-laptop">times' in text
  assert '<section id="table1-laptop">' in text
  assert 'href="https://arxiv.org/abs/2305.13245"' in text
  assert '<a href="#figure4-report">Figure 4 &amp; more</a>' in text
  order = [text.index(f'<section id="{x}') for x in ('README', 'figure4')]
  assert order == sorted(order)


class Outline(html.parser.HTMLParser):
  """Ids, links within the page, and tags that were opened and not closed."""

  def __init__(self, text):
    super().__init__()
    self.ids, self.links, self.open = [], [], []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    attrs = dict(attrs)
    self.ids += [attrs['id']] if 'id' in attrs else []
    if attrs.get('href', '').startswith('#'):
      self.links.append(attrs['href'][1:])
    if tag != 'meta':
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    """Has no end of its own."""

  def handle_endtag(self, tag):
    assert self.open.pop() == tag


def test_the_page_fits_a_phone_and_says_where_it_is_from(results, monkeypatch):
  monkeypatch.setattr(records, 'git_revision', lambda: 'abc123')
  text = page.build(results)
  assert '<meta name="viewport" content="width=device-width,' in text
  assert re.search(
    r'<p>Made on [A-Z][a-z]+ \d+, \d{4} at revision <code>abc123</code>\.', text
  )
  assert text.count('<div class="wide"><table>') == text.count('<table>') == 1
  assert '<span class="wide"><img ' in text
  monkeypatch.setattr(records, 'git_revision', lambda: None)
  assert 'revision' not in page.build(results)


def test_links_lead_within_the_page_and_back(results):
  (results / 'README.md').write_text('# What reproduces\n')
  (results / 'claims.jsonl').write_text(json.dumps(CLAIM) + '\n')
  outline = Outline(page.build(results))
  assert not outline.open
  assert len(outline.ids) == len({*outline.ids})
  assert {*outline.links} <= {*outline.ids}
  # One of each report.
  assert outline.links.count('top') == 3


def test_claims_come_first_and_link_to_their_reports(results):
  assert 'Claims' not in page.build(results)
  others = [
    {'claim': 'a', 'interval': '', 'paper': '', 'verdict': 'holds'},
    {'claim': 'b', 'group': 'Figure 4', 'report': 'figure4/report.md'},
  ]
  lines = [json.dumps({**CLAIM, **other}) for other in ({}, *others)]
  (results / 'claims.jsonl').write_text('\n'.join(lines) + '\n')
  text = page.build(results)
  assert 'Of 3 claims 1 hold, 2 are undecided, 0 do not hold.' in text
  table = text[text.index('<table class="claims">') :]
  table = table[: table.index('</table>')]
  assert text.index(table) < text.index('<section')
  rows = re.findall(r'<tr>(.*?)</tr>', table)
  cells = [re.findall(r'<t[dh][^>]*>(.*?)</t[dh]>', row) for row in rows]
  assert cells == [
    ['claim', 'paper', 'ours', '95% interval', 'verdict'],
    ['<a href="#table1-laptop">Table 1 (here)</a>'],
    [
      *('GQA &lt; MHA &amp; all', '0.1 points', '0.2 points', '-0.1 to 0.5'),
      'undecided',
    ],
    ['a', '', '0.2 points', '', 'holds'],
    ['<a href="#figure4-report">Figure 4</a>'],
    ['b', '0.1 points', '0.2 points', '-0.1 to 0.5', 'undecided'],
  ]


@pytest.mark.parametrize(
  'change, says',
  [
    ({'verdict': 'so so'}, "claims.jsonl:2 has the verdict 'so so'; give one"),
    ({'paper': 3}, 'claims.jsonl:2 has no string paper; a claim has group'),
  ],
)
def test_a_claim_that_is_malformed_is_named(
  results, tmp_path, capsys, change, says
):
  lines = [json.dumps(CLAIM), json.dumps({**CLAIM, **change})]
  (results / 'claims.jsonl').write_text('\n'.join(lines) + '\n')
  output = tmp_path / 'all.html'
  arguments = ['report', f'--results={results}', f'--output={output}']
  assert cli.main(arguments) == 1
  error = capsys.readouterr().err
  assert says in error and error.count('\n') == 1
  assert not output.exists()


def test_a_plot_that_is_missing_is_named(results, tmp_path, capsys):
  (results / 'figure4' / 'plot.png').unlink()
  output = tmp_path / 'all.html'
  arguments = ['report', f'--results={results}', f'--output={output}']
  assert cli.main(arguments) == 1
  error = capsys.readouterr().err
  assert 'plot.png, which is not there; make the report anew' in error
  assert not output.exists()


@pytest.mark.parametrize('output', ['figure4', 'nowhere/all.html'])
def test_a_page_that_cannot_be_written_is_refused_first(
  results, capsys, output, monkeypatch
):
  def refuse(*args):
    raise AssertionError('the page is made in vain')

  monkeypatch.setattr(page, 'build', refuse)
  before = sorted(results.rglob('*'))
  argv = ['report', f'--results={results}', f'--output={results}/{output}']
  assert cli.main(argv) == 2
  found = capsys.readouterr()
  assert found.out == ''
  assert found.err.startswith(
    f"gqa-flax report: --output: '{results}/{output}' cannot be written ("
  )
  assert found.err.count('\n') == 1
  assert sorted(results.rglob('*')) == before


def test_no_reports_are_said(tmp_path):
  with pytest.raises(FileNotFoundError, match='There are no reports in'):
    page.build(tmp_path)


def test_a_figure_is_the_same_bytes_twice(tmp_path):
  def draw(name):
    figure, axes = plots.new()
    axes.plot([1, 2], [3, 4], label='a line')
    axes.fill_between([1, 2], [2, 3], [4, 5], alpha=0.2)
    axes.legend()
    plots.save(figure, tmp_path / name / 'plot.png')
    return [
      (tmp_path / name / f'plot.{x}').read_bytes() for x in ('png', 'svg')
    ]

  first, second = draw('a'), draw('b')
  assert first == second
  assert first[0].startswith(b'\x89PNG') and b'<svg' in first[1]


def test_a_bar_without_its_pair_stands_on_its_tick(tmp_path, monkeypatch):
  figures = []

  def keep(figure, *args, **options):
    figures.append(figure)

  monkeypatch.setattr(plots, 'save', keep)
  nan = float('nan')
  plots.paired_bars(
    tmp_path / 'plot.png',
    ['alone', 'pair', 'second alone'],
    {'before': [1.0, 2.0, nan], 'after': [nan, 3.0, 4.0]},
    lines={},
    title='',
    xlabel='',
  )
  (axes,) = figures[0].axes
  bars = [
    (bar.get_width(), round(bar.get_y() + bar.get_height() / 2, 3))
    for bars in axes.containers
    for bar in bars
  ]
  assert bars == [(1, 0), (2, 0.8), (3, 1.2), (4, 2)]
