"""Figure 6: the time to decode against the number of key/value heads.

The paper's claim: going from one key/value head (MQA) to eight costs little
time, and more cost more and more; T5-XXL, 2048/512 tokens, on TPU v4. Readings
of its plot, in seconds a sample and chip (results/paper_values.json): 0.49 for
1, 0.51 for 8, 0.59 for 16, 0.80 for 32, 2.0 to 2.5 for 64.

  python -m experiments.figure6_num_groups
  python -m experiments.figure6_num_groups --scale paper
  python -m experiments.figure6_num_groups --report

The first times the laptop's model with 1, 2, 4 and 8 key/value heads here, and
sets beside it what that number costs in quality (laptop.md). The second
compiles T5.1.1-XXL with 1, 4, 8, 16, 32 and 64 key/value heads for eight TPU v4
that are not here, for every mesh and both ways of dividing the cache, each with
the largest batch up to 32 a chip that fits, and estimates the time (report.md).
It goes on where it stopped.

Hardware: two CPU cores; half an hour after figure5's cells. The estimates: 8 GB
of memory, some 60 programs of one to two minutes on one core, and
`pip install -e '.[tpu-compile]'`.
"""

import itertools
import pathlib
import sys

from experiments import paper_values
from experiments.decode_times import claims as decode_claims
from experiments.decode_times import plots as decode_plots
from experiments.decode_times import programs
from experiments.decode_times import report as decode_report
from experiments.decode_times.cells import Cell, fastest, on_every_mesh
from experiments.study import command, results
from experiments.study.cells import ALPHA, Timing
from experiments.study.claims import Claim
from experiments.study.results import Found
from experiments.study.scales import LAPTOP, Scale
from experiments.study.spread import Seeds
from gqa_flax.reporting import plots
from gqa_flax.reporting.tables import csv_table, markdown_table, paragraph
from gqa_flax.timing.measure import Measurement
from gqa_flax.timing.spread import digits

NUM_KV_HEADS = (1, 4, 8, 16, 32, 64)
LAPTOP_NUM_KV_HEADS = (1, 2, 4, 8)
SIZE = 'xxl'
RESULTS = pathlib.Path('results/figure6_num_groups')
# What T5X's multi-head attention fits, for which a target is set.
FIXED_BATCH = Cell(SIZE, 64, (1, 1, 8), 'heads', batch_per_chip=16)


def cells(scale: Scale) -> list:
  """Returns the grid; the paper's is of estimates alone."""
  if scale.name == 'paper':
    return []
  timed = [Timing('laptop', K) for K in LAPTOP_NUM_KV_HEADS]
  uptrained = [
    _uptrainings(K)[i] for i in range(3) for K in LAPTOP_NUM_KV_HEADS
  ]
  return [*timed, *uptrained]


def estimates() -> list[Cell]:
  """Returns what is compiled, the likeliest best first."""
  every = [cell for K in NUM_KV_HEADS for cell in on_every_mesh(SIZE, K)]
  return [FIXED_BATCH, *sorted(every, key=lambda cell: -cell.mesh[2])]


def report_estimates(records: pathlib.Path, folder: pathlib.Path):
  """Writes report.md and time.png from the records alone."""
  found = programs.read(records, estimates())
  best, paper = _best(found), paper_values.read('figure6_seconds_a_sample')
  folder.mkdir(parents=True, exist_ok=True)
  decode_plots.plot(folder / 'time.png', best, paper)
  text = decode_report.figure6(best, found, paper, estimates())
  (folder / 'report.md').write_text(text, encoding='utf-8')


def estimate_claims(records: pathlib.Path) -> list[Claim]:
  """Returns what the estimates say of the paper's claim."""
  found = programs.read(records, estimates())
  paper = paper_values.read('figure6_seconds_a_sample')
  return decode_claims.figure6(_best(found), found, paper)


def _best(found):
  return {
    K: chosen
    for K in NUM_KV_HEADS
    if (chosen := fastest(found.values(), SIZE, K))
  }


def report(found: Found, folder: pathlib.Path):
  """Writes laptop.md, laptop.csv and laptop.png and .svg."""
  times, losses = _times(found), _losses(found)
  rows = [
    (
      str(K),
      *(_seconds(times[K]) if K in times else [''] * 4),
      losses[K].shown() if K in losses else '',
    )
    for K in LAPTOP_NUM_KV_HEADS
  ]
  header = (
    *('key/value heads', 's a sample', 'encode, s', 'cache fill, s'),
    *('a step, ms', 'cross-entropy'),
  )
  csv = csv_table(
    ('num_kv_heads', 'seconds_a_sample', 'cross_entropy'),
    [
      (K, time.seconds_a_sample, losses[K].mean if K in losses else '')
      for K, time in times.items()
    ],
  )
  (folder / 'laptop.csv').write_text(csv, encoding='utf-8')
  plot = ''
  if times:
    _plot(folder / 'laptop.png', times, losses)
    plot = '![Time and loss by key/value heads](laptop.png)\n'
  text = '\n'.join(
    [
      "# Figure 6, at the laptop's scale\n",
      _about(times),
      markdown_table(header, rows),
      plot,
      *(claim.sentence() for claim in claims(found)),
      '',
    ]
  )
  (folder / 'laptop.md').write_text(text, encoding='utf-8')


