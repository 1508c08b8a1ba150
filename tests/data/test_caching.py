"""Tasks tokenized ahead of training: the same examples as on the fly."""

import itertools

import numpy as np
import pytest
import seqio

from gqa_flax.data import batches, caching, on_disk, paper_tasks, tasks
from gqa_flax.data.examples import read_examples
from gqa_flax.runtime.owner import FolderInUseError, Owner

VOCABULARY = seqio.ByteVocabulary(extra_ids=100)
LENGTHS = {'inputs': 48, 'targets': 32}


@pytest.fixture
def task(use_tfds):
  use_tfds('trivia_qa/rc:1.1.0')
  yield tasks.get_task('trivia_qa', VOCABULARY)
  seqio.TaskRegistry.remove('trivia_qa')
  seqio.utils.set_global_cache_dirs([])


@pytest.fixture(scope='module')
def cache(prepare, tmp_path_factory):
  """The cache of TriviaQA, written once."""
  data_dir = prepare('trivia_qa/rc:1.1.0')
  folder = tmp_path_factory.mktemp('cache')
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('TFDS_DATA_DIR', str(data_dir))
    caching.write(
      tasks.get_task('trivia_qa', VOCABULARY), str(folder), min_shards=3
    )
  seqio.TaskRegistry.remove('trivia_qa')
  return folder


def rows(stream):
  """Every row of some batches, in an order of its own."""
  found = [
    tuple(np.concatenate([batch[k][i] for k in sorted(batch)]).tolist())
    for batch in stream
    for i in range(len(batch['encoder_input_tokens']))
  ]
  return sorted(found)


def test_two_commands_do_not_write_one_cache(task, tmp_path):
  output = tmp_path / 'trivia_qa'
  begun = tmp_path / 'trivia_qa.incomplete' / 'file'
  begun.parent.mkdir()
  begun.write_text('half')
  with Owner(output, '--cache_dir', beside=True):
    with pytest.raises(FolderInUseError, match=f'--cache_dir {output} is'):
      caching.write(task, str(tmp_path))
  assert begun.read_text() == 'half'


@pytest.mark.slow
def test_cached_examples_are_those_made_on_the_fly(task, cache):
  caching.add_folders([str(cache)])
  for split in task.splits:
    live, cached = (
      read_examples(task, split, 64, use_cached=use_cached)
      for use_cached in (False, True)
    )
    assert len(live) == len(cached)

    def plain(example):
      return sorted((k, np.asarray(v).tolist()) for k, v in example.items())

    assert sorted(map(plain, live)) == sorted(map(plain, cached))


@pytest.mark.slow
def test_training_and_validation_read_the_cache(
  task, cache, tmp_path, monkeypatch, as_processes
):
  def train(batch_size=1, **kwargs):
    return batches.train_batches(
      task, LENGTHS, batch_size, seed=1, pack=False, num_epochs=1, **kwargs
    )

  def validate(**kwargs):
    return batches.evaluation_batches(task, 'validation', LENGTHS, 2, **kwargs)

  caching.add_folders([str(cache)])
  expected = rows(train()), rows(validate())
  # The data set itself is not needed any more.
  monkeypatch.setattr(seqio.utils, '_TFDS_DATA_DIR_OVERRIDE', None)
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  bare = tasks.get_task('trivia_qa', VOCABULARY)
  with pytest.raises(on_disk.MissingDataError, match='trivia_qa/rc:1.1.0'):
    batches.evaluation_batches(bare, 'validation', LENGTHS, 2)
  assert rows(validate(use_cached=True)) == expected[1]
  assert rows(train(use_cached=True)) == expected[0]
  # Three files, three hosts.
  hosts = as_processes(lambda: train(3, use_cached=True), 3)
  shards = [rows(host) for host in hosts]
  assert all(shards)
  assert sorted(itertools.chain(*shards)) == expected[0]


