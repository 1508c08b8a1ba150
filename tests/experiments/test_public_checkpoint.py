"""The public checkpoint's study: its grid, and a report of made-up records."""

import json

import pytest

from experiments import (
  figure4_checkpoint_conversion,
  figure5_uptraining_proportion,
  public_checkpoint,
  table1_main_results,
)
from experiments.study import command
from experiments.study.cells import FineTuning, Uptraining
from experiments.study.scales import LAPTOP
from experiments.study.scales import PUBLIC_CHECKPOINT as SCALE
from gqa_flax import cli

# The share of the multi-head score that is lost, by method.
LOST = {'none': 0.0, 'subspace': 0.05, 'aligned': 0.2, 'mean': 0.5}


def record(cell):
  """Scores that halve their distance to MHA's 40 with any uptraining."""
  lost = LOST[cell.start.method] / (2 if cell.alpha else 1)
  score = 40 * (1 - lost) + 0.1 * cell.start.seed
  metrics = [SCALE.tasks[cell.task].metric, *SCALE.tasks[cell.task].also]
  return {'scores': {f'test/{metric}': score for metric in metrics}}


@pytest.fixture(scope='module')
def found():
  return {
    cell.name: record(cell)
    for cell in public_checkpoint.cells(SCALE)
    if cell.kind == 'finetuning'
  }


def test_the_grid_is_three_seeds_of_each_model_and_task():
  tuned = [c for c in public_checkpoint.cells(SCALE) if c.kind == 'finetuning']
  assert (
    len({cell.name for cell in tuned}) == len(tuned) == 3 * 2 * (10 + 2 * 4)
  )
  # What is only converted comes first, and a seed of all before the next.
  order = [(cell.alpha > 0, cell.start.seed) for cell in tuned]
  assert order == sorted(order)
  for cell in tuned:
    commands = [job.command for job in cell.jobs(SCALE)]
    uptrained = ['train'] * (cell.alpha > 0)
    assert commands == ['convert', *uptrained, 'train', 'evaluate']


def test_alpha_counts_from_the_checkpoints_own_step():
  start = Uptraining('public', 1, 'mean', 0, 0.0004)
  convert, uptrain = start.jobs(SCALE)
  assert uptrain.bindings['TRAIN_STEPS'] == 1_198_400 and uptrain.steps == 400
  assert convert.bindings['OPTIMIZER_STATE'] == 'reset'
  assert start.checkpoint(SCALE, 0.0001).endswith('checkpoint_1198100')
  finetune = FineTuning(start, 'verse_translation', 0.0004).jobs(SCALE)[2]
  assert finetune.bindings['TRAIN_STEPS'] == 1_198_520
  # The other scales count as before.
  assert LAPTOP.step(0.05) == 12_600 and LAPTOP.step(0) == 12_000


def test_predictions_are_scored_by_the_other_metric_too(tmp_path, monkeypatch):
  cell = FineTuning(
    Uptraining('public', 1, 'mean', 0, 0.0), 'verse_translation', 0.0
  )
  monkeypatch.chdir(tmp_path)
  folder = tmp_path / SCALE.work_dir / cell.name / 'test'
  folder.mkdir(parents=True)
  scores = {'step': 1, 'num_examples': 2, 'test/bleu': 12.5}
  (folder / 'scores.json').write_text(json.dumps(scores))
  lines = [
    {'inputs': 'x', 'target': t, 'prediction': t} for t in ('ein Wort', 'zwei')
  ]
  (folder / 'predictions.jsonl').write_text(
    ''.join(json.dumps(line) + '\n' for line in lines)
  )
  numbers = cell.numbers(SCALE)
  assert numbers['scores']['test/bleu'] == 12.5
  assert numbers['scores']['test/chrf'] == pytest.approx(100)


