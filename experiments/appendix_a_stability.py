"""Appendix A: is training stable?

The paper's claim: MQA trained from scratch is unstable (T5-Large: loss spikes
in pre-training, and fine-tuning on long inputs diverges at once); uptrained MQA
is steadier but varies, so that unstable tasks average three fine-tuning runs;
GQA appears to be stable.

  python -m experiments.appendix_a_stability
  python -m experiments.appendix_a_stability --scale paper --dry_run
  python -m experiments.appendix_a_stability --report

At the laptop's scale: MHA and MQA from scratch for an eighth of the
pre-training, with three seeds each, and the fine-tuning of Table 1's larger
models, by the spikes of the training loss.

The rule: a spike is a logged loss, the mean of 50 steps, that is at least 10%
above the lowest logged before.

Hardware: two CPU cores, 50 minutes after the cells of figure5 and table1.
"""

import pathlib
import sys
from collections.abc import Sequence

from experiments import table1_main_results
from experiments.study import command
from experiments.study.cells import FromScratch
from experiments.study.claims import NO_NUMBER, Claim, verdict
from experiments.study.results import COLORS, Found
from experiments.study.scales import LAPTOP, Scale
from experiments.study.spread import Seeds
from gqa_flax.reporting import plots
from gqa_flax.reporting.tables import csv_table, markdown_table, paragraph

MODEL = LAPTOP.models['laptop']
RESULTS = pathlib.Path('results/appendix_a_stability')
SPIKE = 1.1
_SCRATCH, _TUNED = 'from scratch', 'fine-tuning'


def from_scratch(scale: Scale) -> list[FromScratch]:
  """Returns multi-head and multi-query models, a seed of both at a time."""
  if scale.name == 'paper':
    size, steps, heads = 'large', scale.pretraining_steps, (1,)
  else:
    size, steps, heads = 'laptop', scale.pretraining_steps // 8, (8, 1)
  return [
    FromScratch(size, K, steps, seed) for seed in scale.seeds for K in heads
  ]


def cells(scale: Scale) -> list:
  """Returns the grid."""
  if scale.name == 'paper':
    return from_scratch(scale)
  return [*from_scratch(scale), *_tuned()]


def _tuned():
  return [
    cell
    for cell in table1_main_results.cells(LAPTOP)
    if cell.kind == 'finetuning' and cell.start.size == 'laptop'
  ]


def _curves(found: Found):
  return {
    cell: [tuple(point) for point in found[cell.name]['losses']]
    for cell in cells(LAPTOP)
    if cell.name in found
  }


def _groups(curves) -> dict[tuple[str, str], list]:
  groups: dict[tuple[str, str], list] = {}
  for cell in curves:
    groups.setdefault(_group(cell), []).append(cell)
  return groups


def claims(found: Found) -> list[Claim]:
  """Returns what becomes of the paper's claim at the laptop's scale."""
  spiky: dict[tuple[str, str], list[bool]] = {}
  for cell, curve in _curves(found).items():
    spiky.setdefault(_model(cell), []).append(spikes(curve) > 0)
  made = []
  pair = [(_SCRATCH, model) for model in ('MHA', 'MQA')]
  if spiky.keys() >= {*pair}:
    mha, mqa = (spiky[group] for group in pair)
    made.append(
      Claim(
        'from scratch, more runs of MQA than of MHA have a spike of the '
        'training loss',
        f'{sum(mqa)} of {len(mqa)}, against {sum(mha)} of {len(mha)}',
        verdict(sum(mqa) > sum(mha)),
        paper=NO_NUMBER,
        joint='; ',
        note='That it diverges in fine-tuning on long inputs was not tried.',
      )
    )
  for model in ('MHA', 'MQA', 'GQA-2'):
    runs = spiky.get((_TUNED, model))
    if runs:
      made.append(
        Claim(
          f'{model} is fine-tuned without a spike',
          f'{sum(runs)} of {len(runs)} runs',
          verdict(not any(runs)),
          paper=NO_NUMBER if model == 'GQA-2' else '',
          joint='; spikes are in ',
        )
      )
  return made


def spikes(curve: Sequence[tuple[int, float]]) -> int:
  """Returns how many logged losses are spikes, by the rule above."""
  count, lowest = 0, curve[0][1]
  for _, loss in curve[1:]:
    count += loss >= SPIKE * lowest
    lowest = min(lowest, loss)
  return count


def report(found: Found, folder: pathlib.Path):
  """Writes report.md, spikes.csv and losses.png and .svg."""
  curves = _curves(found)
  rows = []
  for (what, model), members in _groups(curves).items():
    counts = [spikes(curves[cell]) for cell in members]
    last = Seeds.of([curves[cell][-1][1] for cell in members])
    rows.append(
      (what, model, len(members), ', '.join(map(str, counts)), last.shown())
    )
  csv = csv_table(
    ('cell', 'spikes', 'last_loss'),
    [
      (cell.name, spikes(curve), curve[-1][1]) for cell, curve in curves.items()
    ],
  )
  (folder / 'spikes.csv').write_text(csv, encoding='utf-8')
  _plot(folder / 'losses.png', curves)
  header = ('training', 'model', 'seeds', 'spikes, by seed', 'last loss')
  text = '\n'.join(
    [
      '# Appendix A: stability\n',
      _ABOUT,
      markdown_table(header, rows),
      '![Training losses from scratch](losses.png)\n',
      *(claim.sentence() for claim in claims(found)),
      '',
    ]
  )
  (folder / 'report.md').write_text(text, encoding='utf-8')


_ABOUT = paragraph(
  f"""Training losses at the laptop's scale. A spike is a logged loss, the mean
  of 50 steps, that is at least {SPIKE - 1:.0%} above the lowest logged before.
  From scratch: the model of ../pretraining, multi-head and multi-query from the
  first step on, for an eighth of its steps. Fine-tuning: the larger models of
  ../table1_main_results/laptop.md, MHA as it was pre-trained and the others
  uptrained, on inputs of 64 tokens. A model of 4.7 million parameters, at
  rates that suit it, need not show what one of 800 million does: nothing here
  is a number of the paper's."""
)


def _model(cell) -> tuple[str, str]:
  """Returns how a cell trains, and which model."""
  if cell.kind == 'from_scratch':
    return _SCRATCH, MODEL.attention(cell.num_kv_heads)
  return _TUNED, MODEL.attention(cell.start.num_kv_heads)


def _group(cell) -> tuple[str, str]:
  how, model = _model(cell)
  return (how if how == _SCRATCH else f'{how}, {cell.task}'), model


def _plot(path, curves):
  figure, axes = plots.new()
  labelled = set()
  for cell, curve in curves.items():
    if cell.kind == 'from_scratch':
      K = cell.num_kv_heads
      axes.plot(
        *zip(*curve),
        color=COLORS[K],
        linewidth=0.9,
        label=None if K in labelled else MODEL.attention(K),
      )
      labelled.add(K)
  axes.set_xlabel('step')
  axes.set_ylabel('training loss, nats a token')
  if labelled:
    axes.legend(fontsize=8, frameon=False)
  plots.save(figure, path)


SCRIPT = command.Script(__doc__, RESULTS, cells, report, claims)

if __name__ == '__main__':
  sys.exit(command.main(SCRIPT))
