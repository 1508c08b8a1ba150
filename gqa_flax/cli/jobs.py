"""`gqa-flax train | convert | evaluate | infer`: the jobs of the paper."""

import argparse
import json
import re
import sys

from etils import epath

from gqa_flax.cli import gin_config, setting_types, shorthand, text_files
from gqa_flax.cli.setting_types import Integer
from gqa_flax.data import on_disk
from gqa_flax.runtime import status

_TRAIN_FILES = (
  'gin_configs/runs/pretrain.gin, gin_configs/runs/uptrain.gin or '
  'gin_configs/runs/finetune.gin'
)


def add_commands(commands):
  """Adds the commands of this file to those of `gqa-flax`."""
  for run, examples in EXAMPLES.items():
    command = commands.add_parser(
      run.__name__,
      help=run.__doc__,
      description=run.__doc__,
      epilog=examples,
      formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    if run is convert:
      shorthand.add_arguments(command)
    gin_config.add_arguments(command)
    gin_config.add_settings(command, run.__name__)
    add = command.add_argument
    if run in (train, evaluate):
      add('--coordinator_address', help='host:port of process 0')
      positive = setting_types.flag(Integer(1))
      add('--process_count', type=positive, help='of all processes of the job')
      add(
        '--process_index',
        type=setting_types.flag(Integer(0)),
        help='of this one, from 0',
      )
      add(
        '--heartbeat_seconds',
        type=positive,
        default=100,
        help='after which a silent process counts as dead',
      )
    if run is train:
      add(
        '--num_devices',
        type=positive,
        help='with --dry_run: of a machine that is not this one',
      )
    if run is evaluate:
      add('--json', action='store_true', help='print JSON instead of a table')
    if run is infer:
      add('--input', help='a UTF-8 file of lines; standard input by default')
      add('--output', help='a file; standard output by default')


def train(args):
  """Trains as configured: `training.loop.train`."""
  if args.num_devices is not None and not args.dry_run:
    raise gin_config.UsageError(
      f'--num_devices={args.num_devices} is for --dry_run alone; leave it out, '
      'or add --dry_run.'
    )
  run = gin_config.configured(
    args, 'gqa_flax.training.loop', 'train', _TRAIN_FILES, _begin
  )
  if run is None:
    _print_plan(args)
    return
  run_dir = gin_config.literal(args, 'MODEL_DIR')
  started = False

  def record():
    nonlocal started
    started = True
    _write_provenance(run_dir, 'train')

  try:
    run(on_start=record)
  finally:
    # What is called late, such as a decoder, is configuration, too.
    if started:
      record()
  from gqa_flax.partitioning import hosts
  from gqa_flax.training import progress

  if hosts.is_primary():
    print(progress.outcome(run_dir))


def convert(args):
  """Converts a checkpoint to fewer key/value heads: `conversion.convert`."""
  shorthand.bind(args)
  run = gin_config.configured(
    args,
    'gqa_flax.conversion.convert',
    'convert_checkpoint',
    f'{shorthand.RUN_FILE}, or INPUT OUTPUT --num_kv_heads=NUMBER instead',
  )
  if run is None:
    return
  path = run()
  output = gin_config.literal(args, 'OUTPUT')
  _write_provenance(output, 'convert')
  from gqa_flax.conversion import convert as convert_lib
  from gqa_flax.conversion import report

  record = json.loads((epath.Path(output) / convert_lib.RECORD).read_text())
  print(report.table(record))
  print(path)


def evaluate(args):
  """Evaluates as configured: `evaluation.evaluate.evaluate`."""
  run = gin_config.configured(
    args,
    'gqa_flax.evaluation.evaluate',
    'evaluate',
    'gin_configs/runs/evaluate.gin',
    _begin,
  )
  if run is None:
    return
  scores = run(settings=gin_config.parsed_without('OUTPUT_DIR'))
  output_dir = gin_config.literal(args, 'OUTPUT_DIR')
  _write_provenance(output_dir, 'evaluate')
  from gqa_flax.evaluation import predictions, score_table
  from gqa_flax.partitioning import hosts

  if not hosts.is_primary():
    return
  if args.json:
    print(json.dumps(scores, indent=2))
    return
  print(score_table.score_table(predictions.read_scores(output_dir)))
  print(f'\n{output_dir}/{predictions.SCORES}')


def infer(args):
  """Decodes lines of text: `evaluation.evaluate.infer`."""
  make = gin_config.configured(
    args,
    'gqa_flax.evaluation.evaluate',
    'infer',
    'gin_configs/runs/infer.gin',
  )
  if make is None:
    return
  text_files.check_output(args.output)
  lines = text_files.read_lines(args.input)
  decoded = make()(lines)
  text_files.write(args.output, text_files.to_text(decoded))


EXAMPLES = {
  train: """\
examples:
  # Pre-train the mini model on Wikipedia introductions, multi-head.
  gqa-flax train --gin_file=gin_configs/models/mini.gin \\
    --gin_file=gin_configs/tasks/wikipedia_span_corruption.gin \\
    --gin_file=gin_configs/runs/pretrain.gin \\
    --gin.MODEL_DIR=/tmp/mha --gin.TRAIN_STEPS=1000

  # Uptrain a converted checkpoint; it continues from the checkpoint's step.
  gqa-flax train --gin_file=gin_configs/models/mini.gin \\
    --gin_file=gin_configs/attention/gqa_2.gin \\
    --gin_file=gin_configs/tasks/wikipedia_span_corruption.gin \\
    --gin_file=gin_configs/runs/uptrain.gin \\
    --gin.MODEL_DIR=/tmp/uptrained --gin.TRAIN_STEPS=1050 \\
    --gin.INITIAL_CHECKPOINT_PATH=/tmp/gqa_2

  # What each of 64 devices would hold; nothing is allocated.
  gqa-flax train --gin_file=gin_configs/models/xxl.gin \\
    --gin_file=gin_configs/attention/gqa_8.gin \\
    --gin_file=gin_configs/runs/uptrain.gin \\
    --gin.TASK_FEATURE_LENGTHS="{'inputs': 512, 'targets': 114}" \\
    --gin.REMAT_POLICY=full --dry_run --num_devices=64

After a stop, run the same command again: it continues from the last checkpoint.
After SIGTERM it saves first, and ends with status 75; Ctrl-C ends it at once,
with status 130, and saves nothing more.
""",
  convert: """\
examples:
  # By the mean, as in the paper; the input may be T5X's or Hugging Face's.
  gqa-flax convert /tmp/mha /tmp/gqa_2 --num_kv_heads=2

  # From the Hugging Face Hub, or its cache where there is no network.
  gqa-flax convert google/flan-t5-small /tmp/t5_gqa_2 --num_kv_heads=2

  # Hugging Face's files do not say a checkpoint's step: a public T5.1.1 is at
  # 1,000,000 (gin_configs/runs/convert.gin lists others).
  gqa-flax convert /tmp/t5-v1_1-small /tmp/t5_gqa_2 --num_kv_heads=2 \\
    --step=1_000_000

  # The same in gin, for everything else that can be set.
  gqa-flax convert --gin_file=gin_configs/runs/convert.gin \\
    --gin.INPUT=/tmp/mha --gin.OUTPUT=/tmp/gqa_2 \\
    --gin.NUM_KV_HEADS=2 --gin.CONVERSION_METHOD=mean

  # Keeping the function, calibrated on the text of a task.
  gqa-flax convert /tmp/mha /tmp/gqa_2_subspace --num_kv_heads=2 \\
    --method=subspace --gin.CALIBRATION_TASK=wikipedia_span_corruption \\
    --gin_file=gin_configs/tasks/wikipedia_span_corruption.gin

  # For transformers: heads are repeated, logits stay.
  gqa-flax convert /tmp/gqa_2 /tmp/gqa_2_hf --num_kv_heads=2 \\
    --gin.OUTPUT_FORMAT=hugging_face
""",
  evaluate: """\
example:
  gqa-flax evaluate --gin_file=gin_configs/tasks/wikipedia_summarization.gin \\
    --gin_file=gin_configs/runs/evaluate.gin \\
    --gin.CHECKPOINT=/tmp/finetuned --gin.OUTPUT_DIR=/tmp/scores
""",
  infer: """\
example:
  echo 'The Danube is the second-longest river in Europe.' | gqa-flax infer \\
    --gin_file=gin_configs/tasks/wikipedia_summarization.gin \\
    --gin_file=gin_configs/runs/infer.gin --gin.CHECKPOINT=/tmp/finetuned
""",
}


def _begin(args):
  """Checks the data, and joins the processes of a job."""
  _require_data(args)
  _join(args)


def _require_data(args):
  """Says what data is missing before TensorFlow and JAX are loaded."""
  text = gin_config.read(args)
  # Of the function, for it may be bound past the macro.
  names = [
    text.resolve(binding.value)
    for key, binding in text.parameters.items()
    if key.endswith('.tfds_name')
  ]
  if not names or not isinstance(names[-1], str) or args.dry_run:
    return
  task = text.value('MIXTURE_OR_TASK_NAME') or 'TASK'
  if text.value('USE_CACHED_TASKS'):
    folders = [f for f in args.seqio_additional_cache_dirs.split(',') if f]
    on_disk.require_cache(task, folders, args.tfds_data_dir)
  else:
    on_disk.require(names[-1], task, args.tfds_data_dir)


def _join(args):
  """Joins the processes of a job, if there are several."""
  if args.dry_run:
    return
  from gqa_flax.partitioning import hosts

  try:
    hosts.initialize(
      args.coordinator_address,
      args.process_count,
      args.process_index,
      args.heartbeat_seconds,
    )
  except ValueError as error:
    raise gin_config.UsageError(str(error)) from error
  if not hosts.is_primary():
    status.end()


def _print_plan(args):
  """Prints what each device would hold, where the sizes are all given."""
  from gqa_flax.training import plan

  try:
    planned = gin_config.call('gqa_flax.training.plan', 'plan', _TRAIN_FILES)(
      num_devices=args.num_devices
    )
  except TypeError as error:
    # Gin's: a parameter or a macro without a value.
    if ' missing ' not in str(error):
      raise
    print(f'\nNo plan of the memory, for sizes are missing ({_first(error)}).')
    return
  print(f'\n{plan.table(planned)}')


def _first(error: Exception) -> str:
  """Returns what is missing, and in which macro, as gin words it."""
  scope = re.search(r"in scope '(\w+)'", str(error))
  return scope[1] if scope else str(error).splitlines()[0]


def _write_provenance(directory: str, command: str):
  """Writes the configuration and the provenance beside a run's results."""
  import jax

  from gqa_flax.evaluation import predictions
  from gqa_flax.partitioning import hosts
  from gqa_flax.reporting import records

  if not hosts.is_primary():
    return

  device = jax.devices()[0]
  provenance = records.provenance(device.device_kind, jax.device_count())
  provenance['arguments'] = sys.argv[1:]
  texts = {
    f'{command}.gin': gin_config.config_str(),
    f'{command}_provenance.json': json.dumps(provenance, indent=2) + '\n',
  }
  folder = epath.Path(directory)
  folder.mkdir(parents=True, exist_ok=True)
  for name, text in texts.items():
    predictions.write_whole(folder / name, text)
