"""Odd records: used where they can be, else skipped and said once."""

import itertools

import pytest
import seqio
import tensorflow as tf

from gqa_flax import cli
from gqa_flax.data import batches, examples, paper_tasks, skipping, tasks
from gqa_flax.evaluation.task_score import TaskScore

VOCABULARY = seqio.ByteVocabulary(extra_ids=100)
NOTHING = ('', ' \n', '\u00a0\u200b')


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
  monkeypatch.setattr(skipping, '_said', set())
  yield
  seqio.TaskRegistry.remove('media_sum')


def read(name, examples, **choices):
  """Returns texts (without the prefix), and what is skipped, by index."""
  examples = [{**e, 'tfds_id': str(i)} for i, e in enumerate(examples)]
  dataset = tf.data.Dataset.from_generator(
    lambda: iter(examples), output_signature=signature(examples[0])
  )
  to_texts = getattr(paper_tasks, name)(prefix='', **choices).preprocessors[0]
  with skipping.collected() as skipped:
    found = list(to_texts(dataset).as_numpy_iterator())
  for example in found:
    example.pop('tfds_id', None)
  return found, {int(i): lacking for i, lacking in skipped.items()}


def signature(value):
  if isinstance(value, dict):
    return {name: signature(x) for name, x in value.items()}
  return tf.TensorSpec([None] if isinstance(value, list) else [], tf.string)


def interview(utterances, speakers, summary='s'):
  return {'utt': utterances, 'speaker': speakers, 'summary': summary}


@pytest.mark.parametrize(
  ('utterances', 'speakers', 'text'),
  [
    (['a', 'b', 'c'], ['X', 'Y'], 'X: a Y: b c'),
    (['a'], ['X', 'Y', 'Z'], 'X: a'),
    (['a', 'b'], [], 'a b'),
    (['a', 'b'], ['', 'Y'], 'a Y: b'),
    (['', 'b'], ['X', 'Y'], 'X:  Y: b'),
  ],
)
def test_an_interview_needs_no_speaker_for_every_utterance(
  utterances, speakers, text
):
  found, skipped = read('media_sum', [interview(utterances, speakers)])
  assert [e['inputs'].decode() for e in found] == [text]
  assert skipped == {}


def test_an_interview_without_a_word_or_a_summary_is_skipped():
  examples = [
    interview(['a'], ['X']),
    interview([], []),
    interview(['', ' '], ['X', 'Y']),
    *(interview(['a'], ['X'], nothing) for nothing in NOTHING),
    interview(['b'], ['X']),
  ]
  found, skipped = read('media_sum', examples)
  assert [e['inputs'] for e in found] == [b'X: a', b'X: b']
  assert skipped == {
    1: 'utterance',
    2: 'utterance',
    3: 'summary',
    4: 'summary',
    5: 'summary',
  }


PAIRS = {
  'cnn_dailymail': ('article', 'highlights'),
  'arxiv': ('article', 'abstract'),
  'pubmed': ('article', 'abstract'),
  'multi_news': ('document', 'summary'),
  'wmt14_en_de': ('en', 'de'),
}


@pytest.mark.parametrize('name', PAIRS)
def test_a_pair_needs_both_its_texts(name):
  first, second = PAIRS[name]
  examples = [
    {first: ' a\n', second: 'b'},
    *({first: nothing, second: 'b'} for nothing in NOTHING),
    *({first: 'a', second: nothing} for nothing in NOTHING),
    {first: '.', second: '\u200b.'},
  ]
  found, skipped = read(name, examples)
  assert [e['inputs'] for e in found] == [b'a', b'.']
  assert skipped == dict(zip(range(1, 7), [first] * 3 + [second] * 3))


def test_several_documents_need_text_in_one():
  examples = [
    {'document': document, 'summary': 's'}
    for document in ('|||||', ' ||||| \n|||||', '||||| a', 'a |||||')
  ]
  found, skipped = read('multi_news', examples)
  assert [e['inputs'] for e in found] == [b'||||| a', b'a |||||']
  assert skipped == {0: 'document', 1: 'document'}


def question(text='q', value='v', aliases=('v', 'w'), pages=('p',)):
  return {
    'question': text,
    'answer': {'value': value, 'aliases': [*aliases]},
    'entity_pages': {'title': [*pages], 'wiki_context': [*pages]},
  }


