"""`gqa-flax data list | check | prepare`: what the tasks read.

`list` and whatever `check` finds missing load no TensorFlow.
"""

import argparse
import difflib
import os
import pathlib
import re
import sys

from etils import epath

from gqa_flax.cli import gin_config, output_paths
from gqa_flax.data import catalogue, on_disk

_EXAMPLES = """\
examples:
  gqa-flax data list
  gqa-flax data check trivia_qa --split=validation --example=3
  gqa-flax data check media_sum --all
  gqa-flax data prepare cnn_dailymail --tfds_data_dir=/data
  gqa-flax data prepare arxiv --cache --min_shards=64
  gqa-flax data prepare c4_span_corruption \\
    --pipeline_options=--runner=DataflowRunner,--project=p,--region=us-central1,\\
--temp_location=gs://b/tmp --tfds_data_dir=gs://b/data
  gqa-flax data check my_tasks/tickets.gin

TASK is the name of a file in gin_configs/tasks, or the path of one of your own.
"""


def add_commands(commands):
  """Adds `data` to the commands of `gqa-flax`."""
  raw = argparse.RawDescriptionHelpFormatter
  data = commands.add_parser(
    'data',
    help='What the tasks read: list, check, prepare.',
    description='What the tasks read.',
    epilog=_EXAMPLES,
    formatter_class=raw,
  )
  subcommands = data.add_subparsers(dest='data_command', required=True)
  for run in (list_, check, prepare):
    name = run.__name__.strip('_')
    command = subcommands.add_parser(
      name,
      help=run.__doc__,
      description=run.__doc__,
      epilog=_EXAMPLES,
      formatter_class=raw,
    )
    command.set_defaults(run=run)
    add = command.add_argument
    if run is list_:
      add('--tfds_data_dir', help='of data sets; TFDS_DATA_DIR by default')
      add('--debug', action='store_true', help='show tracebacks')
      continue
    gin_config.add_arguments(command)
    gin_config.add_settings(command, 'data')
    add('task', metavar='TASK')
    add('--manual_dir', help='of files that were fetched by hand')
    if run is check:
      add('--split', help='of the example; train by default')
      add('--example', type=int, help='which one; 0 by default')
      add(
        '--all',
        action='store_true',
        help='read every example of --split, or of all splits: count them, '
        'those that are skipped, and those beyond the limits; fails where '
        'none can be used',
      )
      add('--color', choices=('auto', 'always', 'never'), default='auto')
    if run is prepare:
      add('--cache', action='store_true', help="also write seqio's cached form")
      add('--cache_dir', help='of the cached form')
      add('--min_shards', type=int, help='files a split at least; 1 by default')
      add('--overwrite', action='store_true', help='replace a cache')
      add(
        '--pipeline_options',
        default='',
        help="Beam's, with ',' before each --, such as --runner=FlinkRunner",
      )


def list_(args):
  """Lists the paper's data sets: which are on disk, how large, and where."""
  from gqa_flax.data import show

  if args.tfds_data_dir is not None:
    gin_config.require_data_dir(args.tfds_data_dir)
  print(show.overview(args.tfds_data_dir))


def check(args):
  """Compares what is on disk with what was published, and shows an example."""
  from gqa_flax.data import show

  _check_example(args)
  _add_task_file(args)
  tfds_name = gin_config.read(args).value('TFDS_NAME')
  if tfds_name and not args.dry_run:
    found = on_disk.find(tfds_name, args.tfds_data_dir)
    print(show.on_disk_table(found))
    published = catalogue.of_any_version(tfds_name)
    if not found.examples and published and published.by_hand:
      print(f'\n{published.by_hand.format(manual_dir=_manual_dir(args))}')
      print(f'4. gqa-flax data prepare {args.task}', flush=True)
      raise on_disk.MissingDataError(
        f'{tfds_name} must be fetched by hand, by the four steps above.'
      )
    on_disk.require(tfds_name, args.task, args.tfds_data_dir)
    if damaged := found.damaged_splits():
      raise on_disk.MissingDataError(
        f'The files of {tfds_name} in {found.folder} are not as large as their '
        f'records (split {", ".join(damaged)}): remove that folder and prepare '
        'the data set anew.'
      )
  gin_config.require_function(
    args,
    'gqa_flax.data.tasks.get_task',
    f'a task file instead of {args.task}',
  )
  gin_config.parse(args)
  if args.dry_run:
    return
  from gqa_flax.data import examples

  task = gin_config.call('gqa_flax.data.tasks', 'get_task')()
  lengths = gin_config.literal(args, 'TASK_FEATURE_LENGTHS')
  if args.all:
    splits = [args.split] if args.split else [*task.splits]
    surveys = [examples.survey(task, split, lengths) for split in splits]
    print(f'\n{show.survey_table(surveys, lengths)}')
    if not any(survey.num_examples for survey in surveys):
      raise ValueError(
        f'No example of {args.task} can be used, in {", ".join(splits)}.'
      )
    return
  split, index = args.split or 'train', args.example or 0
  example = examples.read_example(task, split, lengths, index)
  in_color = args.color == 'always' or (
    args.color == 'auto'
    and sys.stdout.isatty()
    and 'NO_COLOR' not in os.environ
  )
  print(f'\n{split} example {index}')
  print(show.example(task, example, lengths, in_color))