def test_a_cached_stream_goes_on_where_it_was_saved(task, cache, tmp_path):
  caching.add_folders([str(cache)])

  def stream():
    return batches.train_batches(task, LENGTHS, 2, seed=1, use_cached=True)

  first = stream()
  for _ in range(5):
    next(first)
  first.save(tmp_path)
  second = stream()
  second.restore(tmp_path)
  for _ in range(10):
    before, after = next(first), next(second)
    for key in before:
      np.testing.assert_array_equal(before[key], after[key], err_msg=key)


def test_span_corruption_draws_other_spans_from_one_cache(use_tfds, tmp_path):
  """What is random stands behind the cache."""
  use_tfds('c4/en:3.1.0')
  task = tasks.get_task('c4_span_corruption', VOCABULARY)
  caching.write(task, str(tmp_path))
  caching.add_folders([str(tmp_path)])
  first, second = (
    next(
      batches.train_batches(
        task,
        {'inputs': 64, 'targets': 64},
        8,
        seed=seed,
        pack=False,
        shuffle=False,
        use_cached=True,
      )
    )['encoder_input_tokens']
    for seed in (1, 2)
  )
  assert not np.array_equal(first, second)
  seqio.TaskRegistry.remove('c4_span_corruption')
  seqio.utils.set_global_cache_dirs([])


def test_statistics_count_examples_and_tokens(task, cache):
  caching.add_folders([str(cache)])
  assert caching.require(task) == caching.find(task)
  found = caching.statistics(caching.require(task))['validation']
  examples = read_examples(task, 'validation', 10**6)
  assert found['examples'] == len(examples)
  # Without EOS, which is appended behind the cache.
  assert found['inputs_tokens'] == sum(len(e['inputs']) - 1 for e in examples)


def test_a_missing_cache_is_said_with_the_remedy(task):
  with pytest.raises(
    on_disk.MissingDataError,
    match=r"'trivia_qa' is not cached in .*cached_tasks: write the cache with "
    r'`gqa-flax data prepare trivia_qa --cache`',
  ):
    read_examples(task, 'train', 64, use_cached=True)


def test_a_cache_of_another_vocabulary_is_refused(task, cache):
  caching.add_folders([str(cache)])
  other = tasks.get_task('trivia_qa', seqio.ByteVocabulary(extra_ids=7))
  with pytest.raises(ValueError, match=r'with vocabulary .*359 ids.*266 ids'):
    read_examples(other, 'train', 64, use_cached=True)


def test_a_cache_of_another_data_set_is_refused(task, cache):
  caching.add_folders([str(cache)])
  spec = paper_tasks.trivia_qa('trivia_qa/unfiltered:1.1.0')
  other = tasks.get_task('trivia_qa', VOCABULARY, spec)
  with pytest.raises(ValueError, match=r'tfds_name trivia_qa/rc:1\.1\.0, but'):
    read_examples(other, 'train', 64, use_cached=True)


def test_a_cache_of_another_text_is_refused(task, cache):
  caching.add_folders([str(cache)])
  spec = paper_tasks.trivia_qa(evidence='both')
  other = tasks.get_task('trivia_qa', VOCABULARY, spec)
  with pytest.raises(
    ValueError, match='evidence wikipedia, but the task has b'
  ):
    read_examples(other, 'train', 64, use_cached=True)


def test_a_cache_that_others_made_is_read(task, cache, tmp_path):
  import shutil

  shutil.copytree(cache, tmp_path / 'theirs')
  (tmp_path / 'theirs' / 'trivia_qa' / 'gqa_flax.json').unlink()
  caching.add_folders([str(tmp_path / 'theirs')])
  assert read_examples(task, 'train', 64, use_cached=True)


