"""The very text and ids that the model sees of each of the paper's tasks."""

import collections
import itertools
import pathlib

import numpy as np
import pytest
import seqio
import tensorflow as tf

from gqa_flax.data import batches, catalogue, paper_tasks, tasks, vocabulary

T5_MODEL = (
  pathlib.Path(__file__).parents[3] / 'shared' / 'fixtures' / 't5_spiece.model'
)
BYTES = seqio.ByteVocabulary(extra_ids=100)
LONG = {'inputs': 8192, 'targets': 8192}
SHORT = {'inputs': 32, 'targets': 16}

# Of each task an example, found by what its raw form contains: the text of
# inputs and targets, and their ids with T5's vocabulary. Id 2 stands for what
# that vocabulary lacks.
EXAMPLES = {
  'cnn_dailymail': (
    'HARBOUR CITY',
    'summarize: HARBOUR CITY (CNN) -- The bridge opened  twice. Photo: a '
    '“bridge” It closed at nine . See the @highlight box',
    'NEW: Bridge opened twice.\nIt closed… why?\nNobody asked (yet)',
    '21603 10 3 25430 279 9131 205 15296 41 254 17235 61 1636 37 4716 2946 '
    '4394 5 5810 10 3 9 105 9818 153 94 3168 44 4169 3 5 1610 8 3320 6739 2242 '
    '1367 1',
    '8747 10 6132 2946 4394 5 94 3168 233 572 58 22009 1380 41 63 15 17 61 1',
  ),
  'arxiv': (
    '@xmath0',
    'summarize: we let @xmath0 be\nthe naïve map @xcite .\n\nit forgets . \\',
    'maps @xmath1 forget . \n “ why ” is open .',
    '21603 10 62 752 3320 226 3357 107 632 36 8 3 29 9 2 162 2828 3320 226 '
    '8464 3 5 34 2612 7 3 5 3 2 1',
    '8111 3320 226 3357 107 536 2612 3 5 105 572 3 153 19 539 3 5 1',
  ),
  'pubmed': (
    '<S> in the article',
    'summarize: tags <S> in the article stay .',
    'oneparagraph of { two } .   sentences ~',
    '21603 10 12391 3 2 134 3155 16 8 1108 1049 3 5 1',
    '80 6583 9413 13 3 2 192 3 2 3 5 16513 3 2 1',
  ),
  'media_sum': (
    'Bon soir',
    'summarize: RENÉE O’HARA, host:  Bon soir… Mr. X (through translator):  '
    'O’HARA: And\nnow: the bill.',
    'Two hosts, “one” café.\nNobody paid {yet}.',
    '21603 10 3 22413 6759 427 411 22 25430 188 6 2290 10 4523 12514 233 1363 '
    '5 3 4 41 11258 22770 61 10 411 22 25430 188 10 275 230 10 8 2876 5 1',
    '2759 9855 6 105 782 153 11949 5 22009 1866 3 2 63 15 17 2 5 1',
  ),
  'multi_news': (
    'ferry',
    'summarize: The ferry sank. \n \n “Café” adrift. ||||| It floats',
    '– The ferry sank, then floated {twice}.',
    '21603 10 37 20395 3 7 5979 5 105 254 9 89 154 153 3 9 26 22722 5 1820 '
    '9175 9175 9175 9175 94 3 12660 7 1',
    '3 104 37 20395 3 7 5979 6 258 8882 920 3 2 17 210 867 2 5 1',
  ),
  'wmt14_en_de': (
    '“Size”',
    'translate English to German: “Size” matters: £5 \\ or <more>…',
    '„Größe“ zählt – £5 {oder} mehr\xa0…',
    '13959 1566 12 2968 10 105 134 1737 153 4573 10 23978 3 2 42 3 2 3706 3155 '
    '233 1',
    '395 517 52 23905 15 735 22422 3 104 23978 3 2 13487 2 1091 3 233 1',
  ),
  'trivia_qa': (
    # Without a page, the context is empty.
    'train_1 prize',
    'question: which “ringers”, 3 in all,\nwon the train_1 prize? context:',
    'the bell-ringers of №3',
    '822 10 84 105 1007 277 1241 220 16 66 6 751 8 2412 834 536 6441 58 2625 '
    '10 1',
    '8 12815 18 1007 277 13 465 519 1',
  ),
}


@pytest.fixture(scope='module')
def t5_vocabulary():
  if not T5_MODEL.exists():
    pytest.skip(
      f'needs T5’s vocabulary, which is not in this clone: {T5_MODEL}'
    )
  return vocabulary.sentencepiece(str(T5_MODEL))


