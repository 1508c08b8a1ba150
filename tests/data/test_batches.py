"""Batches: nothing lost, nothing repeated, and the same after a restart."""

import itertools

import numpy as np
import pytest
import seqio
import tensorflow as tf

from gqa_flax.data import batches, tasks
from gqa_flax.data.examples import generation_batches, read_examples
from gqa_flax.data.span_corruption import span_corruption

LENGTHS = {'inputs': 32, 'targets': 16}
NUM_WORDS = 40


class WordVocabulary(seqio.PassThroughVocabulary):
  """Reads texts of numbers, so that tokens can be followed to their source."""

  def __init__(self):
    super().__init__(1000, eos_id=1)

  def _encode(self, s):
    return [int(word) for word in s.split()]

  def _encode_tf(self, s):
    return tf.strings.to_number(tf.strings.split(s), tf.int32)


def _words(split):
  # Row i: i in the inputs, once or more, and in the targets.
  rows = range(10, 10 + {'train': NUM_WORDS, 'few': 5, 'empty': 0}[split])
  return {
    'inputs': [' '.join([f'{i}'] * (1 + i % 7)) for i in rows],
    'targets': [f'{i} {i}' for i in rows],
  }


def _documents(split):
  return {
    'targets': [
      ' '.join(str(10 + (i * 31 + j) % 800) for j in range(20 + i))
      for i in range(128)
    ]
  }


@pytest.fixture(scope='module', autouse=True)
def registered():
  features = {
    key: seqio.Feature(WordVocabulary(), add_eos=True) for key in LENGTHS
  }
  finish = seqio.preprocessors.append_eos_after_trim
  seqio.TaskRegistry.add(
    'words',
    output_features=features,
    source=tasks.TextSource(_words, ['train', 'few', 'empty']),
    preprocessors=[seqio.preprocessors.tokenize, finish],
    shuffle_buffer_size=16,
  )
  seqio.TaskRegistry.add(
    'spans',
    output_features=features,
    source=tasks.TextSource(_documents, ['train']),
    preprocessors=[seqio.preprocessors.tokenize, span_corruption, finish],
    shuffle_buffer_size=16,
  )
  yield
  seqio.TaskRegistry.remove('words')
  seqio.TaskRegistry.remove('spans')


def train(name='words', batch_size=4, seed=0, **kwargs):
  return batches.train_batches(
    tasks.get_task(name), LENGTHS, batch_size, seed, **kwargs
  )


def evaluate(name='words', split='few', batch_size=4, **kwargs):
  return list(
    batches.evaluation_batches(
      tasks.get_task(name), split, LENGTHS, batch_size, **kwargs
    )
  )


def assert_equal(batches_a, batches_b):
  for a, b in zip(batches_a, batches_b, strict=True):
    assert a.keys() == b.keys()
    for key in a:
      np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def words(batches_):
  """The words of the targets, with EOS and padding left out."""
  tokens = np.concatenate(
    [b['decoder_target_tokens'].ravel() for b in batches_]
  )
  return sorted(tokens[tokens >= 10].tolist())


def every_word(num_rows):
  return sorted(2 * list(range(10, 10 + num_rows)))


def test_an_unpacked_batch_is_written_as_the_model_reads_it():
  batch = next(train(pack=False, shuffle=False, batch_size=2))
  pad = np.zeros(16, np.int32)
  expected = {
    'encoder_input_tokens': [
      [10] * 4 + [1] + [0] * 27,
      [11] * 5 + [1] + [0] * 26,
    ],
    'decoder_target_tokens': [[10, 10, 1, *pad[3:]], [11, 11, 1, *pad[3:]]],
    # seqio leaves the EOS in, where the loss has no weight.
    'decoder_input_tokens': [
      [0, 10, 10, 1, *pad[4:]],
      [0, 11, 11, 1, *pad[4:]],
    ],
    'decoder_loss_weights': [[1, 1, 1, *pad[3:]]] * 2,
  }
  assert_equal([batch], [expected])
  assert {array.dtype for array in batch.values()} == {np.dtype('int32')}


