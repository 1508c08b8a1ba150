"""Bad inputs: each case breaks one thing in a valid command line.

A case is a tuple of a key of `COMMANDS`, a change (an argument to append, or a
list of them; `!--flag` removes arguments with that prefix), and fragments that
the error message must contain. Quotation marks are ignored, and a lowercase
fragment matches any case. `$name` expands to a path of `world`, and `$tmp` to
the temporary directory in which the case runs.

The `refused` fixture runs a case. A good refusal exits with an error, prints
one sentence without internals, contains the fragments, and writes nothing.
"""

import hashlib
import importlib
import io
import json
import pathlib
import re
import signal
import socket
import string
import time
import types
from typing import NamedTuple

import jax
import numpy as np
import pytest
import seqio
from flax import traverse_util

from gqa_flax import cli
from gqa_flax.checkpoints import formats
from gqa_flax.checkpoints.architecture import parameter_shapes
from gqa_flax.config import T5Config
from gqa_flax.evaluation import metrics, predictions

ROOT = pathlib.Path(__file__).parents[2]
RUNS = '--gin_file=gin_configs/runs'
TASK = [
  '--gin_file=gin_configs/tasks/own_files.gin',
  "--gin.FILES={'train': '$rows', 'validation': '$rows'}",
  '--gin.INPUTS={text}',
  '--gin.TARGETS={summary}',
  '--gin.VOCABULARY=@seqio.ByteVocabulary()',
  "--gin.TASK_FEATURE_LENGTHS={'inputs': 16, 'targets': 8}",
]
BATCH = '--gin.BATCH_SIZE=8'
MODEL = ['--gin_file=gin_configs/models/mini.gin', '--gin.VOCAB_SIZE=384']
TRAINING = ['--gin.MODEL_DIR=$tmp/model', '--gin.TRAIN_STEPS=9']

COMMANDS = {
  'train': ['train', *MODEL, *TASK, f'{RUNS}/pretrain.gin', BATCH, *TRAINING],
  'finetune': [
    *('train', *MODEL, *TASK, f'{RUNS}/finetune.gin', BATCH, *TRAINING),
    '--gin.INITIAL_CHECKPOINT_PATH=$native',
  ],
  'convert': [
    *('convert', f'{RUNS}/convert.gin', '--gin.INPUT=$native'),
    *('--gin.OUTPUT=$tmp/out', '--gin.NUM_KV_HEADS=2'),
  ],
  'calibrate': [
    *('convert', *TASK, f'{RUNS}/convert.gin', '--gin.INPUT=$native'),
    *('--gin.OUTPUT=$tmp/out', '--gin.NUM_KV_HEADS=2'),
    *('--gin.CONVERSION_METHOD=subspace', '--gin.CALIBRATION_TASK=own_files'),
    *(
      '--gin.CALIBRATION_TOKENS=16',
      "--gin.TASK_FEATURE_LENGTHS={'inputs': 16, 'targets': 8}",
      BATCH,
    ),
  ],
  'evaluate': [
    *('evaluate', *TASK, f'{RUNS}/evaluate.gin', '--gin.CHECKPOINT=$native'),
    *('--gin.OUTPUT_DIR=$tmp/scores', BATCH),
  ],
  'infer': [
    *('infer', *TASK, f'{RUNS}/infer.gin', BATCH, '--gin.CHECKPOINT=$native'),
  ],
  'time': [
    *('time', *MODEL, f'{RUNS}/time.gin', BATCH),
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 16, 'targets': 8}",
  ],
  'estimate': ['time', *MODEL, f'{RUNS}/time.gin', '--target=v4-8'],
  'data list': ['data', 'list', '--tfds_data_dir=$no_data'],
  'data check': [
    'data',
    'check',
    *TASK,
    '$repo/gin_configs/tasks/own_files.gin',
  ],
  # Without their data sets on disk, these fail only after the settings pass.
  'trivia_qa': ['data', 'check', 'trivia_qa'],
  'media_sum': ['data', 'check', 'media_sum'],
  'multi_news': ['data', 'check', 'multi_news'],
  'data prepare': [
    *('data', 'prepare', *TASK, '$repo/gin_configs/tasks/own_files.gin'),
  ],
  'compare': ['compare', '$scores_a', '$scores_b', '--num_resamples=10'],
  'average': ['average', '$scores_a', '$scores_b'],
  'cost': ['cost', 'xxl'],
  'cost decoder': ['cost', 'llama-2-7b'],
  'report': ['report', '--results=$results', '--output=$tmp/page.html'],
}

