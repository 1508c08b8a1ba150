"""The stages against `train_batches`, and the report from made-up records."""

import json
import statistics
from typing import ClassVar

import numpy as np
import pytest

from experiments.input_pipeline import __main__ as experiment
from experiments.input_pipeline import corpus, report, stages, summary
from gqa_flax.data import embedded, tasks

LENGTHS = {'inputs': 64, 'targets': 32}
NUM_EXAMPLES = 40


@pytest.fixture(scope='module')
def vocabulary(tmp_path_factory):
  return embedded.vocabulary(600, tmp_path_factory.mktemp('vocabulary'))


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp('tensorflow_datasets')
  for name in experiment.TASKS:
    corpus.write(folder, name, NUM_EXAMPLES, num_shards=3)
  return folder


@pytest.mark.slow
@pytest.mark.parametrize('name', experiment.TASKS)
def test_the_stages_come_to_what_training_gets(
  name, data_dir, vocabulary, monkeypatch
):
  monkeypatch.setenv('TFDS_DATA_DIR', str(data_dir))
  task = tasks.get_task(name, vocabulary)
  pack = corpus.SHAPES[name].pack
  datasets = stages.datasets(task, LENGTHS, pack)
  assert (*datasets, 'batches') == summary.STAGES
  for stage in ('read', 'text', 'tokenize'):
    assert stages.count(datasets[stage]) == NUM_EXAMPLES
  # Made again: every time it is gone through, another order is drawn.
  rows = stages.datasets(task, LENGTHS, pack)['rows'].batch(
    4, drop_remainder=True
  )
  expected = list(rows.as_numpy_iterator())
  found = list(stages.all_batches(task, LENGTHS, pack, batch_size=4))
  assert len(found) >= NUM_EXAMPLES // 4
  for batch, other in zip(found, expected, strict=True):
    assert batch.keys() == other.keys()
    for key in batch:
      np.testing.assert_array_equal(batch[key], other[key])


@pytest.mark.parametrize('name', experiment.TASKS)
def test_the_lengths_are_the_papers(name):
  lengths = corpus.SHAPES[name].lengths
  batch, text = report.PAPER[name]
  assert text.startswith(f'{lengths["inputs"]}/{lengths["targets"]}')
  assert batch == (2048 if corpus.SHAPES[name].pack else 128)


def test_prose_is_as_long_as_asked_and_the_same_again():
  prose, again = corpus.Prose('x'), corpus.Prose('x')
  assert prose.exactly(7) == again.exactly(7)
  # More than the whole corpus, so that it comes round.
  assert len(prose.exactly(1_500_000).split()) == 1_500_000
  lengths = [len(prose.about(400).split()) for _ in range(2000)]
  assert statistics.mean(lengths) == pytest.approx(400, rel=0.05)
  assert corpus.Prose('y').exactly(7) != corpus.Prose('x').exactly(7)


def rates_record(name, cores, seconds, run=1, repeat=0):
  stage_seconds = dict(zip((*summary.STAGES, 'cached'), seconds))
  return {
    **{'run': run, 'what': 'rates', 'task': name, 'cores': cores},
    'repeat': repeat,
    # On one core the clock waits for other programs.
    'seconds': (
      {stage: 3 * x for stage, x in stage_seconds.items()}
      if cores == 'one'
      else stage_seconds
    ),
    'cpu_seconds': stage_seconds,
    'load': 0.5,
  }


def made_up(name='arxiv', run=1, slower=1.0):
  """Records of a task: 100 examples, 50 rows, two seconds an epoch."""
  common = {'run': run, 'task': name, 'cores': 'all', 'repeat': 0}
  position = {
    'bytes': 3_000_000,
    'save_seconds': 0.25,
    'replay_seconds': 4.0,
    'restore_seconds': 0.125,
    'first_batch_seconds': 0.001,
  }
  seconds = [slower * s for s in (0.1, 0.2, 1.2, 1.6, 1.9, 2.0, 0.5)]
  return [
    {
      **common,
      'what': 'data',
      'vocabulary_sha256': 64 * 'a',
      'processor': 'a processor',
      'provenance': {'cpus': 2},
      **{'examples': 100, 'rows': 50, 'text_words': 540_000},
      **{'text_bytes': 4_000_000, 'text_tokens': 800_000},
      'fed_tokens': 200_000,
    },
    {
      **{**common, 'cores': 'one'},
      'what': 'tokenizer',
      'cpu_seconds': {'sentencepiece': 0.5, 'operation': 0.8},
    },
    *(
      rates_record(name, cores, [factor * s for s in seconds], run, repeat)
      for cores in ('one', 'all')
      for repeat, factor in enumerate((1.0, 0.5, 2.0))
    ),
    {
      **common,
      'what': 'position',
      'steps': {
        '200': {**position, 'restore_seconds': 0.25, 'replay_seconds': 9.0},
        '10': position,
      },
    },
  ]


