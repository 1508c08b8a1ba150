"""What the paper's tables and figures share: jobs, cells, records, budgets."""

import itertools
import json

import numpy as np
import pytest
import scipy.stats

from experiments import (
  appendix_a_stability,
  figure4_checkpoint_conversion,
  figure5_uptraining_proportion,
  figure6_num_groups,
  table1_main_results,
)
from experiments.study import budget, command, grid, results
from experiments.study.cells import FineTuning, FromScratch, Timing, Uptraining
from experiments.study.scales import LAPTOP, PAPER
from experiments.study.spread import Seeds
from gqa_flax import cli
from gqa_flax.reporting import records

SCRIPTS = (
  appendix_a_stability,
  figure4_checkpoint_conversion,
  figure5_uptraining_proportion,
  figure6_num_groups,
  table1_main_results,
)


@pytest.mark.parametrize('scale', [PAPER, LAPTOP], ids=lambda s: s.name)
def test_names_and_folders_tell_all_cells_apart(scale):
  """Of all scripts; a job with one result is one command everywhere."""
  cells, commands = {}, {}
  for cell in itertools.chain(*(script.cells(scale) for script in SCRIPTS)):
    assert cells.setdefault(cell.name, cell) == cell
    for job in cell.jobs(scale):
      assert commands.setdefault(job.done, str(job)) == str(job)
  assert len(cells) > 20


def test_every_cell_of_the_laptops_has_its_record():
  study = grid.Grid(LAPTOP)
  cells = [cell for script in SCRIPTS for cell in script.cells(LAPTOP)]
  assert [cell.name for cell in study.missing(cells)] == []
  assert len(LAPTOP.seeds) == 3
  for record in study.found().values():
    assert record['seconds'] >= 0
    # A job that measures time keeps both with what it measured.
    kept = (
      [record['measurement']] if 'measurement' in record else record['jobs']
    )
    for run in kept:
      assert run['gin'] and run['provenance']['git_revision']


@pytest.mark.parametrize('scale', [PAPER, LAPTOP], ids=lambda s: s.name)
def test_gin_accepts_every_kind_of_job(scale, capsys, monkeypatch):
  # It is slow.
  monkeypatch.setattr('gqa_flax.cli.jobs._print_plan', lambda args: None)
  size = next(reversed(scale.models))
  start = Uptraining(size, 1, 'subspace')
  jobs = [*FromScratch(size, 1, 10).jobs(scale), *Timing(size, 1).jobs(scale)]
  for task in scale.tasks:
    jobs += FineTuning(start, task).jobs(scale)
  for job in {job.done: job for job in jobs}.values():
    arguments = [a for a in job.arguments if not a.startswith('--output')]
    assert cli.main([*arguments, '--dry_run']) == 0, capsys.readouterr().err
    operative = capsys.readouterr().out
    for name, value in job.bindings.items():
      assert f'{name} = ' in operative and str(value).strip("'{") in operative


def test_fine_tuning_begins_where_uptraining_was_at_the_alpha(tmp_path):
  start = Uptraining('laptop', 2, 'mean', seed=1, alpha=0.1)
  uptrain = start.jobs(LAPTOP)[-1]
  finetune = FineTuning(start, 'verse_translation').jobs(LAPTOP)[-2]
  checkpoint = finetune.bindings['INITIAL_CHECKPOINT_PATH']
  folder, step = checkpoint.rsplit('/checkpoint_', 1)
  assert folder == uptrain.bindings['MODEL_DIR']
  steps = LAPTOP.pretraining_steps
  assert int(step) == round(1.05 * steps)
  # A checkpoint is written there, and kept.
  assert (int(step) - steps) % uptrain.bindings['EVALUATE_EVERY'] == 0
  assert uptrain.bindings['KEEP_CHECKPOINTS'] is None
  at_once = FineTuning(start, 'verse_translation', alpha=0.0).jobs(LAPTOP)[-2]
  converted = start.jobs(LAPTOP)[0].bindings['OUTPUT']
  assert at_once.bindings['INITIAL_CHECKPOINT_PATH'] == converted


