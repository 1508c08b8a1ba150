"""What our batches take for granted in how seqio reads from TFDS."""

import collections
import functools
import itertools
import json

import pytest
import seqio
import tensorflow as tf

ALL = (
  'cnn_dailymail:3.4.0',
  'scientific_papers/arxiv:1.1.1',
  'scientific_papers/pubmed:1.1.1',
  'media_sum:1.0.0',
  'multi_news:2.1.0',
  'wmt14_translate/de-en:1.0.0',
  'trivia_qa/rc:1.1.0',
  'c4/en:3.1.0',
)
# A field that no two examples share, where the training split is in one,
# three and four files.
FIELDS = {
  'multi_news:2.1.0': 'document',
  'wmt14_translate/de-en:1.0.0': 'en',
  'c4/en:3.1.0': 'text',
}
FILES = dict(zip(FIELDS, (1, 3, 4)))
VOCABULARY = seqio.ByteVocabulary()


@pytest.fixture
def source_of(use_tfds):
  """From the name of a data set to seqio's source of it."""

  def make(name):
    use_tfds(name)
    return seqio.TfdsDataSource(name)

  return make


@pytest.fixture
def task_of(source_of):
  """From the name of a data set to a task whose inputs are its `FIELDS`."""

  def make(name):
    return seqio.TaskRegistry.add(
      'reading',
      source=source_of(name),
      preprocessors=[
        functools.partial(
          seqio.preprocessors.rekey, key_map={'inputs': FIELDS[name]}
        ),
        seqio.preprocessors.tokenize,
      ],
      output_features={'inputs': seqio.Feature(VOCABULARY)},
    )

  yield make
  seqio.TaskRegistry.remove('reading')


def to_json(example):
  return json.dumps(example, sort_keys=True)


@pytest.fixture
def continued(plain, tmp_path):
  """Reads, saves and restores; returns what came before, after, and again."""

  def read(iterator, number):
    examples = itertools.islice(iterator, number)
    return [
      to_json(plain(tf.nest.map_structure(lambda x: x.numpy(), example)))
      for example in examples
    ]

  def compare(make_dataset, position, number=None):
    first = iter(make_dataset())
    before = read(first, position)
    assert len(before) == position
    path = str(tmp_path / 'position')
    tf.train.Checkpoint(iterator=first).write(path)
    after = read(first, number)
    again = iter(make_dataset())
    tf.train.Checkpoint(iterator=again).read(path).assert_consumed()
    return before, after, read(again, number)

  return compare


@pytest.mark.slow
@pytest.mark.parametrize('name', ALL)
def test_sources_read_every_split(name, source_of, raw_files, plain):
  source = source_of(name)
  expected = raw_files(name).examples
  assert set(source.splits) == set(expected)
  for split, examples in expected.items():
    assert source.num_input_examples(split) == len(examples)
    dataset = source.get_dataset(split, shuffle=False)
    found = [plain(example) for example in dataset.as_numpy_iterator()]
    assert sorted(map(to_json, found)) == sorted(map(to_json, examples))


@pytest.mark.parametrize('shuffle', [False, True])
@pytest.mark.parametrize('name', ALL)
def test_sources_continue_where_they_were_saved(
  name, shuffle, source_of, continued, raw_files
):
  source = source_of(name)
  before, after, restored = continued(
    lambda: source.get_dataset('train', shuffle=shuffle, seed=1), position=5
  )
  assert restored == after
  expected = map(to_json, raw_files(name).examples['train'])
  assert sorted(before + after) == sorted(expected)


@pytest.mark.slow
@pytest.mark.parametrize('in_memory', [False, True])
@pytest.mark.parametrize('num_shards', [1, 2])
@pytest.mark.parametrize('name', FIELDS)
def test_tasks_continue_in_a_later_epoch(
  name, num_shards, in_memory, task_of, continued, raw_files
):
  task = task_of(name)
  num_examples = len(raw_files(name).examples['train'])

  def make():
    return task.get_dataset(
      None,
      'train',
      shuffle=True,
      shuffle_buffer_size=4,
      # Without a seed, the order of several files is a race.
      seed=1,
      shard_info=seqio.ShardInfo(num_shards - 1, num_shards),
      num_epochs=None,
      # seqio's default: a small data set is read once and kept.
      try_in_mem_cache=in_memory,
    )

  _, after, restored = continued(make, num_examples + 3, 2 * num_examples)
  assert restored == after


@pytest.mark.slow
@pytest.mark.parametrize('shuffle', [False, True])
@pytest.mark.parametrize('num_shards', [1, 2, 3])
@pytest.mark.parametrize('name', FIELDS)
def test_shards_are_disjoint_and_complete(
  name, num_shards, shuffle, task_of, raw_files
):
  task = task_of(name)
  texts = [x[FIELDS[name]] for x in raw_files(name).examples['train']]
  shards = [
    [
      VOCABULARY.decode(example['inputs'].tolist())
      for example in task.get_dataset(
        None,
        'train',
        shuffle=shuffle,
        seed=1,
        shard_info=seqio.ShardInfo(index, num_shards),
      ).as_numpy_iterator()
    ]
    for index in range(num_shards)
  ]
  assert all(shards)
  assert collections.Counter(itertools.chain(*shards)) == collections.Counter(
    texts
  )


@pytest.mark.parametrize('name', FIELDS)
def test_only_tasks_make_more_shards_than_files(name, source_of):
  source = source_of(name)
  num_files = len(source.list_shards('train'))
  assert num_files == FILES[name]
  with pytest.raises(ValueError, match="some workers won't read any data"):
    source.get_dataset('train', shard_info=seqio.ShardInfo(0, num_files + 1))
