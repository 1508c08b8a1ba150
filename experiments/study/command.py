"""The command line of the scripts that train: list, run, report."""

import argparse
import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence

from experiments.decode_times import cells as estimated
from experiments.decode_times import programs
from experiments.study import budget, grid
from experiments.study.cells import ALPHA, Cell
from experiments.study.claims import Claim
from experiments.study.grid import Grid
from experiments.study.results import Found
from experiments.study.scales import LAPTOP, PAPER, SCALES, Scale

# By what name --only finds the estimates.
TIMES = 'times'
_LOG = pathlib.Path('runs/decode_times.log')


@dataclasses.dataclass(frozen=True)
class Estimates:
  """What a script compiles for TPUs that are not here, at the paper's scale.

  Attributes:
    cells: returns what is compiled.
    report: writes into a folder what the records of `decode_times` say.
    claims: returns what these say of the paper's claims.
    plot: the file that the report draws, if it draws one.
  """

  cells: Callable[[], Sequence[estimated.Cell]]
  report: Callable[[pathlib.Path, pathlib.Path], None]
  claims: Callable[[pathlib.Path], Sequence[Claim]]
  plot: str | None = None


@dataclasses.dataclass(frozen=True)
class Script:
  """A script of the paper's tables and figures.

  Attributes:
    description: its docstring.
    results_dir: where its reports go.
    cells: returns the cells of a scale.
    report: writes into a folder what the records of the first scale say.
    claims: returns what becomes of the paper's claims at that scale.
    estimates: at the paper's scale; None if there are none.
    scales: that have cells; the reports are of the first.
    prepare: makes what the cells of the first scale begin with, unless it is
      there.
    elsewhere: the scripts of further scales, by name, each with reports of its
      own.
  """

  description: str
  results_dir: pathlib.Path
  cells: Callable[[Scale], Sequence[Cell]]
  report: Callable[[Found, pathlib.Path], None]
  claims: Callable[[Found], Sequence[Claim]]
  estimates: Estimates | None = None
  scales: tuple[Scale, ...] = (LAPTOP, PAPER)
  prepare: Callable[[], None] | None = None
  elsewhere: Mapping[str, 'Script'] = dataclasses.field(default_factory=dict)


def main(script: Script, argv: Sequence[str] | None = None) -> int:
  """Runs what is missing, then reports; returns the exit status."""
  parser = _parser(script)
  args = parser.parse_args(argv)
  script = script.elsewhere.get(args.scale, script)
  results_dir = args.results_dir or script.results_dir
  if args.report and not args.records.exists():
    parser.error(f'--records={args.records} is not there: nothing to report.')
  study = Grid(SCALES[args.scale], args.records)
  chosen = [
    cell
    for cell in script.cells(study.scale)
    if any(part in cell.name for part in args.only)
  ]
  estimates: Sequence[estimated.Cell] = ()
  if script.estimates and args.scale == 'paper':
    estimates = [
      cell
      for cell in script.estimates.cells()
      if any(part == TIMES or part in cell.name for part in args.only)
    ]
  if args.only != [''] and not chosen and not estimates:
    parser.error(
      f'--only {" ".join(args.only)} is in the name of no cell '
      f'{study.scale.where}; --list shows the names.'
    )
  if args.list:
    compiled = programs.read(args.decode_times, estimates)
    done = {*study.found(), *(cell.name for cell in compiled)}
    for cell in (*estimates, *chosen):
      print('done   ' if cell.name in done else 'missing', cell.name)
    return 0
  if args.dry_run:
    for cell in estimates:
      print(f'# compiled and estimated here: {cell.name}')
    print(dry_run(study.scale, chosen))
    return 0
  if not args.report:
    if estimates:
      _LOG.parent.mkdir(parents=True, exist_ok=True)
      with open(_LOG, 'a', encoding='utf-8') as log:
        programs.run(estimates, args.decode_times, log)
    if script.prepare and study.scale is script.scales[0]:
      script.prepare()
    study.run(chosen, args.shares, args.again)
  found = Grid(script.scales[0], args.records).found()
  redraw(script, found, args.decode_times, results_dir)
  return 1 if not args.report and study.missing(chosen) else 0


