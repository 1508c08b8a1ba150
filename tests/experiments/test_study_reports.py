"""The laptop's reports: from made-up records, and the same bytes twice."""

import pytest

from experiments import (
  appendix_a_stability,
  figure3_tradeoff,
  figure4_checkpoint_conversion,
  figure5_uptraining_proportion,
  figure6_num_groups,
  overview,
  table1_main_results,
)
from experiments.study import command
from experiments.study.cells import Timing
from experiments.study.scales import LAPTOP
from gqa_flax.config import T5Config
from gqa_flax.timing.decoding import Decoding
from gqa_flax.timing.measure import Measurement
from gqa_flax.timing.spread import Spread

SCRIPTS = (
  appendix_a_stability,
  figure3_tradeoff,
  figure4_checkpoint_conversion,
  figure5_uptraining_proportion,
  figure6_num_groups,
  table1_main_results,
)
# Nats above the multi-head model, before and after uptraining, by heads.
_METHODS = {'none': 0, 'subspace': 0.5, 'aligned': 0.7, 'mean': 1, 'first': 2}


def uptraining(cell):
  """Losses that fall by half of what is left in every 2.5%."""
  above = _METHODS.get(cell.method, 3) * (8 / cell.num_kv_heads) ** 0.1
  steps = round(100 * cell.alpha)
  return {
    'losses': [
      [a / 100, 3 + above * 0.5 ** (a / 2.5) + 0.001 * cell.seed]
      for a in range(steps + 1)
    ]
  }


def finetuning(cell):
  """More heads score higher; the losses of MQA have a spike in each seed."""
  K, metric = cell.start.num_kv_heads, LAPTOP.tasks[cell.task].metric
  small = cell.start.size == 'laptop_small'
  losses = [[50 * i, 3 - 0.1 * i] for i in range(6)]
  losses[3][1] = 4.0 if K == 1 else losses[3][1]
  score = 20 + 0.1 * K + 0.01 * cell.start.seed - 5 * small
  return {
    'scores': {f'test/{metric}': score},
    'losses': losses,
    'held_out': [[250, 9.0], [300, 5 - 0.01 * score]],
  }


def timing(cell):
  """A step takes as many ms as there are heads."""
  K = cell.num_kv_heads
  config = T5Config.t5_1_1('mini', num_heads=8, num_kv_heads=K)
  source, target = cell.lengths
  decoding = Decoding(config, cell.batch_size, source, target, cell.batch_size)
  spread = Spread(0.128 * K, 0.12 * K, 0.13 * K)
  nothing = Spread(0.0, 0.0, 0.0)
  measured = Measurement(
    decoding, (1, 1, 1), 'cpu', 7, nothing, nothing, spread, 1.0, 1
  )
  return {'measurement': {'measurement': measured.to_dict()}}


def from_scratch(cell):
  return {'losses': [[50, 6.0], [100, 5.0 + cell.seed]]}


NUMBERS = {
  f.__name__: f for f in (uptraining, finetuning, timing, from_scratch)
}


@pytest.fixture(scope='module')
def found():
  return {
    cell.name: NUMBERS[cell.kind](cell)
    for script in SCRIPTS
    if hasattr(script, 'cells')
    for cell in script.cells(LAPTOP)
  }


def read(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda s: s.__name__)
def test_the_same_records_give_the_same_bytes(script, found, tmp_path):
  for name in 'ab':
    (tmp_path / name).mkdir()
    script.report(found, tmp_path / name)
  files = read(tmp_path / 'a')
  assert files == read(tmp_path / 'b')
  assert {name.rpartition('.')[2] for name in files} >= {'md', 'csv'}


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda s: s.__name__)
def test_a_report_without_records_says_nothing(script, tmp_path):
  script.report({}, tmp_path)
  for path in tmp_path.glob('*.md'):
    assert '±' not in path.read_text()


@pytest.mark.parametrize('seeds, reports', [((0, 1), False), ((0, 2), True)])
def test_there_is_no_report_before_the_last_seed(
  seeds, reports, found, tmp_path
):
  script = figure5_uptraining_proportion.SCRIPT
  some = {
    name: record
    for name, record in found.items()
    if int(name.rpartition('/')[2]) in seeds
  }
  folder = tmp_path / 'figure5'
  command.redraw(script, some, tmp_path / 'none.jsonl', folder)
  assert folder.exists() == reports


def text(script, found, folder, name='report.md'):
  script.report(found, folder)
  return (folder / name).read_text()


def test_figure4_compares_methods(found, tmp_path):
  report = text(figure4_checkpoint_conversion, found, tmp_path)
  assert (
    '- Holds: at alpha 0, mean is better than first for MQA by 1.231 nats.'
  ) in report
  assert '| 1 | mean | 4.232 ± 0.002 |' in report
  worse = {
    name: uptraining_worse(record) if '/first/' in name else record
    for name, record in found.items()
  }
  (tmp_path / 'b').mkdir()
  report = text(figure4_checkpoint_conversion, worse, tmp_path / 'b')
  assert (
    '- **Does not hold**: at alpha 0, mean is better than first for MQA by -'
  ) in report


def uptraining_worse(record):
  """Losses of a method that is better than any other."""
  return {'losses': [[a, loss - 4] for a, loss in record['losses']]}


