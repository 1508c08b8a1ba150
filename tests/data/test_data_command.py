"""`gqa-flax data list | check | prepare`, and what a job says without data."""

import shutil
import subprocess
import sys

import pytest
import seqio

from gqa_flax import cli
from gqa_flax.data import catalogue

from .raw_files import preparing

RUNS = 'gin_configs/runs'
# TASK_FEATURE_LENGTHS and KEEP_BEST of section 3.1 and Table 1 of the paper.
PAPER = {
  'cnn_dailymail': (512, 256, 'rouge1'),
  'arxiv': (2048, 512, 'rouge1'),
  'pubmed': (2048, 512, 'rouge1'),
  'media_sum': (2048, 512, 'rouge1'),
  'multi_news': (2048, 512, 'rouge1'),
  'wmt14_en_de': (512, 256, 'bleu'),
  'trivia_qa': (2048, 32, 'f1'),
}


@pytest.fixture(autouse=True)
def clean():
  yield
  for name in catalogue.DATA_SETS:
    seqio.TaskRegistry.remove(name)
  seqio.utils.set_global_cache_dirs([])


@pytest.fixture
def bytes_task(tmp_path):
  """Makes a task file with a vocabulary that needs no download."""

  def make(name, lengths):
    path = tmp_path / f'{name}.gin'
    path.write_text(
      'from __gin__ import dynamic_registration\n'
      f"include 'gin_configs/tasks/{name}.gin'\n"
      'import seqio\n'
      f'TASK_FEATURE_LENGTHS = {lengths}\n'
      'VOCABULARY = @seqio.ByteVocabulary()\n'
    )
    return str(path)

  return make


def run(capsys, *argv):
  """Returns the status, and what was printed to either stream."""
  capsys.readouterr()  # what preparing has printed
  status = cli.main(['data', *argv])
  captured = capsys.readouterr()
  return status, captured.out, captured.err


def test_list_says_what_is_there(capsys, tmp_path, prepare):
  status, out, _ = run(capsys, 'list', f'--tfds_data_dir={tmp_path}')
  assert status == 0
  lines = out.splitlines()
  assert lines[0] == f'In {tmp_path}:'
  assert [line.split()[0] for line in lines[2:]] == [*catalogue.DATA_SETS]
  cnn = next(line for line in lines if line.startswith('cnn_dailymail'))
  assert ' '.join(cnn.split()) == (
    'cnn_dailymail cnn_dailymail:3.4.0 missing 585.4 MB to fetch no '
    '287,113 / 13,368 / 11,490'
  )
  folder = prepare('multi_news:2.1.0')
  _, out, _ = run(capsys, 'list', f'--tfds_data_dir={folder}')
  news = next(line for line in out.splitlines() if 'multi_news' in line)
  assert 'other sizes than published' in news
  assert news.endswith('16 / 5 / 5')


def test_check_shows_sizes_and_an_example(capsys, use_tfds, bytes_task):
  use_tfds('trivia_qa/rc:1.1.0')
  file = bytes_task('trivia_qa', {'inputs': 40, 'targets': 64})
  status, out, err = run(capsys, 'check', file, '--split=validation')
  assert (status, err) == (0, '')
  lines = out.splitlines()
  assert lines[0] == 'data set  trivia_qa/rc:1.1.0'
  assert [line.split() for line in lines if line.startswith('validation ')] == [
    ['validation', '11', '18,669'],
    ['validation', 'example', '0'],
  ]
  at = next(i for i, x in enumerate(lines) if x.startswith('inputs: '))
  count, rest = lines[at].removeprefix('inputs: ').split(' tokens')
  assert int(count.replace(',', '')) > 40
  assert rest == ', cut to 40 (limit 40)'
  assert lines[at + 1].replace('|', '').startswith('question: which')
  assert lines[at + 1].count('|') >= 39
  assert 'accepted answers: The Bell-Ringers of' in lines[-1]


def test_check_colors_neighbouring_tokens(capsys, use_tfds, bytes_task):
  use_tfds('cnn_dailymail:3.4.0')
  file = bytes_task('cnn_dailymail', {'inputs': 8, 'targets': 8})
  _, plain, _ = run(capsys, 'check', file)
  _, colored, _ = run(capsys, 'check', file, '--color=always')
  assert '\x1b' not in plain
  line = next(x for x in colored.splitlines() if '\x1b[36ms\x1b[0m' in x)
  assert line.startswith('\x1b[36ms\x1b[0m\x1b[33mu\x1b[0m\x1b[36mm\x1b[0m')