@pytest.fixture
def make_task(use_tfds):
  """Makes a task on its small data set, with the choices given."""

  def make(name, vocabulary=BYTES, **choices):
    use_tfds(catalogue.DATA_SETS[name].tfds_name)
    spec = getattr(paper_tasks, name)(**choices)
    return tasks.get_task(name, vocabulary, spec)

  yield make
  for name in tasks.TASKS:
    seqio.TaskRegistry.remove(name)


def read(task, split='train', lengths=LONG):
  dataset = task.get_dataset(lengths, split, shuffle=False, seed=0)
  return list(dataset.as_numpy_iterator())


def find(examples, text):
  """The example whose inputs or targets contain a text."""
  found = [
    e
    for e in examples
    if text.encode() in e['inputs_pretokenized'] + e['targets_pretokenized']
  ]
  assert found, text
  return found[0]


@pytest.mark.slow
@pytest.mark.parametrize('name', EXAMPLES)
def test_the_model_reads_this_text(name, make_task):
  text, inputs, targets, *_ = EXAMPLES[name]
  example = find(read(make_task(name)), text)
  assert example['inputs_pretokenized'].decode() == inputs
  assert example['targets_pretokenized'].decode() == targets
  for name, expected in (('inputs', inputs), ('targets', targets)):
    ids = example[name].tolist()
    assert ids == [*BYTES.encode(expected), 1]


@pytest.mark.parametrize('name', EXAMPLES)
def test_the_model_reads_these_ids(name, make_task, t5_vocabulary):
  text, _, _, inputs, targets = EXAMPLES[name]
  example = find(read(make_task(name, t5_vocabulary)), text)
  assert example['inputs'].tolist() == [*map(int, inputs.split())]
  assert example['targets'].tolist() == [*map(int, targets.split())]


INPUTS = {
  'cnn_dailymail': lambda raw: raw['article'],
  'arxiv': lambda raw: raw['article'],
  'pubmed': lambda raw: raw['article'],
  'media_sum': lambda raw: ''.join(raw['utt']),
  'multi_news': lambda raw: raw['document'],
  'wmt14_en_de': lambda raw: raw['en'],
  'trivia_qa': lambda raw: raw['question'],
}
TARGETS = {
  'cnn_dailymail': lambda raw: raw['highlights'],
  'arxiv': lambda raw: raw['abstract'],
  'pubmed': lambda raw: raw['abstract'],
  'media_sum': lambda raw: raw['summary'],
  'multi_news': lambda raw: raw['summary'],
  'wmt14_en_de': lambda raw: raw['de'],
  'trivia_qa': lambda raw: raw['answer']['value'].lower(),
}


@pytest.mark.slow
@pytest.mark.parametrize('name', EXAMPLES)
def test_every_raw_example_with_two_texts_is_read_in_every_split(
  name, make_task, raw_files
):
  task = make_task(name)
  raw = raw_files(catalogue.DATA_SETS[name].tfds_name).examples
  names = {'validation': 'val'} if name == 'media_sum' else {}
  expected_splits = {'train', 'validation', 'test'}
  if name == 'trivia_qa':
    expected_splits.remove('test')  # it has no answers
  assert set(task.splits) == expected_splits
  for split in task.splits:
    found = [e['targets_pretokenized'].decode() for e in read(task, split)]
    pairs = [
      (INPUTS[name](example).strip(), TARGETS[name](example).strip())
      for example in raw[names.get(split, split)]
    ]
    assert sorted(found) == sorted(
      target for text, target in pairs if text and target
    )


@pytest.mark.slow
@pytest.mark.parametrize('name', EXAMPLES)
def test_what_is_too_long_is_cut_before_eos(name, make_task):
  whole, cut = (read(make_task(name), lengths=x) for x in (LONG, SHORT))
  assert any(len(e['inputs']) > SHORT['inputs'] for e in whole)
  for long, short in zip(whole, cut, strict=True):
    for feature, length in SHORT.items():
      expected = long[feature].tolist()
      if len(expected) > length:
        expected = [*expected[: length - 1], 1]
      assert short[feature].tolist() == expected


def test_metrics_are_the_papers():
  assert {name: tasks.TASKS[name].metric for name in EXAMPLES} == {
    'cnn_dailymail': 'rouge',
    'arxiv': 'rouge',
    'pubmed': 'rouge',
    'media_sum': 'rouge',
    'multi_news': 'rouge',
    'wmt14_en_de': 'bleu',
    'trivia_qa': 'trivia_qa',
  }