def test_figure5_says_what_subspace_saves(found, tmp_path):
  report = text(figure5_uptraining_proportion, found, tmp_path)
  # It begins with half as much to lose, which mean loses in 2.5 of 5%; between
  # evaluations at 2% and 3% the curve is taken to be straight.
  assert (
    '- Holds: for MQA, our subspace needs less uptraining to reach the loss '
    'that mean has at alpha 0.05; it needs 49%, 49%, 49% less. It is there at '
    'alpha 0.0253, 0.0253, 0.0253, seed by seed'
  ) in report
  assert 'Holds: MQA gains more from the first 5% than from the next' in report
  # By the mean 4 ** 0.1 nats above the multi-head model, and 8 ** 0.1; the
  # paper's readings are 0.8 and 3.6 points below it.
  assert '**Does not hold**: GQA-2 is usable as soon' in report
  assert '; it has lost 93% (paper: 22%).' in report


def test_figure6_sets_times_beside_losses(found, tmp_path):
  report = text(figure6_num_groups, found, tmp_path, 'laptop.md')
  assert (
    'Holds: more key/value heads never take less time, without the encoder: 2 '
    'take 2.00, 4 take 4.00, 8 take 8.00 times as long as 1 (paper: 8 take 1.04'
  ) in report
  # 0.128 s of 32 sequences and 128 steps.
  assert '| 1 | 0.004 |' in report
  assert '1.00 |' in report
  # 4 ** 0.1 and 8 ** 0.1 nats, halved twice, by the mean; 8 heads have none.
  lower = 'key/value heads have a lower loss than'
  assert f'- Holds: 2 {lower} 1 after uptraining by 0.021' in report
  assert f'- Holds: 8 {lower} 4 after uptraining by 0.268' in report
  slow = {
    **found,
    Timing('laptop', 1).name: found[Timing('laptop', 8).name],
  }
  report = text(figure6_num_groups, slow, tmp_path, 'laptop.md')
  assert '**Does not hold**: more key/value heads never take less' in report


def test_table1_averages_tasks_seed_by_seed(found, tmp_path):
  report = text(table1_main_results, found, tmp_path, 'laptop.md')
  assert '| MQA | 0.004 | 20.11 ± 0.02 | 20.11 ± 0.02 |' in report
  assert (
    '- Holds: MHA scores above small MHA by 5.40 points (paper: 1.2 points).'
  ) in report
  # A hundredth of a score is worth a nat, at the end alone.
  assert '20.11 ± 0.02 | 4.799 ± 0.000 | 4.799' in report
  assert "Holds: MHA's loss is below that of small MHA by 0.054 nats" in report
  assert 'MQA decodes faster than MHA; it is 8.00 times as fast' in report
  assert (
    'Holds: MQA decodes faster than small MHA; it takes 0.25 times as long '
    '(paper: 0.65 times as long).'
  ) in report
  without = {k: x for k, x in found.items() if 'verse_translation' not in k}
  report = text(table1_main_results, without, tmp_path, 'laptop.md')
  assert '| MQA | 0.004 |  | 20.11 ± 0.02 |  |  | 4.799 ± 0.000 |  |' in report


def test_spikes_are_counted_by_the_rule(found, tmp_path):
  def count(*losses):
    return appendix_a_stability.spikes([*enumerate(losses)])

  assert count(3.0, 2.0, 2.19, 2.2, 1.0, 1.5, 1.0) == 2
  assert count(3.0, 2.0, 1.0) == 0
  report = text(appendix_a_stability, found, tmp_path)
  assert '| fine-tuning, verse_translation | MQA | 3 | 1, 1, 1 |' in report
  assert '| from scratch | MHA | 3 | 0, 0, 1 |' in report
  assert '| from scratch | MQA | 3 | 0, 0, 1 |' in report
  assert (
    '- **Does not hold**: from scratch, more runs of MQA than of MHA have a '
    'spike of the training loss; 1 of 3, against 1 of 3'
  ) in report
  assert (
    'MQA is fine-tuned without a spike; spikes are in 6 of 6 runs' in report
  )
  assert 'Holds: GQA-2 is fine-tuned without a spike; spikes are in 0' in report
  spike = {'losses': [[50, 3.0], [100, 4.0]]}
  found = {
    k: spike if k.startswith('from_scratch/laptop/1/') else x
    for k, x in found.items()
  }
  report = text(appendix_a_stability, found, tmp_path)
  assert '- Holds: from scratch, more runs of MQA' in report
  assert 'training loss; 3 of 3, against 1 of 3' in report


def test_the_overview_says_what_holds_and_what_is_missing(found, tmp_path):
  scripts = [script.SCRIPT for script in SCRIPTS]
  for script in scripts:
    (tmp_path / script.results_dir.name).mkdir()
    script.report(found, tmp_path / script.results_dir.name)
  times = tmp_path / 'none.jsonl'
  overview.write(tmp_path, scripts, {'laptop': found}, times)
  text = (tmp_path / 'README.md').read_text()
  assert 'are recorded' not in text
  for script in scripts:
    for claim in script.claims(found):
      assert f'\n{claim.sentence()}\n' in text
  plot = 'figure4_checkpoint_conversion/conversion.png'
  assert f']({plot})' in text and (tmp_path / plot).exists()
  some = {k: x for k, x in found.items() if '/random/' not in k}
  overview.write(tmp_path, scripts, {'laptop': some}, times)
  text = (tmp_path / 'README.md').read_text()
  assert text.count("27 of 33 cells at the laptop's scale are recorded") == 1