def redraw(
  script: Script, found: Found, times: pathlib.Path, folder: pathlib.Path
):
  """Writes a script's reports from the records alone.

  Args:
    script: whose.
    found: the records of its first scale; before those of the last seed begin,
      nothing is known with an interval, and there is no report.
    times: records of `decode_times`.
    folder: made if absent.
  """
  if script.estimates and times.exists():
    script.estimates.report(times, folder)
  scale = script.scales[0]
  names = [cell.name for cell in script.cells(scale)]
  last = f'/{scale.seeds[-1]}'
  if any(name in found and name.endswith(last) for name in names):
    folder.mkdir(parents=True, exist_ok=True)
    script.report(found, folder)


def _parser(script: Script) -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    description=script.description,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  add = parser.add_argument
  add(
    '--scale',
    default=script.scales[0].name,
    choices=[*(scale.name for scale in script.scales), *script.elsewhere],
    help='laptop: a small model on a CPU; public: a public checkpoint on one; '
    'paper: the jobs at full size',
  )
  add('--dry_run', action='store_true', help='print the jobs, run nothing')
  add('--list', action='store_true', help='say which cells exist, and stop')
  add(
    '--only',
    nargs='+',
    default=[''],
    metavar='PART',
    help=f'cells whose name has one of these in it; {TIMES}: all estimates',
  )
  add(
    '--parallel',
    dest='shares',
    default=(None,),
    type=_shares,
    metavar='N',
    help='cells at once, each on its share of the cores; times come first',
  )
  add(
    '--again',
    action='store_true',
    help='record finished cells again; jobs that left results are not rerun',
  )
  add('--report', action='store_true', help='redraw the report, run nothing')
  for name, default, what in (
    ('records', grid.RECORDS, 'of the cells; lines are added'),
    ('decode_times', programs.RECORDS, 'of the estimates; lines are added'),
  ):
    help = f'{what} (default: {default})'
    add(f'--{name}', default=default, type=pathlib.Path, help=help)
  others = ''.join(
    f'; {other.results_dir} with --scale {name}'
    for name, other in script.elsewhere.items()
  )
  add(
    '--results_dir',
    type=pathlib.Path,
    help='the reports, which are redrawn '
    f'(default: {script.results_dir}{others})',
  )
  return parser


def _shares(number: str) -> list[grid.Share]:
  try:
    return grid.shares_of_cores(int(number))
  except ValueError as error:
    raise argparse.ArgumentTypeError(str(error)) from None


def dry_run(scale: Scale, cells: Sequence[Cell]) -> str:
  """Returns the jobs of the cells, each once, and what they take."""
  lines, seen, budgets = [], set(), []
  for cell in cells:
    lines.append(f'# {cell.name}')
    for job in cell.jobs(scale):
      if job.done in seen:
        continue
      seen.add(job.done)
      lines.append(f'{job}\n')
      if scale.name == 'paper' and (found := budget.budget(job)):
        budgets.append((job, found))
        lines.append(f'# {found}\n')
  if budgets:
    lines += ['', *_sums(budgets)]
  return '\n'.join(lines)


def _sums(budgets) -> list[str]:
  total = sum(b.chip_hours for _, b in budgets)
  lines = [f'In all {total:,.0f} chip-hours of TPU v4.']
  papers = PAPER.step(ALPHA) - PAPER.step(0)
  for job, b in budgets:
    if 'xxl' in job.gin_files[0] and 'uptrain' in job.gin_files[-1]:
      lines.append(
        f'{job.bindings["MODEL_DIR"]}, {b.steps:,} steps: '
        f'{b.chip_hours / 24:,.0f} chip-days of v4; '
        f'{budget.v3_chip_days(b):,.0f} of v3 at the same utilisation. The '
        f'paper says some {budget.paper_chip_days():g} for {papers:,} steps, '
        'which would take this model '
        f"{budget.paper_utilisation(b, papers):.0%} of v3's peak."
      )
  return lines