def test_check_refuses_what_is_not_there(capsys, use_tfds, bytes_task):
  use_tfds('cnn_dailymail:3.4.0')
  file = bytes_task('cnn_dailymail', {'inputs': 8, 'targets': 8})
  status, _, err = run(capsys, 'check', file, '--example=99')
  assert (
    status == 1 and "'train' of task 'cnn_dailymail' has no example 99" in err
  )
  status, _, err = run(capsys, 'check', 'cnn_daily')
  assert status == 2
  assert 'no task file cnn_daily.gin' in err and 'are cnn_dailymail' in err


def test_check_explains_what_must_be_fetched_by_hand(capsys, tmp_path):
  status, out, err = run(
    capsys, 'check', 'media_sum', f'--tfds_data_dir={tmp_path}'
  )
  assert status == 1
  for line in (
    'state     missing',
    '   terms: the transcripts are for research only.',
    f'3. Put both files, under these names, into {tmp_path}/downloads/manual.',
    '4. gqa-flax data prepare media_sum',
  ):
    assert line in out.splitlines()
  assert err == (
    'gqa-flax data: media_sum:1.0.0 must be fetched by hand, by the four steps '
    'above.\n'
  )


def test_check_sees_a_torn_file(capsys, tmp_path, prepare):
  shutil.copytree(
    prepare('multi_news:2.1.0') / 'multi_news', tmp_path / 'multi_news'
  )
  (file,) = tmp_path.rglob('*train.tfrecord*')
  file.write_bytes(file.read_bytes()[:-1])
  status, _, err = run(
    capsys, 'check', 'multi_news', f'--tfds_data_dir={tmp_path}'
  )
  assert status == 1 and '(split train): remove that folder' in err


@pytest.mark.parametrize('command', ['train', 'evaluate'])
def test_a_job_without_its_data_ends_before_anything_is_loaded(
  command, tmp_path
):
  """Neither TensorFlow nor JAX, let alone a download."""
  run_file, folder = {
    'train': ('finetune', 'MODEL_DIR'),
    'evaluate': ('evaluate', 'OUTPUT_DIR'),
  }[command]
  code = (
    'import sys\n'
    'from gqa_flax import cli\n'
    f"status = cli.main(['{command}',\n"
    "  '--gin_file=gin_configs/models/mini.gin',\n"
    "  '--gin_file=gin_configs/tasks/pubmed.gin',\n"
    f"  '--gin_file={RUNS}/{run_file}.gin', '--gin.{folder}=x',\n"
    f"  '--tfds_data_dir={tmp_path}'])\n"
    "assert not {'tensorflow', 'jax', 'seqio'} & {*sys.modules}\n"
    'sys.exit(status)\n'
  )
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=False
  )
  assert done.returncode == 1
  assert done.stderr == (
    f'gqa-flax {command}: The data set scientific_papers/pubmed:1.1.1 of task '
    f"'pubmed' is not in {tmp_path}: fetch it with `gqa-flax data prepare "
    'pubmed`, or say with --tfds_data_dir where it is.\n'
  )


def test_data_that_a_binding_names_is_looked_for(capsys, tmp_path):
  argv = ['train', '--gin_file=gin_configs/models/mini.gin']
  argv += ['--gin_file=gin_configs/tasks/wmt14_en_de.gin']
  argv += [f'--gin_file={RUNS}/finetune.gin']
  argv += ['--gin.TFDS_NAME=wmt_t2t_translate/de-en:1.0.0']
  assert cli.main([*argv, f'--tfds_data_dir={tmp_path}']) == 1
  assert 'set wmt_t2t_translate/de-en:1.0.0 of task' in capsys.readouterr().err
  # So is what a binding names past the file's macro.
  direct = '--gin.paper_tasks.wmt14_en_de.tfds_name=other:1.0.0'
  assert cli.main([*argv, direct, f'--tfds_data_dir={tmp_path}']) == 1
  error = capsys.readouterr().err
  assert 'set other:1.0.0 of task' in error and 'check TFDS_NAME' in error
  # A cache does without, where there is one.
  argv += ['--gin.USE_CACHED_TASKS=True', f'--tfds_data_dir={tmp_path}']
  assert cli.main(argv) == 1
  assert (
    f"Task 'wmt14_en_de' is not cached in {tmp_path}/cached_tasks: write the "
    'cache with `gqa-flax data prepare wmt14_en_de --cache`, say with '
  ) in capsys.readouterr().err
  cache = tmp_path / 'elsewhere' / 'wmt14_en_de'
  cache.mkdir(parents=True)
  (cache / 'COMPLETED').write_text('')
  (cache / 'info.train.json').write_text('{"num_shards": 1}')
  argv += [f'--seqio_additional_cache_dirs={cache.parent}']
  assert cli.main(argv) == 1
  assert 'such as train.tfrecord-00000-of-00001: rem' in capsys.readouterr().err
  (cache / 'train.tfrecord-00000-of-00001').write_text('')
  # Then the data is there, and what else is missing is asked for.
  assert cli.main(argv) == 2
  assert 'add --gin.MODEL_DIR=...' in capsys.readouterr().err