def _check_example(args):
  _check_folder(args, 'manual_dir')
  if args.example is not None and not 0 <= args.example < 2**31:
    raise gin_config.UsageError(
      f'--example={args.example}: examples are counted from 0 to 2**31 - 1.'
    )
  if args.split == '':
    raise gin_config.UsageError('--split is empty; give the name of a split.')
  if args.all and args.example is not None:
    raise gin_config.UsageError(
      f'--all reads every example, --example={args.example} shows one: leave '
      'out one of them.'
    )


def prepare(args):
  """Fetches a task's data set; with --cache tokenizes it ahead of training."""
  options = _check_caching(args)
  _add_task_file(args)
  early = gin_config.read(args).value('TFDS_NAME')
  if early and not args.dry_run:
    if not on_disk.find(early, args.tfds_data_dir).is_whole:
      on_disk.require_manual_files(early, _manual_dir(args))
  gin_config.parse(args)
  if args.dry_run:
    return
  from gqa_flax.data import caching, show
  from gqa_flax.data import prepare as preparation

  if tfds_name := gin_config.read(args).value('TFDS_NAME'):
    found = preparation.prepare(
      tfds_name, manual_dir=args.manual_dir, pipeline_options=options
    )
    print(show.on_disk_table(found))
  elif not args.cache:
    print(f'{args.task} reads no data set of TFDS: there is nothing to fetch.')
  if args.cache:
    task = gin_config.call('gqa_flax.data.tasks', 'get_task')()
    folder = caching.write(
      task,
      args.cache_dir,
      pipeline_options=options,
      min_shards=args.min_shards or 1,
      overwrite=args.overwrite,
    )
    print(show.cache_table(folder, caching.statistics(folder)))


def _check_caching(args) -> list[str]:
  """Refuses options that say nothing; returns Beam's."""
  given = {
    '--cache_dir': args.cache_dir is not None,
    '--min_shards': args.min_shards is not None,
    '--overwrite': args.overwrite,
  }
  for name in (name for name, is_given in given.items() if is_given):
    if not args.cache:
      raise gin_config.UsageError(
        f'{name} is about a cache: give --cache with it, or leave it out.'
      )
  if args.min_shards is not None and args.min_shards < 1:
    raise gin_config.UsageError(
      f'--min_shards={args.min_shards}: a split is in 1 file at least.'
    )
  for name in ('cache_dir', 'manual_dir'):
    _check_folder(args, name)
  if args.cache_dir and '://' not in args.cache_dir:
    output_paths.require_folder(f'--cache_dir={args.cache_dir}', args.cache_dir)
  # A value may have commas of its own.
  options = [o for o in re.split(',(?=--)', args.pipeline_options) if o]
  for option in options:
    if not re.match(r'--\w', option):
      raise gin_config.UsageError(
        f"--pipeline_options: {option!r} is none of Beam's options, which "
        'begin with --, such as --runner=FlinkRunner.'
      )
  return options


def _check_folder(args, name: str):
  chosen = getattr(args, name)
  if chosen is None:
    return
  folder = epath.Path(chosen).expanduser()
  if not chosen:
    raise gin_config.UsageError(f'--{name} is empty; give a folder.')
  if folder.is_file():
    raise gin_config.UsageError(f'--{name}={chosen} is a file; give a folder.')
  if name == 'manual_dir' and not folder.exists():
    raise gin_config.UsageError(
      f'--{name}={chosen} does not exist; give the folder of the files that '
      'were fetched by hand.'
    )


def _manual_dir(args) -> epath.Path:
  """Returns where files that were fetched by hand lie: by default TFDS's."""
  chosen = args.manual_dir or on_disk.manual_dir(args.tfds_data_dir)
  return epath.Path(chosen).expanduser()


def _add_task_file(args):
  """Puts the gin file of TASK before the others."""
  folder = pathlib.Path(gin_config.find_folder(args, 'gin_configs/tasks'))
  known = sorted(path.stem for path in folder.glob('*.gin'))
  if args.task in known:
    args.gin_file.insert(0, str(folder / f'{args.task}.gin'))
  elif args.task.endswith('.gin'):
    args.gin_file.insert(0, args.task)
  else:
    near = difflib.get_close_matches(args.task, known, n=3) or known
    raise gin_config.UsageError(
      f'There is no task file {args.task}.gin in gin_configs/tasks: the '
      f'nearest are {", ".join(near)}; name one of them, or give the path of '
      'your own.'
    )