# Wording of Python, libraries and the operating system.
INTERNALS = re.compile(
  r"""Traceback|\ File\ "|[Ee]rrno|OCDBT|OUT_OF_RANGE
  |RESOURCE_EXHAUSTED|INVALID_ARGUMENT|NOT_FOUND|FAILED_PRECONDITION|DATA_LOSS|INTERNAL:
  |\b\w*(Type|Key|Index|Attribute|Value|Recursion|Unicode\w*|Overflow
  |Assertion|Directory|Permission|NotFound|JSONDecode|ZeroDivision|Runtime
  |Import|Lookup|Name|OS|IO)Error
  |NoneType|\btf\.|tensorflow|\bnode\ |\{\{|jaxlib|orbax|absl|\bast\.
  |(?<!-)\bgin\.[a-z]|dtype=|<class|<function|<module|object\ at\ 0x
  |Invalid\ path\ type|unsupported\ operand|not\ supported\ between
  |index\ out\ of\ range|indices\ must\ be|has\ no\ attribute|object\ is\ not
  |unexpected\ keyword|positional\ argument|unhashable|recursion\ depth
  |not\ (iterable|subscriptable|callable)|codec\ can't|invalid\ literal
  |could\ not\ convert|must\ be\ (real\ number|str)|expected\ str|math\ domain
  |string\ formatting|inhomogeneous|array\ element|In\ call\ to|In\ bindings
  |^'[^']*'$""",
  re.VERBOSE,
)
# Log lines of C++ libraries, such as a missing GPU.
LOGGED = re.compile(r'[IWE]\d{4} |WARNING: All log messages')


class Accepted(BaseException):
  """Bad input reached training, decoding or compilation.

  A BaseException, so that the command does not catch it.
  """


class Late(BaseException):
  """The command did not answer in time.

  A BaseException, so that the command does not catch it.
  """


class Answer(NamedTuple):
  """Outcome of a command; `status` is None after a timeout."""

  status: int | None
  err: str
  seconds: float  # of CPU


@pytest.fixture(scope='session')
def world(tmp_path_factory):
  """Paths of valid, empty and nonsensical inputs."""
  folder = tmp_path_factory.mktemp('world')
  rows = [{'text': f'a long text {i}', 'summary': f'{i}'} for i in range(16)]
  (folder / 'rows.jsonl').write_text(
    ''.join(f'{json.dumps(row)}\n' for row in rows)
  )
  config = T5Config.t5_1_1('mini', vocab_size=384, dropout_rate=0.0)
  params = _random_params(config)
  for format in ('native', 'hugging_face'):
    formats.save_params(folder / format, params, config, format, step=7)
  for name in ('a', 'b'):
    _write_scores(folder / f'scores_{name}', 'rouge')
  _write_scores(folder / 'scores_bleu', 'bleu')
  (folder / 'results' / 'study').mkdir(parents=True)
  (folder / 'results' / 'study' / 'report.md').write_text('# A study\n')
  (folder / 'empty').mkdir()
  (folder / 'empty.txt').touch()
  (folder / 'binary').write_bytes(bytes(range(256)) * 4)
  (folder / 'no_data').mkdir()
  tiny = ROOT / 'tests' / 'fixtures' / 't5x_tiny'
  paths = types.SimpleNamespace(
    rows=folder / 'rows.jsonl',
    native=folder / 'native',
    hugging_face=folder / 'hugging_face',
    t5x=tiny / 'orbax',
    t5x_legacy=tiny / 'legacy',
    scores_a=folder / 'scores_a',
    scores_b=folder / 'scores_b',
    scores_bleu=folder / 'scores_bleu',
    results=folder / 'results',
    empty=folder / 'empty',
    empty_file=folder / 'empty.txt',
    binary=folder / 'binary',
    no_data=folder / 'no_data',
    vocabulary=ROOT / 'results' / 'pretraining' / 'vocabulary.model',
    repo=ROOT,
  )
  before = _snapshot(folder)
  yield paths
  assert _snapshot(folder) == before