def test_packing_keeps_every_token_and_tells_examples_apart():
  packed = evaluate(split='train', pack=True)
  assert words(packed) == every_word(NUM_WORDS)
  num_segments = 0
  for batch in packed:
    for row in range(4):
      segments = range(1, 1 + batch['encoder_segment_ids'][row].max())
      num_segments += len(segments)
      assert batch['decoder_segment_ids'][row].max() == len(segments)
      for segment in segments:
        inputs, targets = (
          batch[f'{side}_tokens'][row][
            batch[f'{side.split("_")[0]}_segment_ids'][row] == segment
          ]
          for side in ('encoder_input', 'decoder_target')
        )
        word = targets[0]
        assert inputs.tolist() == [word] * (1 + word % 7) + [1]
        assert targets.tolist() == [word, word, 1]
        positions = batch['encoder_positions'][row][
          batch['encoder_segment_ids'][row] == segment
        ]
        assert positions.tolist() == list(range(len(inputs)))
  assert num_segments == NUM_WORDS
  assert sum(len(b['decoder_segment_ids']) for b in packed) < NUM_WORDS


@pytest.mark.slow
@pytest.mark.parametrize('name, pack', [('words', False), ('spans', True)])
def test_restored_batches_go_on_as_if_never_stopped(name, pack, tmp_path):
  # 25 batches of 4 rows reach into the second epoch or, where packed, beyond.
  first, batches_, saved = train(name, pack=pack), [], (1, 18)
  for position in range(25):
    if position in saved:
      first.save(tmp_path / str(position))
    batches_.append(next(first))
  second = train(name, pack=pack)
  for position in saved:
    second.restore(tmp_path / str(position))
    assert_equal(itertools.islice(second, 25 - position), batches_[position:])


def test_saving_does_not_disturb_the_batches(tmp_path):
  saving, undisturbed = train(pack=False), train(pack=False)
  for _ in range(12):
    saving.save(tmp_path)
    assert_equal([next(saving)], [next(undisturbed)])


def test_shuffled_epochs_hold_every_example_in_another_order():
  iterator = train(pack=False, batch_size=NUM_WORDS, num_epochs=2)
  first, second = iterator
  assert words([first, second]) == sorted(2 * every_word(NUM_WORDS))
  order = 'decoder_target_tokens'
  assert not np.array_equal(first[order], second[order])


def test_every_epoch_draws_other_spans():
  task = tasks.get_task('spans')
  num_rows = sum(1 for _ in task.get_dataset(LENGTHS, shuffle=False))
  iterator = train('spans', shuffle=False, pack=False, batch_size=num_rows)
  first, second = next(iterator), next(iterator)
  # The same documents in the same order: only the sentinels' places differ.
  assert not np.array_equal(
    first['encoder_input_tokens'], second['encoder_input_tokens']
  )
  sizes = [(b['encoder_input_tokens'] != 0).sum() for b in (first, second)]
  assert sizes[0] == sizes[1]


@pytest.mark.slow
def test_seeds_decide_the_batches():
  first, again, other = (
    next(train('spans', seed=seed, pack=False)) for seed in (5, 5, 6)
  )
  assert_equal([first], [again])
  assert not np.array_equal(
    first['encoder_input_tokens'], other['encoder_input_tokens']
  )


def test_processes_read_disjoint_and_complete_parts(as_processes):
  shards = [
    words(process)
    for process in as_processes(
      lambda: train(pack=False, batch_size=3, num_epochs=1), 3
    )
  ]
  assert sorted(itertools.chain(*shards)) == every_word(NUM_WORDS)
  assert [len(set(shard)) for shard in shards] == [14, 13, 13]


