"""What Ctrl-C leaves and says; ten moments of `train` and `convert`."""

import concurrent.futures
import json
import random
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from flax import traverse_util

from gqa_flax import cli
from gqa_flax.checkpoints import formats, native
from gqa_flax.checkpoints.architecture import abstract_params
from gqa_flax.checkpoints.arrays import LazyArray
from gqa_flax.cli import interrupted
from gqa_flax.config import T5Config

TRAIN_STEPS = 30
_IMPORTED = re.compile(r'import time:[\s\d|]+\| +(\S+)\n')


class Command:
  """A command in a process of its own, which tells what it imports.

  Args:
    argv: what follows `gqa-flax`.
  """

  def __init__(self, *argv):
    self._imported = set()
    self._words = []
    self._process = subprocess.Popen(
      [sys.executable, '-X', 'importtime', '-m', 'gqa_flax.cli', *argv],
      stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
      text=True,
    )
    self._reader = threading.Thread(target=self._read)
    self._reader.start()

  def _read(self):
    with self._process.stderr as lines:
      for line in lines:
        module = _IMPORTED.fullmatch(line)
        if module:
          self._imported.add(module[1])
        elif not line.startswith('import time:'):
          self._words.append(line)

  def has_imported(self, module):
    return module in self._imported

  def interrupt_when(self, condition, delay):
    """Sends SIGINT so many seconds after a condition is met first."""
    while not condition(self):
      assert self._process.poll() is None, self._words
      time.sleep(0.005)
    time.sleep(delay)
    assert self._process.poll() is None, 'it ended before the moment came'
    self._process.send_signal(signal.SIGINT)

  def end(self):
    """Returns the exit status and what was said on standard error."""
    try:
      status = self._process.wait(900)
    finally:
      self._process.kill()
      self._reader.join()
    return status, ''.join(self._words)


@pytest.fixture(autouse=True)
def sigint_is_not_ignored():
  """Children inherit that it is, as in a shell script's background job."""
  previous = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, previous)


def train(folder, *argv):
  return Command(
    'train',
    *argv,
    '--gin_file=gin_configs/models/mini.gin',
    '--gin_file=gin_configs/tasks/wikipedia_span_corruption.gin',
    '--gin_file=gin_configs/runs/pretrain.gin',
    '--gin.config.T5Config.emb_dim=32',
    '--gin.config.T5Config.head_dim=4',
    '--gin.config.T5Config.mlp_dim=32',
    '--gin.config.T5Config.num_encoder_layers=1',
    '--gin.config.T5Config.num_decoder_layers=1',
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 32, 'targets': 10}",
    '--gin.VALIDATION_EXAMPLES=16',
    '--gin.BATCH_SIZE=8',
    '--gin.CHECKPOINT_EVERY=1',
    '--gin.EVALUATE_EVERY=10',
    '--gin.loop.train.log_every=1',
    f'--gin.TRAIN_STEPS={TRAIN_STEPS}',
    f'--gin.MODEL_DIR={folder}',
  )


def convert(source, output, format):
  return Command(
    'convert',
    '--gin_file=gin_configs/runs/convert.gin',
    f'--gin.INPUT={source}',
    f'--gin.OUTPUT={output}',
    f'--gin.OUTPUT_FORMAT={format}',
    '--gin.NUM_KV_HEADS=2',
  )


def logged_steps(folder):
  file = folder / 'metrics.jsonl'
  lines = file.read_text().splitlines() if file.exists() else []
  records = [json.loads(line) for line in lines if line.endswith('}')]
  return [record['step'] for record in records if 'loss' in record]


def importing(*modules):
  return lambda command: all(map(command.has_imported, modules))


def at_step(folder, step):
  return lambda _: step in logged_steps(folder)


def exists(folder, *patterns):
  return lambda _: any(any(folder.glob(pattern)) for pattern in patterns)


def last_sentence(words, command):
  """Returns the command's last words, having seen nothing unclean in others."""
  for unclean in ('Traceback', 'Exception ignored', 'KeyboardInterrupt'):
    assert unclean not in words, words
  assert words.endswith('\n')
  sentence = words.splitlines()[-1]
  assert sentence.startswith(f'gqa-flax {command}: Interrupted'), words
  return sentence