def test_alphas_of_the_losses(tmp_path, monkeypatch):
  cell = Uptraining('laptop', 2, 'mean', alpha=0.1)
  monkeypatch.chdir(tmp_path)
  log = tmp_path / cell.folder(LAPTOP) / 'metrics.jsonl'
  log.parent.mkdir(parents=True)
  steps = LAPTOP.pretraining_steps
  log.write_text(
    ''.join(
      json.dumps(line) + '\n'
      for line in (
        {'step': steps, 'validation/cross_entropy': 3.0},
        {'step': steps + 50, 'loss': 2.5},
        {'step': steps * 105 // 100, 'validation/cross_entropy': 2.0},
      )
    )
  )
  assert cell.numbers(LAPTOP) == {'losses': [[0.0, 3.0], [0.05, 2.0]]}


def test_numbers_of_a_fine_tuning(tmp_path, monkeypatch):
  cell = FineTuning(Uptraining('laptop', 2, 'mean'), 'verse_translation')
  monkeypatch.chdir(tmp_path)
  folder = tmp_path / LAPTOP.work_dir / cell.name
  (folder / 'test').mkdir(parents=True)
  (folder / 'test' / 'scores.json').write_text('{"test/bleu": 7.0}')
  (folder / 'metrics.jsonl').write_text(
    '{"step": 50, "loss": 2.5}\n'
    '{"step": 75, "validation/cross_entropy": 3.0, "validation/bleu": 1.0}\n'
  )
  assert cell.numbers(LAPTOP) == {
    'scores': {'test/bleu': 7.0},
    'losses': [[50, 2.5]],
    'held_out': [[75, 3.0]],
  }


def test_interval_over_seeds():
  values = [1.0, 2.0, 4.5]
  seeds = Seeds.of(values)
  low, high = scipy.stats.t.interval(
    0.95, 2, np.mean(values), scipy.stats.sem(values)
  )
  assert seeds.mean - seeds.half_width == pytest.approx(low)
  assert seeds.mean + seeds.half_width == pytest.approx(high)
  # What all seeds share falls out of a difference.
  other = Seeds.of([x + 1 for x in values])
  assert other.minus(seeds).half_width == pytest.approx(0)
  assert other.minus(seeds).verdict == 'holds'
  assert seeds.minus(other).verdict == 'does not hold'
  assert Seeds.of([-1.0, 1.1, 0.2]).verdict == 'undecided'
  assert Seeds.of([3.0]).shown() == '3.000'
  # There is no interval where nothing was drawn.
  assert Seeds.of([3.0, 3.0]).shown() == '3.000'
  assert Seeds.of([3.0, 3.0]).interval() == ''
  assert Seeds.of([3.0]).interval() == ''
  assert Seeds.of([3.0, 3.5]).interval(1) == '0.1 to 6.4'
  assert Seeds.of([3.0, 3.5]).shown(1) == '3.2 ± 3.2'


@pytest.mark.parametrize(
  'level, alpha', [(4.0, 0.0), (3.0, 0.01), (2.5, 0.015), (1.0, None)]
)
def test_where_a_curve_reaches_a_level(level, alpha):
  found = results.reached_at({0.0: 4.0, 0.01: 3.0, 0.02: 2.0}, level)
  assert found == (alpha if alpha is None else pytest.approx(alpha))


def test_the_budget_of_the_compiled_step_is_its_time():
  start = Uptraining('xxl', 8, 'mean')
  _, uptrain, finetune, score = FineTuning(start, 'arxiv').jobs(PAPER)
  (recorded,) = [
    r
    for r in records.read(budget.SCALE_RECORDS)
    if (r['job'], r['slice']) == ('uptraining', budget.SLICE)
  ]
  found = budget.budget(uptrain)
  assert found.is_compiled and found.steps == 50_000
  assert found.flops == 50_000 * recorded['model_flops']
  assert found.mesh == tuple(recorded['mesh'])
  assert found.chip_hours == pytest.approx(
    50_000 * found.step_seconds * 64 / 3600
  )
  assert budget.budget(finetune).is_compiled  # 2048/512, batch 128
  assert budget.budget(score) is None
  # Fewer heads, fewer FLOPs, at the same utilisation.
  mqa = budget.budget(Uptraining('xxl', 1, 'mean').jobs(PAPER)[1])
  assert not mqa.is_compiled
  assert mqa.chip_hours / found.chip_hours == pytest.approx(
    mqa.flops / found.flops
  )
  assert 0.9 < mqa.chip_hours / found.chip_hours < 1


def test_the_paper_s_chip_days_are_of_as_many_steps_as_it_took():
  short, long = (
    budget.budget(Uptraining('xxl', 8, 'mean', alpha=alpha).jobs(PAPER)[1])
    for alpha in (0.05, 0.1)
  )
  assert long.flops == pytest.approx(2 * short.flops)
  expected = short.flops / (600 * 86400 * budget.V3_PEAK_FLOPS)
  for found in (short, long):
    assert budget.paper_utilisation(found, 50_000) == pytest.approx(expected)


def test_a_dry_run_says_each_job_once_and_what_all_take():
  text = command.dry_run(PAPER, figure4_checkpoint_conversion.cells(PAPER))
  assert text.count('gqa-flax \\\n  convert') == 3
  assert text.count('runs/uptrain.gin') == 3
  assert text.count('runs/finetune.gin') == text.count('runs/evaluate.gin') == 9
  assert 'In all' in text and 'chip-hours' in text


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda s: s.__name__)
def test_every_script_prints_its_jobs_at_the_paper_s_scale(script, capsys):
  assert command.main(script.SCRIPT, ['--scale', 'paper', '--dry_run']) == 0
  text = capsys.readouterr().out
  training = text.count('gqa-flax \\\n  train')
  assert text.count('chip-hours of v4, by') == training
  assert (training > 0) == bool(script.cells(PAPER))
  estimates = script.SCRIPT.estimates and script.SCRIPT.estimates.cells
  assert text.count('# compiled and estimated here: decoding of ') == (
    len({cell.name for cell in estimates()}) if estimates else 0
  )


