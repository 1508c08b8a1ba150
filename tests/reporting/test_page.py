"""The page of all reports: whole, self-contained, and linked within."""

import base64

import pytest

from gqa_flax import cli
from gqa_flax.reporting import page, plots


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