def interrupt_training(folder, moments):
  """Starts the same command again and again, and ends it at each moment."""
  for condition, delay in moments:
    command = train(folder)
    command.interrupt_when(condition, delay)
    status, words = command.end()
    assert status == 130, words
    sentence = last_sentence(words, 'train')
    saved = re.search(r'is (checkpoint_\d+)\. .* continue from th', sentence)
    if saved:
      native.restore(folder / saved[1])
    else:
      assert f'before a checkpoint was saved in {folder}' in sentence
      assert not list(folder.glob('checkpoint_?'))


def interrupt_conversion(source, output, format, moments):
  """Does the same with conversions, and lets the last one end."""
  for condition, delay in moments:
    command = convert(source, output, format)
    command.interrupt_when(condition, delay)
    status, words = command.end()
    assert status == 130, words
    sentence = last_sentence(words, 'convert')
    assert not (output / 'checkpoint_3').exists()
    left = {*output.parent.glob(f'{output.name}*'), *output.glob('*')}
    if f'nothing was written to {output}. ' in sentence:
      assert not left
    else:  # the machine was too slow to remove it in time
      assert 'is unfinished' in sentence and left
  status, words = convert(source, output, format).end()
  assert status == 0, words
  assert formats.open_checkpoint(output).config.num_kv_heads == 2
  assert {p.name for p in output.iterdir()} == {
    'checkpoint_3',
    'conversion.json',
    'convert.gin',
    'convert_provenance.json',
  }


def write_zeros(path):
  """Writes a checkpoint small on disk, whose conversion takes seconds."""
  config = T5Config(
    vocab_size=64,
    emb_dim=1024,
    num_heads=16,
    head_dim=64,
    mlp_dim=2816,
    num_encoder_layers=6,
    num_decoder_layers=6,
  )
  shapes = traverse_util.flatten_dict(abstract_params(config), sep='/')
  zero = np.float32(0)
  arrays = {
    name: LazyArray.of(np.broadcast_to(zero, x.shape))
    for name, x in shapes.items()
  }
  formats.write_checkpoint(path, 'native', 3, config, arrays)


@pytest.mark.slow
def test_ten_interrupts_are_ten_clean_ends(tmp_path):
  rng = random.Random(22)
  source = tmp_path / 'source'
  write_zeros(source)
  a, b = tmp_path / 'a', tmp_path / 'b'
  provenance, saving = 'train_provenance.json', 'checkpoint_*-tmp*'
  modules = ('gqa_flax.cli.jobs', 'jax', 'tensorflow', 'seqio')
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    chains = [
      pool.submit(
        interrupt_training,
        a,
        [
          (importing(rng.choice(modules)), rng.uniform(0, 1)),
          # Initializing, compiling, or the first steps.
          (exists(a, provenance), rng.uniform(0, 4)),
          (at_step(a, rng.randint(2, 9)), rng.uniform(0, 0.2)),
        ],
      ),
      pool.submit(
        interrupt_training,
        b,
        [
          (exists(b, saving), rng.uniform(0, 0.1)),
          # Restoring, or later.
          (importing('gqa_flax.training.loop'), rng.uniform(2, 5)),
          # The first evaluation.
          (at_step(b, 10), rng.uniform(0, 0.5)),
        ],
      ),
      *(
        pool.submit(
          interrupt_conversion,
          source,
          tmp_path / format,
          format,
          [
            (importing(rng.choice(modules[:2])), rng.uniform(0, 1)),
            (exists(tmp_path / format, *writing), rng.uniform(0, 0.3)),
          ],
        )
        for format, writing in (
          ('native', [saving]),
          ('t5x_legacy', ['*.incomplete']),
        )
      ),
    ]
    for chain in chains:
      chain.result()
  status, words = train(a).end()
  assert status == 0, words
  assert logged_steps(a) == list(range(1, TRAIN_STEPS + 1))
  assert native.restore(a).step == TRAIN_STEPS


@pytest.mark.alone
@pytest.mark.slow
def test_the_other_process_of_a_job_ends_as_well(tmp_path, free_port):
  port = free_port()
  processes = [
    train(
      tmp_path,
      f'--coordinator_address=localhost:{port}',
      '--process_count=2',
      f'--process_index={i}',
      '--heartbeat_seconds=10',
    )
    for i in range(2)
  ]
  processes[1].interrupt_when(at_step(tmp_path, 3), 0)
  status, words = processes[1].end()
  assert status == 130, words
  last_sentence(words, 'train')
  # Whichever comes first: the exception, or the service's verdict.
  status, words = processes[0].end()
  assert status in (75, -signal.SIGABRT), words