def test_trivia_qa_reads_the_pages_and_is_scored_on_all_aliases(make_task):
  # Of several questions with pages, the first: page 0 of one.
  examples = read(make_task('trivia_qa'))
  example = find(examples, 'train_3 prize')
  inputs = example['inputs_pretokenized'].decode()
  assert inputs.startswith(
    'question: which “ringers”, 80 in all,\nwon the train_3 prize? context: '
    'train_3 (prize), part 0 the zürich-born harbour '
  )
  assert inputs.endswith('the bell-ringers of №80 won.')
  # Answers keep their case: the metric takes it away.
  assert [answer.decode() for answer in example['answers']] == [
    'The Bell-Ringers of №80',
    'Bell ringers',
    'Ringers, the',
    'Glöckner',
  ]


def test_trivia_qa_joins_title_and_text_of_every_page(make_task, raw_files):
  raw = raw_files('trivia_qa/rc:1.1.0').examples['train']
  several = next(x for x in raw if len(x['entity_pages']['title']) == 3)
  pages = several['entity_pages']
  context = ' '.join(
    f'{title} {text}'
    for title, text in zip(pages['title'], pages['wiki_context'], strict=True)
  )
  task = make_task('trivia_qa', lowercase=False)
  example = find(read(task), f'the {several["question_id"]} prize')
  assert example['inputs_pretokenized'].decode() == (
    f'question: {several["question"]} context: {context}'
  )
  assert example['targets_pretokenized'].decode() == several['answer']['value']


def test_trivia_qa_takes_other_evidence(make_task, raw_files):
  raw = raw_files('trivia_qa/rc:1.1.0').examples['train']
  both = next(
    x
    for x in raw
    if x['entity_pages']['title'] and x['search_results']['title']
  )
  marker = f'the {both["question_id"]} prize'
  context = {}
  for evidence in ('wikipedia', 'search', 'both'):
    task = make_task('trivia_qa', evidence=evidence, lowercase=False)
    text = find(read(task), marker)['inputs_pretokenized'].decode()
    context[evidence] = text.partition(' context: ')[2]
  results = both['search_results']
  assert context['search'] == ' '.join(
    f'{title} {text}'
    for title, text in zip(
      results['title'], results['search_context'], strict=True
    )
  )
  assert context['both'] == f'{context["wikipedia"]} {context["search"]}'
  with pytest.raises(ValueError, match="evidence is 'web'; give one of wiki"):
    paper_tasks.trivia_qa(evidence='web')


def test_trivia_qa_leaves_out_what_has_no_evidence_if_told(
  make_task, raw_files
):
  raw = raw_files('trivia_qa/rc:1.1.0').examples['train']
  expected = sum(bool(x['entity_pages']['title']) for x in raw)
  assert 0 < expected < len(raw)
  assert len(read(make_task('trivia_qa', drop_without_evidence=True))) == (
    expected
  )


def test_choices_change_the_text(make_task):
  def text(name, marker, **choices):
    found = find(read(make_task(name, **choices)), marker)
    return found['inputs_pretokenized'].decode()

  assert text('media_sum', 'Hello?') == 'summarize: UNIDENTIFIED MALE: Hello?'
  assert text('media_sum', 'Hello?', speakers=False) == 'summarize: Hello?'
  assert text('multi_news', 'ferry', separator='<doc>') == (
    'summarize: The ferry sank. \n \n “Café” adrift. <doc> It floats'
  )
  assert '” adrift. \\1 It floats' in text(
    'multi_news', 'ferry', separator='\\1'
  )
  assert text('wmt14_en_de', 'Fish', prefix='de: ').startswith('de: Fish')


def test_c4_hides_these_tokens(make_task, raw_files, t5_vocabulary):
  raw = raw_files('c4/en:3.1.0').examples['train'][0]['text']
  assert raw.startswith(
    'The naïve beekeeper sold 1 € without a word.\n'
    'The late lantern counted 2 letters at the mayor’s request.'
  )
  # Of 26 raw tokens 15% are hidden, 4, in one span.
  task = make_task('c4_span_corruption', t5_vocabulary)
  example = read(task, lengths={'inputs': 24, 'targets': 16})[0]
  for name, text, ids in (
    (
      'inputs',
      'The na ⁇ ve beekeeper sold 1 € without a word. The late lantern counte '
      '<extra_id_0>',
      '37 3 29 9 2 162 36 15 10477 1916 209 3416 406 3 9 1448 5 37 1480 24167 '
      '3476 15 32099 1',
    ),
    ('targets', '<extra_id_0>d 2 letters at', '32099 26 204 5487 44 1'),
  ):
    assert example[name].tolist() == [*map(int, ids.split())]
    assert t5_vocabulary.decode(example[name].tolist()).strip() == text


