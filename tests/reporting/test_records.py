"""Records, tables and plots: what is read back, and the same bytes twice."""

import subprocess

import pytest

from gqa_flax.reporting import plots, records
from gqa_flax.reporting.tables import markdown_table


def test_records_append(tmp_path):
  path = tmp_path / 'a' / 'records.jsonl'
  assert records.read(path) == []
  records.append(path, {'x': 1, 'text': 'Ångström'})
  records.append(path, {'x': 2.5})
  assert records.read(path) == [{'x': 1, 'text': 'Ångström'}, {'x': 2.5}]


def test_every_line_is_a_record_or_is_named(tmp_path):
  path = tmp_path / 'records.jsonl'
  records.append(path, {'text': 'one\u2028record'})
  assert records.read(path) == [{'text': 'one\u2028record'}]
  with open(path, 'a') as file:
    file.write('{"x": ')  # as a kill leaves it
  with pytest.raises(ValueError, match=f'{path}:2 is no record .*; mend or'):
    records.read(path)


def test_provenance_names_versions_and_devices():
  provenance = records.provenance('cpu', 8)
  assert (provenance['device_kind'], provenance['num_devices']) == ('cpu', 8)
  assert provenance['versions']['jax']
  assert len(provenance['git_revision'].removesuffix('-dirty')) == 40


def test_only_what_is_no_result_makes_a_checkout_dirty(tmp_path, monkeypatch):
  def git(*arguments):
    subprocess.run(['git', *arguments], cwd=tmp_path, check=True)

  package = tmp_path / 'gqa_flax' / 'reporting'
  package.mkdir(parents=True)
  (tmp_path / 'results').mkdir()
  code, result = package / 'records.py', tmp_path / 'results' / 'records.jsonl'
  for path in (code, result):
    path.write_text('1\n')
  git('init', '-q')
  git('add', '-A')
  who = ('-c', 'user.name=a', '-c', 'user.email=a@b.c')
  git(*who, 'commit', '-q', '-m', 'first')
  monkeypatch.setattr(records, '__file__', str(code))
  revision = records.git_revision()
  assert len(revision) == 40
  result.write_text('2\n')
  (tmp_path / 'new').write_text('no part of the checkout\n')
  assert records.git_revision() == revision
  code.write_text('2\n')
  assert records.git_revision() == f'{revision}-dirty'


def test_outside_a_checkout_there_is_no_revision(tmp_path, monkeypatch):
  monkeypatch.setattr(records, '__file__', str(tmp_path / 'records.py'))
  monkeypatch.setenv('GIT_CEILING_DIRECTORIES', str(tmp_path.parent))
  assert records.git_revision() is None


def test_table():
  table = markdown_table(
    ['model', 'heads', 'loss'], [['MHA', 8, 1.234], ['MQA', 1, 1234.5]]
  )
  assert table == (
    '| model | heads | loss |\n'
    '| --- | ---: | ---: |\n'
    '| MHA | 8 | 1.23 |\n'
    '| MQA | 1 | 1,234.50 |\n'
  )


def test_ragged_table_is_refused():
  with pytest.raises(ValueError, match='2 values for 1 columns'):
    markdown_table(['a'], [[1, 2]])


def test_plots_are_the_same_bytes_each_time(tmp_path):
  images = []
  for name in ('a.png', 'b.png'):
    plots.paired_bars(
      tmp_path / name,
      ['MHA', 'MQA'],
      {'before': [1.0, 2.0], 'after': [0.9, 1.1]},
      lines={'unigrams': 3.0},
      title='title',
      xlabel='nats',
    )
    images.append((tmp_path / name).read_bytes())
  assert images[0] == images[1]
  assert images[0].startswith(b'\x89PNG')