def _uptrainings(num_kv_heads: int):
  multi_head = num_kv_heads == LAPTOP.models['laptop'].num_heads
  method = 'none' if multi_head else 'mean'
  return results.uptrainings(LAPTOP, 'laptop', num_kv_heads, method)


def _seconds(time: Measurement) -> list[str]:
  step = time.seconds()['steps'] / time.decoding.target_length
  return [
    digits(time.seconds_a_sample),
    str(time.encode),
    str(time.fill_cache),
    digits(1e3 * step),
  ]


def _about(times) -> str:
  what = ''
  if times:
    first = next(iter(times.values()))
    decoding = first.decoding
    what = f"""{decoding.batch_size} sequences of {decoding.source_length}
    tokens and {decoding.target_length} steps of the laptop's model on one
    {first.device.upper()}, medians (and quartiles) of {first.repeats} repeats;
    beside them"""
  return paragraph(
    f"""Measured here: {what} the loss on held-out prose after converting by the
    mean and uptraining for {ALPHA:.0%}; with 8 heads, after training the
    multi-head model as much longer (mean and 95% interval over three seeds).
    Differences, in the plot and below, are taken seed by seed. The encoder is
    the same with any number. Nothing here is a number of the paper's, whose
    times are estimated in report.md."""
  )


def _times(found: Found) -> dict[int, Measurement]:
  return {
    K: Measurement.from_dict(record['measurement']['measurement'])
    for K in LAPTOP_NUM_KV_HEADS
    if (record := found.get(Timing('laptop', K).name))
  }


def _losses(found: Found) -> dict[int, Seeds]:
  curves = {
    K: results.losses(found, _uptrainings(K)) for K in LAPTOP_NUM_KV_HEADS
  }
  return {K: curve[ALPHA] for K, curve in curves.items() if curve}


def claims(found: Found) -> list[Claim]:
  """Returns what becomes of the paper's claim at the laptop's scale."""
  times, losses = _times(found), _losses(found)
  if len(times) < len(LAPTOP_NUM_KV_HEADS):
    return []
  paper = paper_values.read('figure6_seconds_a_sample')
  seconds = {K: time.decode.median for K, time in times.items()}
  return [
    decode_claims.rises(seconds, paper, ', without the encoder'),
    *(
      Claim.of_gap(
        f'{many} key/value heads have a lower loss than {few} after uptraining',
        losses[few].minus(losses[many]),
        'nats',
      )
      for few, many in itertools.pairwise(losses)
    ),
  ]


def _plot(path, times, losses):
  figure, ((left, right),) = plots.panels(1, 2, 9.0, 4.0)
  # Without the encoder, which is the same and only adds its noise.
  milliseconds = [
    1e3 * time.decode.median / time.decoding.batch_size
    for time in times.values()
  ]
  left.plot([*times], milliseconds, marker='o', color=plots.COLORS[0])
  left.set_ylim(0, 1.1 * max(milliseconds))
  left.set_title('time to decode', fontsize=11)
  left.set_ylabel('ms a sample, without the encoder')
  multi_head = LAPTOP_NUM_KV_HEADS[-1]
  if multi_head in losses:
    behind = {K: seeds.minus(losses[multi_head]) for K, seeds in losses.items()}
    right.errorbar(
      [*behind],
      [seeds.mean for seeds in behind.values()],
      yerr=[seeds.half_width for seeds in behind.values()],
      marker='s',
      capsize=3,
      color=plots.COLORS[1],
    )
    right.axhline(0, color=results.COLORS[multi_head], linewidth=0.8)
  right.set_title('loss after uptraining, paired by seed', fontsize=11)
  right.set_ylabel(f'nats a token behind {multi_head} key/value heads')
  for axes in (left, right):
    axes.set_xscale('log', base=2)
    axes.set_xticks(LAPTOP_NUM_KV_HEADS, [str(K) for K in LAPTOP_NUM_KV_HEADS])
    axes.minorticks_off()
    axes.set_xlabel('key/value heads')
  plots.save(figure, path)


ESTIMATES = command.Estimates(
  estimates, report_estimates, estimate_claims, plot='time.png'
)
SCRIPT = command.Script(__doc__, RESULTS, cells, report, claims, ESTIMATES)

if __name__ == '__main__':
  sys.exit(command.main(SCRIPT))