def global_batches(processes, number):
  """Puts the rows of all processes together, for a number of batches."""
  gathered = []
  for _ in range(number):
    parts = [next(process) for process in processes]
    gathered.append(
      {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    )
  return gathered


def save_all(processes, directory):
  for process in processes:
    process.save(directory)


KINDS = pytest.mark.parametrize(
  'name, pack', [('words', False), ('spans', True)]
)


@pytest.mark.slow
@KINDS
def test_batches_do_not_depend_on_the_number_of_processes(
  name, pack, as_processes
):
  def make():
    return train(name, batch_size=8, pack=pack, num_shards=4)

  whole = list(itertools.islice(make(), 12))
  assert {len(array) for array in whole[0].values()} == {8}
  for number in (2, 3, 4):
    assert_equal(global_batches(as_processes(make, number), 12), whole)


@pytest.mark.slow
@KINDS
def test_other_numbers_of_processes_continue_exactly(
  name, pack, as_processes, tmp_path
):
  def make():
    return train(name, batch_size=8, pack=pack)

  four = as_processes(make, 4)
  global_batches(four, 3)
  save_all(four, tmp_path / '4')
  expected = global_batches(four, 12)
  last = 4
  # Each takes over from the one before; of 3, some share a stream.
  for done, number in enumerate((3, 1, 2)):
    others = as_processes(make, number)
    for process in others:
      process.restore(tmp_path / str(last))
    assert_equal(global_batches(others, 2), expected[2 * done : 2 * done + 2])
    save_all(others, tmp_path / str(number))
    names = {path.stem for path in (tmp_path / str(number)).glob('*.json')}
    assert names == {f'batches-{i:05}-of-00004' for i in range(4)}
    last = number


@pytest.mark.slow
def test_a_used_iterator_takes_over_another_number_of_streams(tmp_path):
  saved, other = (
    train(batch_size=8, pack=False, num_shards=n) for n in (4, None)
  )
  next(saved), next(other)
  saved.save(tmp_path)
  other.restore(tmp_path)
  assert_equal(itertools.islice(other, 3), list(itertools.islice(saved, 3)))


@pytest.mark.slow
@pytest.mark.parametrize('number, whole', [(3, False), (8, False), (2, True)])
def test_every_stream_is_saved_by_one_process(
  number, whole, as_processes, tmp_path
):
  def make():
    return train(batch_size=8, pack=False, num_shards=4)

  def every_row(number, num_rows, process):
    return np.arange(num_rows)

  options = {'rows': every_row} if whole else {}
  for index, process in enumerate(as_processes(make, number, **options)):
    process.save(tmp_path / str(index))
  found = sorted(path.stem for path in tmp_path.glob('*/*.json'))
  assert found == [f'batches-{i:05}-of-00004' for i in range(4)]


def test_a_process_opens_the_streams_of_its_rows_alone(
  as_processes, monkeypatch
):
  opened, read = [], batches.reading.dataset

  def spy(*args, shard_info=None, **kwargs):
    if shard_info:
      opened.append((shard_info.index, shard_info.num_shards))
    return read(*args, shard_info=shard_info, **kwargs)

  monkeypatch.setattr(batches.reading, 'dataset', spy)
  two = as_processes(lambda: train(batch_size=8, num_shards=4), 2)
  assert opened == []
  next(two[1])
  next(two[1])
  assert opened == [(2, 4), (3, 4)]


@pytest.mark.slow
def test_an_iterator_ends_with_the_first_of_its_streams(as_processes):
  # 14, 13 and 13 examples: the second process has only the last stream.
  def make():
    return train(pack=False, batch_size=3, num_epochs=1, num_shards=3)

  def first_two(number, num_rows, process):
    return np.array([[0, 1], [2]][process])

  assert len(list(make())) == 13
  sizes = [len(list(p)) for p in as_processes(make, 2, rows=first_two)]
  assert sizes == [13, 13]
  assert [len(list(p)) for p in as_processes(make, 3)] == [14, 13, 13]


def test_evaluation_fills_up_the_last_batch_with_rows_without_weight():
  first, last = evaluate()
  assert words([first, last]) == every_word(5)
  assert first['decoder_loss_weights'].shape == (4, 16)
  for array in last.values():
    assert array.shape[0] == 4
    assert array[0].any() and not array[1:].any()


def test_evaluation_is_the_same_every_time():
  runs = [evaluate('spans', 'train', num_examples=20) for _ in range(2)]
  assert len(runs[0]) == 5
  assert_equal(*runs)


def test_processes_share_the_rows_of_evaluation():
  whole = evaluate(batch_size=4)
  halves = [
    evaluate(batch_size=4, rows=lambda n, i=i: np.arange(n).reshape(2, -1)[i])
    for i in range(2)
  ]
  assert_equal(
    whole,
    [
      {key: np.concatenate([a[key], b[key]]) for key in a}
      for a, b in zip(*halves, strict=True)
    ],
  )


def test_examples_keep_the_texts_and_make_generation_batches():
  examples = read_examples(tasks.get_task('words'), 'few', 4)
  assert [e['targets_pretokenized'] for e in examples] == [
    f'{i} {i}'.encode() for i in range(10, 15)
  ]
  assert examples[1]['inputs_pretokenized'] == b'11 11 11 11 11'
  assert examples[1]['inputs'].tolist() == [11, 11, 11, 1]
  first, last = generation_batches(examples, 6, 3)
  np.testing.assert_array_equal(
    first['encoder_input_tokens'],
    [[10, 10, 10, 1, 0, 0], [11, 11, 11, 1, 0, 0], [12, 12, 12, 1, 0, 0]],
  )
  np.testing.assert_array_equal(
    last['encoder_input_tokens'],
    [[13, 13, 13, 1, 0, 0], [14, 1, 0, 0, 0, 0], [0] * 6],
  )
  assert len(read_examples(tasks.get_task('words'), 'few', 4, 2)) == 2


@pytest.mark.parametrize(
  ('finish', 'add_eos', 'kept'),
  [
    (seqio.preprocessors.append_eos_after_trim, True, [7, 8, 9, 1]),
    # Cut after EOS was appended, and without EOS: plainly.
    (seqio.preprocessors.append_eos, True, [7, 8, 9, 10]),
    (seqio.preprocessors.append_eos_after_trim, False, [7, 8, 9, 10]),
  ],
)
def test_examples_know_how_long_their_inputs_were(finish, add_eos, kept):
  feature = seqio.Feature(WordVocabulary(), add_eos=add_eos)
  texts = ['7 8 9 10 11 12', '7 8', '7 8 9', '7 8 9 10']
  rows = {'inputs': texts, 'targets': ['5'] * 4}
  task = seqio.Task(
    'cut',
    output_features={'inputs': feature, 'targets': feature},
    source=tasks.TextSource(lambda split: rows, ['test']),
    preprocessors=[seqio.preprocessors.tokenize, finish],
  )
  examples = read_examples(task, 'test', 4)
  assert [e['uncut_inputs_length'] for e in examples] == [
    len(text.split()) + add_eos for text in texts
  ]
  assert examples[0]['inputs'].tolist() == kept
  whole = [7, 8, 9] + [1] * add_eos
  assert examples[2]['inputs'].tolist() == whole


def test_inputs_that_are_not_their_texts_tokens_are_of_unknown_length():
  def shorten(dataset):
    return dataset.map(lambda x: {**x, 'inputs': x['inputs'][1:]})

  feature = seqio.Feature(WordVocabulary(), add_eos=True)
  rows = {'inputs': ['7 8 9 10 11 12'], 'targets': ['5']}
  task = seqio.Task(
    'shortened',
    output_features={'inputs': feature, 'targets': feature},
    source=tasks.TextSource(lambda split: rows, ['test']),
    preprocessors=[
      seqio.preprocessors.tokenize,
      shorten,
      seqio.preprocessors.append_eos_after_trim,
    ],
  )
  (example,) = read_examples(task, 'test', 4)
  assert example['inputs'].tolist() == [8, 9, 10, 1]
  assert example['uncut_inputs_length'] == 4


@pytest.mark.slow
def test_bad_data_is_refused_in_a_sentence():
  with pytest.raises(ValueError, match=r"no split 'dev': it has train, few"):
    train(split='dev')
  with pytest.raises(ValueError, match=r"no examples in its split 'empty'"):
    train(split='empty')
  with pytest.raises(ValueError, match=r'no examples in shard 5 of 8 of its'):
    next(train(split='few', batch_size=8, num_shards=8))
  with pytest.raises(ValueError, match=r'too short for span corruption'):
    batches.train_batches(
      tasks.get_task('spans'), {'inputs': 4, 'targets': 4}, 1, 0
    )


def test_a_position_is_restored_only_where_it_belongs(tmp_path):
  iterator = train(pack=False)
  with pytest.raises(FileNotFoundError, match='no saved position'):
    iterator.restore(tmp_path)
  iterator.save(tmp_path)
  with pytest.raises(ValueError, match='pack = False, but now it is True'):
    train(pack=True).restore(tmp_path)
  with pytest.raises(ValueError, match='of 1 streams, but DATA_SHARDS is 2'):
    train(num_shards=2, pack=False).restore(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('number', [1, 2])
def test_a_new_seed_starts_a_new_order(number, tmp_path, as_processes, capsys):
  def make(seed):
    return train(batch_size=8, pack=False, seed=seed)

  saved = as_processes(lambda: make(0), 2)
  global_batches(saved, 3)
  save_all(saved, tmp_path)
  others = as_processes(lambda: make(1), number)
  for process in others:
    process.restore(tmp_path)
  (line,) = capsys.readouterr().err.splitlines()  # said by one process alone
  assert line.startswith('Warning: RANDOM_SEED is not that of the position in')
  # The number of streams stays that of the position.
  expected = global_batches(as_processes(lambda: make(1), 2), 3)
  assert_equal(global_batches(others, 3), expected)
  save_all(others, tmp_path)
  again = as_processes(lambda: make(1), 1)
  again[0].restore(tmp_path)
  assert capsys.readouterr().err == ''
  assert_equal(global_batches(again, 2), global_batches(others, 2))


@pytest.mark.slow
@pytest.mark.parametrize('damage', ['nothing saved', 'a stream is missing'])
def test_a_position_that_is_not_whole_may_be_reset(damage, tmp_path, capsys):
  def make(**options):
    return train(batch_size=8, pack=False, num_shards=2, **options)

  if damage == 'a stream is missing':
    make().save(tmp_path)
    (tmp_path / 'batches-00001-of-00002.index').unlink()
  with pytest.raises(FileNotFoundError, match="set DATA_POSITION = 'reset'"):
    make().restore(tmp_path)
  reset = make(position='reset')
  reset.restore(tmp_path)
  assert "As DATA_POSITION is 'reset', they do" in capsys.readouterr().err
  assert_equal(itertools.islice(reset, 2), list(itertools.islice(make(), 2)))


def test_what_to_do_with_a_position_is_checked():
  with pytest.raises(ValueError, match="DATA_POSITION is 'keep'; give"):
    train(position='keep')


def test_batches_say_how_many_token_ids_a_model_needs():
  assert train().vocab_size == WordVocabulary().vocab_size == 1000


def test_a_stream_that_is_missing_is_named(tmp_path, as_processes):
  train(batch_size=8, pack=False, num_shards=4).save(tmp_path)
  (tmp_path / 'batches-00002-of-00004.index').unlink()
  # Also by processes that would not read it: none goes on alone.
  for process in as_processes(lambda: train(batch_size=8, pack=False), 4):
    with pytest.raises(
      FileNotFoundError, match=r'lacks batches-00002-of-00004\.index, of stream'
    ):
      process.restore(tmp_path)


def test_positions_of_two_runs_in_one_folder_are_refused(tmp_path):
  for number in (1, 2):
    train(pack=False, num_shards=number).save(tmp_path)
  with pytest.raises(ValueError, match=r'are of \[1, 2\] streams'):
    train(pack=False).restore(tmp_path)


def test_rows_that_streams_cannot_share_are_refused(as_processes):
  sentence = 'BATCH_SIZE = 4 cannot be divided over 3 streams.*DATA_SHARDS'
  with pytest.raises(ValueError, match=sentence):
    train(num_shards=3)
  with pytest.raises(ValueError, match=sentence):
    next(as_processes(train, 3)[0])