def test_a_question_is_answered_by_what_there_is():
  examples = [
    question(),
    question(value='', aliases=['', ' ', 'w', 'x', 'w']),
    question(value='<unk>', aliases=['w']),
    question(value='u', aliases=[]),
    question(pages=[]),
    question(value='<unk>', aliases=[]),
    question(value='', aliases=['', ' ']),
    question(text=' '),
  ]
  found, skipped = read('trivia_qa', examples)
  assert [(e['targets'], e['answers'].tolist()) for e in found] == [
    (b'v', [b'v', b'w']),
    (b'w', [b'w', b'x']),
    (b'w', [b'w']),
    (b'u', [b'u']),
    (b'v', [b'v', b'w']),
  ]
  assert found[-1]['inputs'] == b'q context:'
  assert skipped == {5: 'answer', 6: 'answer', 7: 'question'}
  found, skipped = read('trivia_qa', examples[:5], drop_without_evidence=True)
  assert len(found) == 4 and skipped == {4: 'evidence'}


def test_a_data_set_of_other_fields_is_refused():
  with pytest.raises(
    ValueError,
    match="media_sum:1.0.0 has no field 'utt', which task 'media_sum' reads; "
    'it has text: check TFDS_NAME',
  ):
    read('media_sum', [{'text': 'x'}])


def test_it_is_said_once_what_is_missing_and_where(capfd):
  examples = [interview([], []), interview(['a'], ['X'], '')] * 3
  for _ in range(2):
    read('media_sum', examples)
  said = [x for x in capfd.readouterr().err.splitlines() if 'Skipping' in x]
  assert said == [
    'Skipping examples of media_sum that have no utterance, the first of them '
    '0; `gqa-flax data check media_sum --all` counts them.',
    'Skipping examples of media_sum that have no summary, the first of them 1; '
    '`gqa-flax data check media_sum --all` counts them.',
  ]


def test_tfds_says_which_record_it_is(use_tfds):
  use_tfds('media_sum:1.0.0')
  task = tasks.get_task('media_sum', VOCABULARY)
  with skipping.collected() as skipped:
    examples = task.get_dataset({'inputs': 999, 'targets': 99}, 'train')
    texts = [
      e['inputs_pretokenized'].decode()
      for e in examples.as_numpy_iterator()
      if 'speaker is missing' in e['targets_pretokenized'].decode()
    ]
  assert texts == ['summarize: FIRST: One. SECOND: Two. Three.']
  ((where, lacking),) = skipped.items()
  assert lacking == 'utterance'
  assert where.startswith('media_sum-train.tfrecord-00000-of-00001__')


def test_batches_go_on_past_what_is_skipped(use_tfds, tmp_path):
  use_tfds('media_sum:1.0.0')
  task = tasks.get_task('media_sum', VOCABULARY)

  def stream():
    return batches.train_batches(
      task, {'inputs': 32, 'targets': 32}, 2, seed=1, pack=False
    )

  first = stream()
  with skipping.collected() as skipped:
    before = [next(first) for _ in range(9)]
  assert [*skipped.values()] == ['utterance']
  first.save(tmp_path)
  second = stream()
  second.restore(tmp_path)
  for a, b in itertools.islice(zip(first, second), 20):
    assert all((a[key] == b[key]).all() for key in a)
    # Nothing but EOS would be an empty target.
    assert (a['decoder_loss_weights'].sum(1) > 1).all()
  assert len(before) == 9


def test_scores_say_what_they_leave_out(use_tfds):
  raw = use_tfds('media_sum:1.0.0')
  task = tasks.get_task('media_sum', VOCABULARY)
  score = TaskScore(task, 'train', {'inputs': 64, 'targets': 32}, 4)
  score._statistics = None
  record = score.record
  assert record['skipped'] == {'utterance': 1}
  assert record['num_examples'] == len(raw.examples['train']) - 1
  some = TaskScore(
    task, 'train', {'inputs': 64, 'targets': 32}, 4, num_examples=2
  )
  assert 'skipped' not in some.record


@pytest.fixture
def check(tmp_path, capsys):
  """Runs `data check` on MediaSum in bytes."""
  path = tmp_path / 'media_sum.gin'
  path.write_text(
    'from __gin__ import dynamic_registration\n'
    "include 'gin_configs/tasks/media_sum.gin'\n"
    'import seqio\n'
    "TASK_FEATURE_LENGTHS = {'inputs': 100, 'targets': 40}\n"
    'VOCABULARY = @seqio.ByteVocabulary()\n'
  )

  def run(*argv):
    capsys.readouterr()
    status = cli.main(['data', 'check', str(path), *argv])
    return status, *capsys.readouterr()

  return run