def sentence(*argv):
  args = cli._parser().parse_args(cli.flags.rewrite(argv))
  return interrupted.sentence(args)


def test_training_says_what_was_saved_last(tmp_path):
  argv = ['train', f'--gin.MODEL_DIR={tmp_path}']
  # In writing, set aside, and no checkpoint.
  for name in ('9.orbax-checkpoint-tmp', '', 'x'):
    (tmp_path / f'checkpoint_{name}').mkdir()
  (tmp_path / 'corrupt_checkpoint_7').mkdir()
  assert sentence(*argv) == (
    f'Interrupted before a checkpoint was saved in {tmp_path}. Run the same '
    'command again to start over.'
  )
  for step in (8, 10):  # by number, not by name
    (tmp_path / f'checkpoint_{step}').mkdir()
  assert sentence(*argv) == (
    f'Interrupted; the last checkpoint saved in {tmp_path} is checkpoint_10. '
    'Run the same command again to continue from there.'
  )
  assert sentence('train', '--gin.MODEL_DIR=gs://bucket/run') == (
    'Interrupted. Run the same command again to continue from the newest '
    'checkpoint in gs://bucket/run, if one was saved.'
  )
  assert sentence('train') == interrupted.AGAIN
  assert sentence(*argv, '--dry_run') == 'Interrupted.'


def test_training_finds_its_folder_in_a_gin_file(tmp_path):
  (tmp_path / 'run.gin').write_text(f"MODEL_DIR = '{tmp_path}/run'\n")
  (tmp_path / 'run' / 'checkpoint_3').mkdir(parents=True)
  assert f'saved in {tmp_path}/run is checkpoint_3.' in sentence(
    'train', f'--gin_file={tmp_path}/run.gin'
  )


def test_a_conversion_says_what_it_leaves(tmp_path):
  output = tmp_path / 'output'
  argv = ['convert', f'--gin.OUTPUT={output}']
  assert sentence(*argv) == (
    f'Interrupted; nothing was written to {output}. Run the same command '
    'again to start over.'
  )
  for unfinished in (
    tmp_path / 'output.incomplete',
    output / 'checkpoint_3.incomplete',
    output / 'checkpoint_3.orbax-checkpoint-tmp',
  ):
    unfinished.mkdir(parents=True)
    assert sentence(*argv) == (
      f'Interrupted; {unfinished} is unfinished. Run the same command again '
      'to replace it.'
    )
    unfinished.rmdir()
  (output / 'checkpoint_3').mkdir()
  assert sentence(*argv) == (
    f'Interrupted; the checkpoint in {output} is complete.'
  )


def test_an_evaluation_says_whether_it_continues(tmp_path):
  argv = ['evaluate', f'--gin.OUTPUT_DIR={tmp_path}']
  assert 'before anything was decoded' in sentence(*argv)
  (tmp_path / 'test').mkdir()
  (tmp_path / 'test' / 'predictions.partial.jsonl').touch()
  assert sentence(*argv) == (
    f'Interrupted; what was decoded is kept in {tmp_path}. Run the same '
    'command again to continue.'
  )


def test_other_commands_say_that_they_ended():
  assert sentence('infer').startswith('Interrupted; no predictions were wri')
  assert sentence('data', 'list') == 'Interrupted.'
  assert sentence('cost', 'xxl') == 'Interrupted.'


def test_a_caller_of_main_keeps_its_own_handler(monkeypatch, capsys):
  """In a notebook, Python raises KeyboardInterrupt as ever."""

  def report(args):
    """A command that is interrupted."""
    signal.raise_signal(signal.SIGINT)

  monkeypatch.setattr('gqa_flax.cli.report.report', report)
  for _ in range(2):
    assert cli.main(['report']) == 130
    assert capsys.readouterr().err == '\ngqa-flax report: Interrupted.\n'
  assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupted_process_of_a_job_waits_for_no_other(
  monkeypatch, capsys
):
  """Those may wait for it, in a computation that it has left."""

  def report(args):
    """A command that is interrupted."""
    raise KeyboardInterrupt

  left = []
  monkeypatch.setattr('gqa_flax.cli.report.report', report)
  monkeypatch.setattr('jax.distributed.is_initialized', lambda: True)
  monkeypatch.setattr('gqa_flax.partitioning.hosts.leave', left.append)
  assert cli.main(['report']) == 130
  assert left == [130]
