"""Tasks by name."""

import pytest
import seqio
import tensorflow as tf

from gqa_flax.data import embedded, tasks

VOCABULARY = seqio.ByteVocabulary()


@pytest.fixture(autouse=True)
def clean_registries():
  yield
  for name in (*tasks.TASKS, 'theirs'):
    seqio.TaskRegistry.remove(name)
    seqio.MixtureRegistry.remove(name)


def register(name, vocabulary=VOCABULARY):
  return seqio.TaskRegistry.add(
    name,
    source=tasks.TextSource(
      lambda split: {'inputs': ['a'], 'targets': ['b']}, ['train']
    ),
    preprocessors=[seqio.preprocessors.tokenize],
    output_features={
      k: seqio.Feature(vocabulary) for k in ('inputs', 'targets')
    },
  )


def test_summarization_pairs_introductions_with_descriptions():
  task = tasks.get_task('wikipedia_summarization', VOCABULARY)
  dataset = task.get_dataset(
    {'inputs': 4096, 'targets': 256}, 'validation', shuffle=False
  )
  described = [a for a in embedded.articles('validation') if a.description]
  for article, example in zip(
    described, dataset.take(20).as_numpy_iterator(), strict=False
  ):
    text = f'summarize: {article.extract}'
    assert example['inputs_pretokenized'].decode() == text
    assert VOCABULARY.decode(example['inputs']) == text
    assert example['inputs'][-1] == example['targets'][-1] == 1
    assert VOCABULARY.decode(example['targets']) == article.description


def test_span_corruption_hides_parts_of_introductions():
  task = tasks.get_task('wikipedia_span_corruption', VOCABULARY)
  dataset = task.get_dataset(
    {'inputs': 512, 'targets': 114}, 'validation', shuffle=False, seed=0
  )
  example = next(dataset.as_numpy_iterator())
  assert len(example['inputs']) == 512
  assert len(example['targets']) == 114
  assert example['inputs'][-1] == example['targets'][-1] == 1
  start = embedded.articles('validation')[0].extract[:3]
  assert VOCABULARY.decode(example['inputs'])[:3] == start


def test_every_split_of_the_sources_is_whole():
  source = tasks.get_task('wikipedia_summarization', VOCABULARY).source
  for split in embedded.SPLITS:
    expected = {a.description for a in embedded.articles(split)} - {''}
    for kwargs in ({'shuffle': False}, {'shuffle': True, 'seed': 1}):
      dataset = source.get_dataset(split, **kwargs)
      rows = dataset.batch(10_000).get_single_element()
      texts = [text.decode() for text in rows['targets'].numpy()]
      assert set(texts) == expected


def test_a_task_can_be_made_again_with_another_vocabulary():
  first = tasks.get_task('wikipedia_summarization', VOCABULARY)
  other = seqio.ByteVocabulary(extra_ids=100)
  again = tasks.get_task('wikipedia_summarization', other)
  assert seqio.TaskRegistry.get('wikipedia_summarization') is again
  assert first.output_features['targets'].vocabulary == VOCABULARY
  assert again.output_features['targets'].vocabulary == other


def test_tasks_and_mixtures_of_users_are_found():
  task = register('theirs')
  assert tasks.get_task('theirs') is task
  assert tasks.get_task('theirs', VOCABULARY) is task
  mixture = seqio.MixtureRegistry.add('theirs', ['theirs'], default_rate=1)
  assert tasks.get_task('theirs') is mixture


def test_another_vocabulary_than_the_registered_is_refused():
  register('theirs')
  with pytest.raises(ValueError, match="'theirs' have a vocabulary other"):
    tasks.get_task('theirs', seqio.ByteVocabulary(extra_ids=100))


def test_unknown_task_is_named_with_the_nearest():
  with pytest.raises(tasks.UnknownTaskError) as error:
    tasks.get_task('wikipedia_sumarisation', VOCABULARY)
  assert str(error.value) == (
    "There is no task 'wikipedia_sumarisation': the nearest are "
    'wikipedia_summarization, wikipedia_span_corruption, media_sum; choose one '
    'of them, or import the module that registers yours with seqio.'
  )


def test_unknown_task_far_from_any_lists_them_all():
  with pytest.raises(tasks.UnknownTaskError, match=r'there are .*wikipedia_s'):
    tasks.get_task('zzz', VOCABULARY)


def test_our_tasks_need_a_vocabulary():
  with pytest.raises(ValueError, match='needs a vocabulary'):
    tasks.get_task('wikipedia_summarization')


def test_metric_names():
  assert tasks.metric_name('wikipedia_summarization') == 'rouge'
  assert tasks.metric_name('wikipedia_span_corruption') is None
  assert tasks.metric_name('theirs') is None


def test_a_source_without_rows_is_empty():
  source = tasks.TextSource(lambda split: {'targets': []}, ['train'])
  assert not list(source.get_dataset('train', shuffle=True))
  assert source.get_dataset('train').element_spec == {
    'targets': tf.TensorSpec([], tf.string)
  }