def test_check_goes_over_whole_splits(check, use_tfds):
  raw = use_tfds('media_sum:1.0.0')
  status, out, _ = check('--all')
  assert status == 0
  lines = out.splitlines()
  at = lines.index(next(x for x in lines if 'longest inputs' in x))
  assert ' '.join(lines[at].split()) == (
    'split examples skipped longest inputs over 100 longest targets over 40'
  )
  usable = len(raw.examples['train']) - 1
  texts = [' '.join(e['utt']) for e in raw.examples['train']]
  assert sum(len(text.encode()) > 100 for text in texts) > 0
  assert lines[at + 1].split()[:3] == ['train', str(usable), '1']
  assert [x.split()[:3] for x in lines[at + 2 : at + 4]] == [
    ['validation', '5', '0'],
    ['test', '5', '0'],
  ]
  assert lines[at + 4].startswith(
    'train: 1 skipped that have no utterance: media_sum-train.tfrecord-'
  )
  _, one, _ = check('--all', '--split=test')
  assert one.splitlines()[-1].split()[:2] == ['test', '5']


def test_check_fails_where_nothing_can_be_used(check, use_tfds, monkeypatch):
  use_tfds('media_sum:1.0.0')
  monkeypatch.setattr(skipping, '_BLANK', '(?s).*')
  status, out, err = check('--all', '--split=test')
  assert status == 1
  assert 'test: 5 skipped that have no utterance: ' in out
  assert out.rstrip().endswith(' and 2 more')
  assert err.splitlines()[-1].startswith('gqa-flax data: No example of ')
  assert err.endswith(' can be used, in test.\n')


@pytest.mark.parametrize(
  ('argv', 'message'),
  [
    (['--example=-1'], '--example=-1: examples are counted from 0 to'),
    (['--all', '--example=0'], '--all reads every example, --example=0 shows'),
  ],
)
def test_check_refuses_examples_that_there_cannot_be(check, argv, message):
  status, out, err = check(*argv)
  assert (status, out) == (2, '')
  assert err.startswith(f'gqa-flax data: {message}')


@pytest.fixture
def broken():
  """A task of ten texts, of which TensorFlow cannot read the eighth."""

  def to_numbers(dataset):
    return dataset.map(
      lambda x: {k: tf.strings.to_number([x[k]], tf.int32) for k in x}
    )

  def rows(split):
    texts = [*map(str, range(10, 17)), 'odd', '18', '19']
    return {'inputs': texts, 'targets': texts}

  feature = seqio.Feature(seqio.PassThroughVocabulary(99, 1), add_eos=True)
  yield seqio.TaskRegistry.add(
    'broken',
    source=tasks.TextSource(rows, ['train']),
    preprocessors=[to_numbers, seqio.preprocessors.append_eos_after_trim],
    output_features={'inputs': feature, 'targets': feature},
  )
  seqio.TaskRegistry.remove('broken')


def test_what_tensorflow_cannot_read_names_task_and_split(broken):
  lengths = {'inputs': 8, 'targets': 8}

  def fails(read):
    with pytest.raises(ValueError) as error:
      read()
    assert str(error.value).startswith(
      "An example of task 'broken' in its split 'train' cannot be read: String"
      'ToNumberOp could not correctly convert string: odd; '
    )
    return str(error.value).rpartition('; ')[2]

  stream = batches.train_batches(broken, lengths, 2, seed=1, pack=False)
  remedy = "find it with `gqa-flax data check broken --all --split='train'`."
  assert fails(lambda: [next(stream) for _ in range(5)]) == remedy
  once = batches.evaluation_batches(broken, 'train', lengths, 2)
  assert fails(lambda: list(once)) == remedy
  assert fails(lambda: examples.read_examples(broken, 'train', 8)) == remedy
  assert fails(lambda: examples.survey(broken, 'train', lengths)) == (
    'it comes after the first 7 that can be used.'
  )
  # In front of it everything is as it was.
  assert examples.read_example(broken, 'train', lengths, 6)['inputs'][0] == 16