def test_the_report_answers_three_questions(found, tmp_path):
  public_checkpoint.report(found, tmp_path)
  text = (tmp_path / 'report.md').read_text()
  # 40, 40.1 and 40.2: 0.1 * 4.303 / 3 ** 0.5 = 0.25.
  assert '| MHA | 0 | 40.10 ± 0.25 |' in text
  assert '| MQA, mean | 0 | 20.10 ± 0.25 |' in text
  assert '| MQA, subspace | 0.0004 | 39.10 ± 0.25 |' in text
  # 50.0, 50.125 and 50.249 percent of it, seed by seed.
  row = next(x for x in text.splitlines() if x.startswith('| MQA, mean | 0 |'))
  assert row.endswith('| 50.1 ± 0.3 |')
  usable = 'is usable at once: without uptraining it keeps at least 90%'
  assert f'- **Does not hold**: MQA by mean {usable}' in text
  assert f'- Holds: MQA by subspace {usable}' in text
  assert 'it keeps 50.1% (95% interval' in text
  # 38 against 30.
  assert (
    '- Holds: GQA-2 by subspace, not uptrained, scores above the mean '
    'uptrained to alpha 0.0004 by 8.00 points'
  ) in text
  before = text
  public_checkpoint.report(found, tmp_path)
  assert (tmp_path / 'report.md').read_text() == before
  csv = (tmp_path / 'scores.csv').read_text().splitlines()
  assert len(csv) == 1 + 3 * 18 * 3


def test_there_is_no_report_before_the_last_seed(found, tmp_path):
  some = {name: x for name, x in found.items() if not name.endswith('/2')}
  for records, reports in ((some, False), (found, True)):
    command.redraw(
      public_checkpoint.SCRIPT, records, tmp_path / 'none', tmp_path / 'r'
    )
    assert (tmp_path / 'r').exists() == reports
  public_checkpoint.report({}, tmp_path)
  assert '±' not in (tmp_path / 'report.md').read_text()


def test_gin_accepts_every_kind_of_job(capsys, monkeypatch):
  # It is slow.
  monkeypatch.setattr('gqa_flax.cli.jobs._print_plan', lambda args: None)
  start = Uptraining('public', 1, 'subspace', 0, 0.0004)
  jobs = {
    job.done: job
    for task in SCALE.tasks
    for job in FineTuning(start, task, 0.0004).jobs(SCALE)
  }
  for job in jobs.values():
    assert cli.main([*job.arguments, '--dry_run']) == 0, capsys.readouterr().err
    operative = capsys.readouterr().out
    for name, value in job.bindings.items():
      assert f'{name} = ' in operative and str(value).strip("'{") in operative


@pytest.mark.parametrize(
  'script, in_it, not_in_it',
  [
    (
      figure4_checkpoint_conversion,
      'finetuning/verse_translation/0/uptraining/public/1/aligned/0/2',
      'finetuning/verse_translation/0/uptraining/public/6/none/0/2',
    ),
    (
      figure5_uptraining_proportion,
      'finetuning/verse_translation/0.0001/uptraining/public/1/mean/0.0004/0',
      'finetuning/verse_translation/0/uptraining/public/3/mean/0/0',
    ),
    (
      table1_main_results,
      'timing/public/3/96/16/16',
      'finetuning/verse_translation/0/uptraining/public/1/subspace/0/0',
    ),
  ],
)
def test_the_papers_scripts_run_their_part(
  script, in_it, not_in_it, tmp_path, capsys
):
  records = tmp_path / 'records.jsonl'
  options = ['--scale', 'public', f'--records={records}']
  assert command.main(script.SCRIPT, [*options, '--list']) == 0
  names = {line.split()[1] for line in capsys.readouterr().out.splitlines()}
  everything = {cell.name for cell in public_checkpoint.cells(SCALE)}
  assert in_it in names < everything and not_in_it in everything - names


def test_the_papers_scripts_redraw_this_report(found, tmp_path):
  records = tmp_path / 'records.jsonl'
  lines = [
    json.dumps({'scale': 'public', 'cell': name, 'status': 'done', **record})
    for name, record in found.items()
  ]
  records.write_text('\n'.join(lines) + '\n')
  command.main(
    figure4_checkpoint_conversion.SCRIPT,
    ['--scale=public', '--report', f'--records={records}']
    + [f'--results_dir={tmp_path / "reports"}'],
  )
  text = (tmp_path / 'reports' / 'report.md').read_text()
  assert '| MHA | 0 | 40.10 ± 0.25 |' in text