def write_records(folder, found):
  folder.mkdir(exist_ok=True)
  lines = [json.dumps(record) + '\n' for record in found]
  (folder / 'records.jsonl').write_text(''.join(lines))


def test_shares_by_hand_and_their_sum():
  (task,) = summary.tasks(made_up())
  assert task.shares() == pytest.approx(
    dict(zip(summary.STAGES, (0.05, 0.05, 0.5, 0.2, 0.15, 0.05)))
  )
  # Two seconds for 50 rows are 40 ms each.
  assert task.cores_needed(128) == pytest.approx(128 * 0.04)
  assert task.cores_needed(128, 'cached') == pytest.approx(128 * 0.01)
  assert task.steps() == ['10', '200']
  rate = task.seconds('batches').per_second(100)
  assert (rate.median, rate.low, rate.high) == (50, 25, 100)


def test_shares_sum_to_one_where_a_part_measured_slower_than_the_whole():
  found = [
    *(record for record in made_up() if record['what'] != 'rates'),
    rates_record('arxiv', 'one', (0.1, 0.3, 2.2, 1.6, 2.1, 2.0, 0.5)),
    rates_record('arxiv', 'all', (0.1, 0.2, 1.2, 1.6, 1.9, 2.0, 0.5)),
  ]
  (task,) = summary.tasks(found)
  assert task.shares() == pytest.approx(
    dict(zip(summary.STAGES, (0.05, 0.1, 0.65, 0, 0.2, 0)))
  )
  assert sum(task.shares().values()) == pytest.approx(1)


def test_the_report_is_the_same_again_and_of_the_last_run(tmp_path):
  found = [
    *made_up(run=1, slower=3.0),
    *made_up(run=2),
    *made_up('c4_span_corruption', run=2),
  ]
  for folder in (tmp_path / 'a', tmp_path / 'b'):
    write_records(folder, found)
    report.write(folder)
  for name in ('report.md', 'stages.png'):
    first = (tmp_path / 'a' / name).read_bytes()
    assert first == (tmp_path / 'b' / name).read_bytes()
  text = (tmp_path / 'a' / 'report.md').read_text()
  assert '| arxiv | 5,400 | 2048/512 | 50.0 (25.0 to 100)' in text
  assert 'an epoch took 3.00 times as long' in text
  # Four megabytes: 8 MB/s, 5 MB/s, and one second in the pipeline.
  assert '| arxiv | 8.00 (8.00 to 8.00) | 5.00 (5.00 to 5.00) | 4.00 |' in text
  assert '| arxiv | 20,000 | 5% | 5% | 50% | 20% | 15% | 5% |' in text
  assert '| arxiv | 128 | 40,000 | 5.12 | 10,000 | 1.28 |' in text
  assert '2.0 to 2.0 times as long as restoring early' in text
  assert 'cores in all at a step a second' in text
  assert 'The dearest is c4_span_corruption: 81.92 cores' in text


def test_no_report_of_tasks_half_measured(tmp_path):
  write_records(tmp_path, made_up()[:-1])
  with pytest.raises(SystemExit, match='no task with records of every kind'):
    report.write(tmp_path)


class NoWorkers:
  """Takes calls in place of the processes that measure."""

  calls: ClassVar[list] = []

  def __init__(self, folder):
    assert folder.is_dir()

  def call(self, cores, data, function, *arguments):
    self.calls.append((cores, data, function, *arguments))
    return {'found': len(self.calls)}

  def close(self):
    pass


def test_a_run_goes_on_where_it_stopped(tmp_path, monkeypatch):
  monkeypatch.setattr(experiment, 'Workers', NoWorkers)
  monkeypatch.setattr(NoWorkers, 'calls', [])
  path = tmp_path / 'records.jsonl'
  todo = list(experiment.cells(['arxiv'], 2, 1))
  assert len(todo) == len(set(todo)) == 1 + 2 * 3 + 1
  vocabulary_file = tmp_path / 'secret_folder.model'
  vocabulary_file.write_bytes(b'pieces')
  experiment.run(path, todo[:3], str(vocabulary_file), 1)
  before = path.read_text()
  assert before.count('\n') == 3
  NoWorkers.calls.clear()
  experiment.run(path, todo, str(vocabulary_file), 1)
  # The data is written again, for it lay in a temporary folder.
  file = str(vocabulary_file)
  assert NoWorkers.calls[:2] == [
    ('all', 'measured', 'describe', 'arxiv', file),
    ('all', 'measured', 'rates', 'arxiv', file),
  ]
  assert path.read_text().startswith(before)
  assert path.read_text().count('\n') == len(todo)
  # Another run, or another vocabulary, measures all of it.
  experiment.run(path, todo, file, 2)
  experiment.run(path, todo, None, 2)
  assert path.read_text().count('\n') == 3 * len(todo)
  assert 'secret_folder' not in path.read_text()