def _random_params(config):
  rng = np.random.default_rng(0)
  flat = {
    name: rng.normal(size=shape, scale=0.1).astype(np.float32)
    for name, shape in parameter_shapes(config).items()
  }
  return traverse_util.unflatten_dict(flat, sep='/')


def _write_scores(folder, name):
  metric = metrics.get(name)
  targets, texts = ['a b', 'c d'], ['a b', 'c x']
  statistics = metric.statistics(targets, texts)
  by_example = metric.example_scores(statistics).tolist()
  folder.mkdir()
  predictions.write(
    folder,
    {
      'checkpoint': '/model',
      'step': 7,
      **{f'test/{k}': x for k, x in metric.corpus_scores(statistics).items()},
      'task': 'by_hand',
      'split': 'test',
      'metric': name,
      'num_examples': 2,
    },
    [
      {
        'index': i,
        'inputs': f'input {i}',
        'target': targets[i],
        'prediction': texts[i],
        'scores': dict(zip(metric.keys, by_example[i])),
        'statistics': statistics[i].tolist(),
      }
      for i in range(2)
    ],
  )


@pytest.fixture
def expanded(tmp_path, world):
  """Returns a function that expands `$name` in a text to a path."""
  names = {**vars(world), 'tmp': tmp_path}
  return lambda text: string.Template(text).safe_substitute(names)


@pytest.fixture
def alone(tmp_path, tmp_path_factory, monkeypatch):
  """Isolates a case from the network, the home directory and other cases."""

  def unreachable(*_):
    raise OSError('there is no network')

  home = tmp_path_factory.mktemp('home')
  monkeypatch.setattr(socket.socket, 'connect', unreachable)
  monkeypatch.setattr(socket, 'getaddrinfo', unreachable)
  monkeypatch.setenv('XDG_CACHE_HOME', str(home))
  monkeypatch.setenv('TFDS_DATA_DIR', str(home / 'tfds'))
  monkeypatch.setattr(
    'sys.stdin', io.TextIOWrapper(io.BytesIO(b'A line.\n'), 'utf-8')
  )
  monkeypatch.chdir(tmp_path)
  compilation_cache = jax.config.jax_compilation_cache_dir
  cached_tasks = seqio.get_global_cache_dirs()
  yield
  jax.config.update('jax_compilation_cache_dir', compilation_cache)
  seqio.set_global_cache_dirs(cached_tasks)


@pytest.fixture
def stopped(monkeypatch):
  """Raises `Accepted` in place of training, decoding and compilation."""

  def accept(*_, **__):
    raise Accepted

  for module, name in (
    ('training.start', 'new_state'),
    ('training.loop', 'step_function'),
    ('evaluation.decoding', 'decode_tokens'),
    ('timing.measure', 'measure'),
    ('timing.tpu_compile', 'compile_decoding'),
  ):
    monkeypatch.setattr(
      importlib.import_module(f'gqa_flax.{module}'), name, accept
    )