@pytest.mark.parametrize('damage', ['gone', 'cut', 'no info'])
def test_a_cache_that_is_half_there_is_refused(task, cache, tmp_path, damage):
  import shutil

  shutil.copytree(cache, tmp_path / 'half')
  folder = tmp_path / 'half' / 'trivia_qa'
  name = 'validation.tfrecord-00001-of-00003'
  if damage == 'gone':
    (folder / name).unlink()
  elif damage == 'cut':
    (folder / name).write_bytes((folder / name).read_bytes()[:-1])
  else:
    name = 'info.train.json'
    for path in folder.glob('info.*.json'):
      path.unlink()
  caching.add_folders([str(tmp_path / 'half')])
  with pytest.raises(on_disk.MissingDataError) as error:
    read_examples(task, 'train', 64, use_cached=True)
  assert str(error.value) == (
    f'Of the files of the cache {folder}, 1 are missing or cut, such as '
    f'{name}: remove that folder, and write the cache with `gqa-flax data '
    'prepare trivia_qa --cache`, say with --seqio_additional_cache_dirs where '
    'it is, or set USE_CACHED_TASKS to False.'
  )


def test_a_task_that_cannot_be_cached_has_no_cache_to_be_used():
  task = tasks.get_task('wikipedia_summarization', VOCABULARY)
  with pytest.raises(
    ValueError,
    match="'wikipedia_summarization' cannot be cached, as it has no CacheDat.*"
    'set USE_CACHED_TASKS to False',
  ):
    batches.train_batches(task, LENGTHS, 2, seed=1, use_cached=True)


def test_an_unfinished_cache_is_none(task, cache, tmp_path):
  import shutil

  shutil.copytree(cache, tmp_path / 'cut')
  (tmp_path / 'cut' / 'trivia_qa' / 'COMPLETED').unlink()
  caching.add_folders([str(tmp_path / 'cut')])
  assert caching.find(task) is None


def test_a_cache_is_replaced_only_when_told(task, cache, tmp_path, monkeypatch):
  with pytest.raises(FileExistsError, match='give --overwrite'):
    caching.write(task, str(cache))
  # What cannot be read leaves the old one alone.
  monkeypatch.setattr(seqio.utils, '_TFDS_DATA_DIR_OVERRIDE', None)
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  bare = tasks.get_task('trivia_qa', VOCABULARY)
  with pytest.raises(on_disk.MissingDataError):
    caching.write(bare, str(cache), overwrite=True)
  assert (cache / 'trivia_qa' / 'COMPLETED').exists()


def test_what_is_no_cache_is_left_alone(task, tmp_path):
  """A data set of TFDS may have the name of the task."""
  data = tmp_path / 'trivia_qa' / 'rc' / '1.1.0' / 'dataset_info.json'
  data.parent.mkdir(parents=True)
  data.write_text('{}')
  for overwrite in (False, True):
    with pytest.raises(FileExistsError, match='is there and is no cache'):
      caching.write(task, str(tmp_path), overwrite=overwrite)
  assert data.exists()


@pytest.mark.slow
def test_a_cache_stays_until_the_new_one_is_whole(task, tmp_path, monkeypatch):
  caching.write(task, str(tmp_path))
  before = {p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()}

  def fail(*args):
    raise RuntimeError('stopped')

  with monkeypatch.context() as patch:
    patch.setattr(seqio, 'dict_to_tfexample', fail)
    with pytest.raises(RuntimeError, match='stopped'):
      caching.write(task, str(tmp_path), overwrite=True)
  assert all(path.read_bytes() == content for path, content in before.items())
  caching.write(task, str(tmp_path), overwrite=True)
  assert [p.name for p in tmp_path.iterdir()] == ['trivia_qa']


def test_a_task_without_a_placeholder_cannot_be_cached(tmp_path):
  task = tasks.get_task('wikipedia_summarization', VOCABULARY)
  with pytest.raises(ValueError, match='no CacheDatasetPlaceholder'):
    caching.write(task, str(tmp_path))


def test_beam_is_asked_for_by_name(task, tmp_path, monkeypatch):
  import sys

  monkeypatch.setitem(sys.modules, 'apache_beam.options', None)
  with pytest.raises(ModuleNotFoundError, match=r"install 'gqa_flax\[beam\]'"):
    caching.write(task, str(tmp_path))
  assert not list(tmp_path.iterdir())