@pytest.mark.parametrize(
  ('argv', 'message'),
  [
    (
      ['list', '--tfds_data_dir=FILE'],
      'The data sets cannot be in FILE, which',
    ),
    (
      ['check', 'arxiv', '--tfds_data_dir=FILE'],
      'The data sets cannot be in FILE, which is a file: give a folder as --t',
    ),
    (
      ['prepare', 'arxiv', '--tfds_data_dir=FILE'],
      'The data sets cannot be in FILE, which is a file: give a folder as --t',
    ),
    (
      ['check', 'media_sum', '--manual_dir=FILE'],
      '--manual_dir=FILE is a file; give a folder.',
    ),
    (
      ['prepare', 'media_sum', '--manual_dir=FILE'],
      '--manual_dir=FILE is a file; give a folder.',
    ),
    (
      ['prepare', 'arxiv', '--cache', '--cache_dir=FILE'],
      '--cache_dir=FILE is a file; give a folder.',
    ),
    (
      ['prepare', 'arxiv', '--cache', '--min_shards=0'],
      '--min_shards=0: a split is in 1 file at least.',
    ),
    (
      ['prepare', 'arxiv', '--min_shards=4'],
      '--min_shards is about a cache: give --cache with it, or leave it out.',
    ),
    (
      ['prepare', 'arxiv', '--overwrite'],
      '--overwrite is about a cache: give --cache with it, or leave it out.',
    ),
    (
      ['prepare', 'arxiv', '--pipeline_options=garbage'],
      "--pipeline_options: 'garbage' is none of Beam's options, which begin w",
    ),
    (
      ['prepare', 'arxiv', '--pipeline_options=--,--runner=x'],
      "--pipeline_options: '--' is none of Beam's options, which begin with -",
    ),
  ],
)
def test_options_that_cannot_be_are_refused(capsys, tmp_path, argv, message):
  file = tmp_path / 'file'
  file.write_text('')
  status, out, err = run(capsys, *(a.replace('FILE', str(file)) for a in argv))
  assert status != 0 and out == ''
  assert err.startswith(f'gqa-flax data: {message.replace("FILE", str(file))}')
  assert err.count('\n') == 1
  assert [*tmp_path.iterdir()] == [file]


@pytest.mark.parametrize('split', ['nope', 'train[:2]', 'train+validation'])
def test_a_split_that_a_task_has_not_is_said(capsys, split):
  argv = ['check', 'wikipedia_summarization', f'--split={split}']
  status, _, err = run(capsys, *argv)
  assert status == 1
  assert f'no split {split!r}' in err and 'train, validation, test' in err
  assert err.count('\n') == 1


def test_prepare_writes_a_data_set_once(
  capsys, tmp_path, raw_files, bytes_task, monkeypatch
):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  raw = raw_files('multi_news:2.1.0')
  file = bytes_task('multi_news', {'inputs': 8, 'targets': 8})
  with preparing.offline(raw):
    status, out, _ = run(capsys, 'prepare', file)
  assert status == 0
  assert 'train             16     44,972' in out.splitlines()
  written = {p: p.stat().st_mtime_ns for p in tmp_path.rglob('*tfrecord*')}
  assert len(written) == 3
  # Again, without a network.
  status, out, _ = run(capsys, 'prepare', file)
  assert status == 0 and 'train             16     44,972' in out.splitlines()
  assert written == {
    p: p.stat().st_mtime_ns for p in tmp_path.rglob('*tfrecord*')
  }