@pytest.fixture
def run(alone, stopped, expanded, capfd):
  """Returns a function that runs a command until its work begins."""

  def late(*_):
    raise Late

  handler = signal.signal(signal.SIGALRM, late)

  def run(base, changes=()):
    argv = [expanded(argument) for argument in _changed(base, changes)]
    capfd.readouterr()
    start = time.process_time()
    signal.alarm(120)
    try:
      status = cli.main(argv)
    except SystemExit as exit_:  # argparse
      status = exit_.code
    except Accepted:
      status = 0
    except Late:
      status = None
    finally:
      signal.alarm(0)
    return Answer(status, capfd.readouterr().err, time.process_time() - start)

  yield run
  signal.signal(signal.SIGALRM, handler)


def _changed(base, changes) -> list[str]:
  """Returns the arguments of a command after the changes."""
  argv = COMMANDS[base]
  for change in [changes] if isinstance(changes, str) else changes:
    if change.startswith('!'):
      argv = [arg for arg in argv if not arg.startswith(change[1:])]
    else:
      argv = [*argv, change]
  return argv


@pytest.fixture
def refused(run, expanded, tmp_path):
  """Returns a function that fails unless a case is refused well."""

  def refused(base, changes, *fragments):
    before = _snapshot(tmp_path)
    done = run(base, changes)
    wanted = [expanded(fragment) for fragment in fragments]
    found = _complaints(done, COMMANDS[base][0], wanted)
    after = _snapshot(tmp_path)
    changed = sorted(
      str(path.relative_to(tmp_path))
      for path in before.keys() | after.keys()
      if before.get(path) != after.get(path)
    )
    if changed and done.status != 0:
      found.append(f'left behind: {", ".join(changed[:4])}')
    if found:
      pytest.fail(
        f'{"; ".join(found)}\n  change: {changes}\n  wanted: {wanted}\n'
        f'  said: {done.err.strip() or "nothing"}',
        pytrace=False,
      )

  return refused


def _complaints(done, name, fragments) -> list[str]:
  """Returns what is wrong with the answer to a bad input."""
  if done.status == 0:
    return ['accepted']
  if done.status is None:
    return ['not found within two minutes']
  lines = [line for line in done.err.splitlines() if not LOGGED.match(line)]
  usage = done.status == 2 and lines[:1] and lines[0].startswith('usage: ')
  last = lines[-1] if lines else ''
  said = last.partition(': ')[2]
  found = []
  # The top-level parser reports unrecognized arguments.
  if not last.startswith('gqa-flax' if usage else f'gqa-flax {name}'):
    found.append('the sentence does not begin with the command')
  if len(lines) != 1 and not usage:
    found.append(f'{len(lines)} lines')
  words = re.sub(r'/\S+', '', said)  # a path may contain any word
  if internals := sorted({match[0] for match in INTERNALS.finditer(words)}):
    found.append(f'internals: {internals}')
  plain = _unquoted(said)
  if missing := [x for x in fragments if not _holds(plain, _unquoted(x))]:
    found.append(f'does not say {missing}')
  if done.seconds > 10:
    found.append(f'checked late, after {done.seconds:.0f} s')
  return found


def _holds(text: str, fragment: str) -> bool:
  """Whether a text contains a fragment; lowercase matches any case."""
  return fragment in text or (fragment.islower() and fragment in text.lower())


def _unquoted(text: str) -> str:
  return re.sub('[\'"`]', '', text)


def _snapshot(folder) -> dict[pathlib.Path, str]:
  """Returns the paths in a folder, with a digest of each file."""
  return {
    path: (
      hashlib.sha256(path.read_bytes()).hexdigest()
      if path.is_file()
      else 'folder'
    )
    for path in folder.rglob('*')
  }


def pytest_make_parametrize_id(config, val, argname):
  """Names a case after its command and its changes."""
  if argname == 'case':
    changes = [val[1]] if isinstance(val[1], str) else val[1]
    return f'{val[0]} {" ".join(changes)}'[:100]
  return None