def test_the_list_and_the_choice_of_cells(tmp_path, capsys):
  path = tmp_path / 'records.jsonl'
  first = figure4_checkpoint_conversion.cells(LAPTOP)[0]
  records.append(
    path, {'scale': 'laptop', 'cell': first.name, 'status': grid.DONE}
  )
  script = command.Script(
    'about',
    tmp_path,
    figure4_checkpoint_conversion.cells,
    figure4_checkpoint_conversion.report,
    figure4_checkpoint_conversion.claims,
  )
  arguments = ['--list', f'--records={path}']
  assert command.main(script, arguments) == 0
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 33 and lines[0] == f'done    {first.name}'
  assert all(line.startswith('missing') for line in lines[1:])
  assert command.main(script, [*arguments, '--only', 'random', 'first']) == 0
  assert len(capsys.readouterr().out.splitlines()) == 12
  for options, sentence in (
    (
      ['--list', '--only', 'secnd'],
      '--only secnd is in the name of no cell at',
    ),
    (['--report', f'--records={tmp_path}/no'], '/no is not there: nothing to'),
  ):
    with pytest.raises(SystemExit):
      command.main(script, options)
    assert sentence in capsys.readouterr().err


def test_estimates_are_chosen_by_name_too(tmp_path, capsys):
  script = table1_main_results.SCRIPT
  empty = f'--decode_times={tmp_path}/none.jsonl'

  def chosen(*parts):
    argv = ['--scale=paper', '--list', empty, '--only', *parts]
    assert command.main(script, argv) == 0
    return capsys.readouterr().out.splitlines()

  assert all('decoding of MQA-XXL' in line for line in chosen('MQA-XXL'))
  assert len(chosen('times')) == len(table1_main_results.estimates())
  assert not any('decoding of' in line for line in chosen('trivia_qa'))