def test_c4_is_corrupted_and_nothing_is_lost(
  make_task, raw_files, t5_vocabulary
):
  task = make_task('c4_span_corruption', t5_vocabulary)
  examples = read(task, lengths={'inputs': 64, 'targets': 64})
  tokens = []
  for example in examples:
    inputs, targets = (
      example[name].tolist()[:-1] for name in ('inputs', 'targets')
    )
    assert example['inputs'][-1] == example['targets'][-1] == 1
    spans = {}
    for token in targets:
      if token >= 32000:
        spans[token] = []
      else:
        spans[next(reversed(spans))].append(token)
    for token in inputs:
      tokens.extend(spans.pop(token) if token >= 32000 else [token])
    assert not spans
  texts = [x['text'] for x in raw_files('c4/en:3.1.0').examples['train']]
  # The builder keeps the order of what is written.
  assert tokens == [*itertools.chain(*map(t5_vocabulary.encode, texts))]


def words_of(batches_, name):
  """Counts what was read: whole targets, or for C4 the tokens themselves."""
  if name == 'c4_span_corruption':
    names = ('encoder_input_tokens', 'decoder_target_tokens')
    tokens = np.concatenate([b[n].ravel() for b in batches_ for n in names])
    return collections.Counter(tokens[(tokens > 1) & (tokens < 259)].tolist())
  return collections.Counter(
    b['decoder_target_tokens'].tobytes() + b['encoder_input_tokens'].tobytes()
    for b in batches_
  )


@pytest.mark.slow
@pytest.mark.parametrize('name', catalogue.DATA_SETS)
def test_hosts_share_the_examples_without_loss_or_repetition(
  name, make_task, as_processes
):
  task = make_task(name)

  def shards(number):
    hosts = as_processes(
      lambda: batches.train_batches(
        task,
        {'inputs': 64, 'targets': 64},
        number,
        seed=3,
        pack=False,
        num_epochs=1,
      ),
      number,
    )
    return [words_of(host, name) for host in hosts]

  (whole,) = shards(1)
  for number in (2, 3):
    parts = shards(number)
    assert all(parts)
    assert sum(parts, collections.Counter()) == whole


@pytest.mark.slow
@pytest.mark.parametrize('name', catalogue.DATA_SETS)
def test_the_stream_goes_on_with_the_next_example(name, make_task, tmp_path):
  task = make_task(name)

  def stream():
    return batches.train_batches(
      task, {'inputs': 64, 'targets': 64}, 2, seed=3, num_shards=2
    )

  first = stream()
  for _ in range(3):
    next(first)
  first.save(tmp_path)
  second = stream()
  second.restore(tmp_path)
  # Into the second epoch.
  for before, after in itertools.islice(zip(first, second), 12):
    for key in before:
      np.testing.assert_array_equal(before[key], after[key], err_msg=key)


def test_a_stream_of_another_text_is_not_gone_on_with(make_task, tmp_path):
  batches.train_batches(make_task('media_sum'), SHORT, 2, seed=3).save(tmp_path)
  other = make_task('media_sum', speakers=False)
  with pytest.raises(
    ValueError, match='is for speakers = True, but now it is F'
  ):
    batches.train_batches(other, SHORT, 2, seed=3).restore(tmp_path)


def test_a_mixture_has_the_choices_of_its_tasks(make_task):
  name = make_task('media_sum', speakers=False).name
  mixture = seqio.MixtureRegistry.add('both', [name], default_rate=1)
  assert tasks.choices(mixture)['media_sum']['speakers'] is False
  seqio.MixtureRegistry.remove('both')


def test_nothing_but_tokens_is_buffered(make_task, monkeypatch):
  """Whatever is kept in memory is part of every saved position."""
  task = make_task('multi_news')
  tokens_alone = batches._tokens_alone(task)
  assert set(tokens_alone.get_dataset(SHORT, 'train').element_spec) == {*SHORT}

  def refuse(self, *args, **kwargs):
    raise AssertionError('a copy of the data set would be kept')

  monkeypatch.setattr(tf.data.Dataset, 'cache', refuse)
  next(batches.train_batches(task, SHORT, 2, seed=3))


def test_a_task_is_not_made_under_the_name_of_another():
  with pytest.raises(
    ValueError, match=r"that of 'cnn_dailymail': give gin_con"
  ):
    tasks.get_task('arxiv', BYTES, paper_tasks.cnn_dailymail())