INTERRUPTED_PREPARATION = """
import os, signal, sys, time
import tensorflow_datasets as tfds
from tensorflow_datasets.core import utils
from gqa_flax import cli

class Builder:
  def __init__(self, name, data_dir):
    name, _, version = name.partition(':')
    self.data_dir = f'{data_dir}/{name}/{version}'

  def download_and_prepare(self, download_config):
    with utils.incomplete_dir(self.data_dir) as folder:
      open(f'{folder}/multi_news-train.tfrecord-00000-of-00001', 'w').close()
      os.kill(os.getpid(), signal.SIGINT)
      time.sleep(3600)

tfds.builder = Builder
signal.signal(signal.SIGINT, signal.default_int_handler)  # were it ignored
sys.exit(cli.console())
"""


@pytest.mark.slow
def test_an_interrupted_preparation_leaves_what_was_there(tmp_path, bytes_task):
  file = bytes_task('multi_news', {'inputs': 8, 'targets': 8})
  other = tmp_path / 'multi_news' / 'incomplete.ABCDEF_2.1.0'
  other.mkdir(parents=True)
  argv = ['data', 'prepare', file, f'--tfds_data_dir={tmp_path}']
  done = subprocess.run(
    [sys.executable, '-c', INTERRUPTED_PREPARATION, *argv],
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 130, done.stderr
  assert done.stderr.splitlines()[-1] == (
    'gqa-flax data: Interrupted; files that were downloaded completely are '
    'kept. Run the same command again to continue.'
  )
  assert 'Traceback' not in done.stderr
  assert [*other.parent.iterdir()] == [other]


def test_prepare_does_not_take_half_a_data_set_for_a_whole(
  capsys, tmp_path, prepare, monkeypatch
):
  shutil.copytree(
    prepare('multi_news:2.1.0') / 'multi_news', tmp_path / 'multi_news'
  )
  (file,) = tmp_path.rglob('*train.tfrecord*')
  file.unlink()
  argv = ['multi_news', f'--tfds_data_dir={tmp_path}']
  status, _, err = run(capsys, 'prepare', *argv)
  assert status == 1
  assert f'lacks 1 of its files in {tmp_path}/multi_news/2.1.0' in err


def test_beam_gets_its_options_whatever_the_version(
  capsys, tmp_path, bytes_task, monkeypatch
):
  import tensorflow_datasets as tfds

  found = []

  class Builder:
    def download_and_prepare(self, download_config):
      found.append(download_config.beam_options.get_all_options())

  monkeypatch.setattr(tfds, 'builder', lambda name, data_dir: Builder())
  monkeypatch.setattr('gqa_flax.data.prepare.find_spec', lambda name: True)
  file = bytes_task('c4_span_corruption', {'inputs': 64, 'targets': 64})
  argv = ['prepare', file, '--gin.TFDS_NAME=c4/en:2.2.0']
  argv += ['--pipeline_options=--runner=FlinkRunner,--experiments=a,b']
  run(capsys, *argv, f'--tfds_data_dir={tmp_path}')
  assert found[0]['runner'] == 'FlinkRunner'
  assert found[0]['experiments'] == ['a', 'b']


def test_prepare_reads_what_was_fetched_by_hand(
  capsys, tmp_path, raw_files, bytes_task, monkeypatch
):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  file = bytes_task('media_sum', {'inputs': 8, 'targets': 8})
  status, _, err = run(capsys, 'prepare', file)
  assert status == 1
  assert 'lacks news_dialogue.json, train_val_test_split.json: 1. Open' in err
  assert not (tmp_path / 'media_sum').exists()
  manual = raw_files('media_sum:1.0.0').manual_dir
  status, out, _ = run(capsys, 'prepare', file, f'--manual_dir={manual}')
  assert status == 0 and 'val           5     10,000' in out.splitlines()
  # Once it is written, the files may go.
  status, out, _ = run(capsys, 'prepare', file)
  assert status == 0 and 'val           5     10,000' in out.splitlines()


def test_prepare_has_nothing_to_do_for_other_tasks(capsys):
  status, out, _ = run(capsys, 'prepare', 'wikipedia_summarization')
  assert status == 0
  assert out == (
    'wikipedia_summarization reads no data set of TFDS: there is nothing to '
    'fetch.\n'
  )


def test_prepare_asks_for_packages_before_it_starts(
  capsys, tmp_path, bytes_task, monkeypatch
):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  monkeypatch.setattr('gqa_flax.data.prepare.find_spec', lambda name: None)
  file = bytes_task('c4_span_corruption', {'inputs': 64, 'targets': 64})
  status, _, err = run(capsys, 'prepare', file)
  assert status == 1 and 'run `pip install langdetect nltk`, on the wor' in err
  assert not (tmp_path / 'c4').exists()


def test_prepare_says_that_there_is_no_network(
  capsys, tmp_path, bytes_task, monkeypatch
):
  import tensorflow_datasets as tfds

  def refuse(self, addresses):
    raise ConnectionError('no route to host\nand more')

  monkeypatch.setattr(
    tfds.download.DownloadManager, 'download_and_extract', refuse
  )
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  file = bytes_task('multi_news', {'inputs': 8, 'targets': 8})
  status, _, err = run(capsys, 'prepare', file)
  assert status == 1
  assert 'could not be downloaded (no route to host); check the network' in err
  assert not list(tmp_path.rglob('*tfrecord*'))


@pytest.mark.slow
def test_prepare_caches(capsys, use_tfds, tmp_path, bytes_task):
  use_tfds('cnn_dailymail:3.4.0')
  file = bytes_task('cnn_dailymail', {'inputs': 8, 'targets': 8})
  argv = ['prepare', file, '--cache', f'--cache_dir={tmp_path}/cache']
  status, out, _ = run(capsys, *argv, '--min_shards=4')
  assert status == 0
  lines = [line.split() for line in out.splitlines()]
  assert ['cache', f'{tmp_path}/cache/cnn_dailymail'] in lines
  header = next(x for x in lines if 'inputs_tokens' in x)
  train = lines[lines.index(header) + 2]
  assert header[:2] == ['split', 'examples'] and train[:2] == ['train', '14']
  files = list((tmp_path / 'cache').rglob('train.tfrecord*'))
  assert len(files) == 4
  # `list` looks where a cache is by default.
  data_dir = tmp_path / 'data'
  shutil.copytree(tmp_path / 'cache', data_dir / 'cached_tasks')
  _, listed, _ = run(capsys, 'list', f'--tfds_data_dir={data_dir}')
  cached = [line.split()[0] for line in listed.splitlines() if ' yes ' in line]
  assert cached == ['cnn_dailymail']
  status, _, err = run(capsys, *argv)
  assert status == 1 and 'is cached in' in err and '--overwrite' in err


@pytest.mark.slow
@pytest.mark.parametrize('name', PAPER)
def test_task_files_carry_the_papers_recipe(name, capsys):
  argv = ['train', '--dry_run', '--gin_file=gin_configs/models/xxl.gin']
  argv += ['--gin_file=gin_configs/attention/gqa_8.gin']
  argv += [f'--gin_file=gin_configs/tasks/{name}.gin']
  assert cli.main([*argv, f'--gin_file={RUNS}/finetune.gin']) == 0
  lines = capsys.readouterr().out.splitlines()
  inputs, targets, score = PAPER[name]
  for line in (
    f"TASK_FEATURE_LENGTHS = {{'inputs': {inputs}, 'targets': {targets}}}",
    f"KEEP_BEST = 'validation/{score}'",
    'BATCH_SIZE = 128',
    'LEARNING_RATE = 0.001',
    'DROPOUT_RATE = 0.1',
    f"TFDS_NAME = '{catalogue.DATA_SETS[name].tfds_name}'",
    'VOCAB_SIZE = 32128',
    'loop.train.keep_best = %KEEP_BEST',
  ):
    assert line in lines


@pytest.mark.slow
def test_uptraining_reads_c4_as_the_paper_did(capsys):
  argv = ['train', '--dry_run', '--gin_file=gin_configs/models/xxl.gin']
  argv += ['--gin_file=gin_configs/tasks/c4_span_corruption.gin']
  assert cli.main([*argv, f'--gin_file={RUNS}/uptrain.gin']) == 0
  lines = capsys.readouterr().out.splitlines()
  for line in (
    "TASK_FEATURE_LENGTHS = {'inputs': 512, 'targets': 114}",
    'BATCH_SIZE = 2048',
    'PACK = True',
    "TFDS_NAME = 'c4/en:3.1.0'",
  ):
    assert line in lines
