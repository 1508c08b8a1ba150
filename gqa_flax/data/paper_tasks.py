"""The paper's seven tasks and C4: from TFDS's fields to the model's text.

Each function makes a `TaskSpec`; its arguments are the choices that the work
around T5.1.1 left open, with the default that it took. Gin files bind them:
gin_configs/tasks/ has a file for every task. Published sizes are in
`catalogue`.

The texts are T5's: a prefix that names the task, then the document ("summarize:
...", "translate English to German: ..."), in the case and with the new lines
that the data set has; T5's vocabulary reads a new line as a space. Spaces at
both ends are stripped (arXiv's abstracts begin with one).

An example without a document or a target is skipped; see `skipping`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import seqio
import tensorflow as tf

from gqa_flax.data.skipping import Needs, keep_usable
from gqa_flax.data.sources import Preprocessor, TaskSpec, TfdsSource
from gqa_flax.data.span_corruption import span_corruption

_SPLITS = {name: name for name in ('train', 'validation', 'test')}


def cnn_dailymail(
  tfds_name: str = 'cnn_dailymail:3.4.0', prefix: str = 'summarize: '
) -> TaskSpec:
  """CNN/DailyMail: a news article to its highlights, a line each."""
  return _summarization(
    'cnn_dailymail', tfds_name, prefix, 'article', 'highlights'
  )


def arxiv(
  tfds_name: str = 'scientific_papers/arxiv:1.1.1', prefix: str = 'summarize: '
) -> TaskSpec:
  """arXiv: the body of a paper to its abstract."""
  return _summarization('arxiv', tfds_name, prefix, 'article', 'abstract')


def pubmed(
  tfds_name: str = 'scientific_papers/pubmed:1.1.1',
  prefix: str = 'summarize: ',
) -> TaskSpec:
  """PubMed: the body of a paper to its abstract."""
  return _summarization('pubmed', tfds_name, prefix, 'article', 'abstract')


def multi_news(
  tfds_name: str = 'multi_news:2.1.0',
  prefix: str = 'summarize: ',
  separator: str = '|||||',
) -> TaskSpec:
  """Multi-News: several articles on one event to one summary.

  Args:
    tfds_name: see `_from_tfds`.
    prefix: before the articles.
    separator: what stands between two articles, as in the data set by default.
  """

  def documents(example, separator):
    found = tf.strings.split(example['document'], '|||||')
    return tf.strings.reduce_join(found, separator=separator)

  def to_text(example):
    return _texts(prefix, documents(example, separator), example['summary'])

  def needs(example):
    return {
      'document': documents(example, ' '),
      'summary': example['summary'],
    }

  return _from_tfds(
    'multi_news',
    tfds_name,
    to_text,
    needs,
    metric='rouge',
    choices={'prefix': prefix, 'separator': separator},
  )


def media_sum(
  tfds_name: str = 'media_sum:1.0.0',
  prefix: str = 'summarize: ',
  speakers: bool = True,
) -> TaskSpec:
  """MediaSum: the transcript of an interview to its summary.

  The transcript is 'speaker: utterance', joined by spaces. An utterance beyond
  the speakers, or whose speaker's name is empty, stands alone. The split that
  TFDS calls 'val' is our 'validation'.

  Args:
    tfds_name: see `_from_tfds`.
    prefix: before the transcript.
    speakers: whether the speaker is named before each utterance.
  """

  def to_text(example):
    turns = example['utt']
    if speakers:
      # The data set promises no speaker for every utterance, nor the reverse.
      names = example['speaker'][: tf.size(turns)]
      names = tf.pad(names, [[0, tf.size(turns) - tf.size(names)]])
      labels = tf.strings.join([names, ': '])
      turns = tf.strings.join([tf.where(names == '', '', labels), turns])
    transcript = tf.strings.reduce_join(turns, separator=' ')
    return _texts(prefix, transcript, example['summary'])

  def needs(example):
    return {
      'utterance': tf.strings.reduce_join(example['utt']),
      'summary': example['summary'],
    }

  splits = {'train': 'train', 'validation': 'val', 'test': 'test'}
  return _from_tfds(
    'media_sum',
    tfds_name,
    to_text,
    needs,
    metric='rouge',
    choices={'prefix': prefix, 'speakers': speakers},
    splits=splits,
  )


def wmt14_en_de(
  tfds_name: str = 'wmt14_translate/de-en:1.0.0',
  prefix: str = 'translate English to German: ',
) -> TaskSpec:
  """WMT14 English to German; validation is newstest2013, test newstest2014.

  Args:
    tfds_name: see `_from_tfds`. T5's own runs had
      'wmt_t2t_translate/de-en:1.0.0', which filters the training pairs.
    prefix: before the English sentence.
  """

  def to_text(example):
    return _texts(prefix, example['en'], example['de'])

  return _from_tfds(
    'wmt14_en_de',
    tfds_name,
    to_text,
    needs=lambda example: {name: example[name] for name in ('en', 'de')},
    metric='bleu',
    choices={'prefix': prefix},
  )


def trivia_qa(
  tfds_name: str = 'trivia_qa/rc:1.1.0',
  prefix: str = 'question: ',
  evidence: str = 'wikipedia',
  lowercase: bool = True,
  drop_without_evidence: bool = False,
) -> TaskSpec:
  """TriviaQA: 'question: ... context: ...' to the answer, with the evidence.

  The context is what was found for the question, page after page as 'title
  text'; what does not fit is cut at its end. The target is the answer's value,
  or where there is none its first alias; predictions are scored against the
  value and all aliases (feature 'answers'). The test
  split is left out, for its answers were never published.

  Args:
    tfds_name: see `_from_tfds`.
    prefix: before the question.
    evidence: 'wikipedia' (the entity pages), 'search' (the search results), or
      'both', Wikipedia first.
    lowercase: whether inputs and targets are lower-cased.
    drop_without_evidence: whether questions for which there is no evidence are
      skipped; else their context is empty.

  Raises:
    ValueError: there is no such evidence.
  """
  fields: dict[str, tuple[tuple[str, str], ...]] = {
    'wikipedia': (('entity_pages', 'wiki_context'),),
    'search': (('search_results', 'search_context'),),
  }
  fields['both'] = fields['wikipedia'] + fields['search']
  if evidence not in fields:
    raise ValueError(
      f'trivia_qa.evidence is {evidence!r}; give one of {", ".join(fields)}.'
    )

  def pages(example):
    """Returns [num_pages] strings; TFDS has no page without its text."""
    return tf.concat(
      [
        tf.strings.join(
          [example[kind]['title'], example[kind][text]], separator=' '
        )
        for kind, text in fields[evidence]
      ],
      axis=0,
    )

  def answers(example):
    """Returns [number] strings, the value first, which is often an alias."""
    answer = example['answer']
    found = tf.concat([[answer['value']], answer['aliases']], axis=0)
    unknown = (tf.strings.strip(found) == '') | (found == '<unk>')  # TFDS's
    return tf.unique(tf.boolean_mask(found, ~unknown)).y

  def to_text(example):
    context = tf.strings.reduce_join(pages(example), separator=' ')
    inputs = tf.strings.join([example['question'], ' context: ', context])
    accepted = answers(example)
    texts = _texts(prefix, inputs, accepted[0])
    if lowercase:
      texts = {
        name: tf.strings.lower(text, encoding='utf-8')
        for name, text in texts.items()
      }
    return {**texts, 'answers': accepted}

  def needs(example):
    texts = {
      'question': example['question'],
      'answer': tf.strings.reduce_join(answers(example)),
    }
    if drop_without_evidence:
      texts['evidence'] = tf.strings.reduce_join(pages(example))
    return texts

  return _from_tfds(
    'trivia_qa',
    tfds_name,
    to_text,
    needs,
    metric='trivia_qa',
    choices={
      'prefix': prefix,
      'evidence': evidence,
      'lowercase': lowercase,
      'drop_without_evidence': drop_without_evidence,
    },
    splits={name: name for name in ('train', 'validation')},
  )


def c4_span_corruption(tfds_name: str = 'c4/en:3.1.0') -> TaskSpec:
  """Span corruption of C4, T5.1.1's pre-training.

  Args:
    tfds_name: see `_from_tfds`. T5's own runs had 'c4/en:2.2.0'.
  """

  def to_text(example):
    return {'targets': example['text']}

  return _from_tfds(
    'c4_span_corruption',
    tfds_name,
    to_text,
    needs=lambda example: {'text': example['text']},
    metric=None,
    choices={},
    splits={name: name for name in ('train', 'validation')},
    after=(span_corruption,),
  )


def _summarization(
  task_name: str, tfds_name: str, prefix: str, document: str, summary: str
) -> TaskSpec:
  """Returns a task from the field `document` to the field `summary`."""

  def to_text(example):
    return _texts(prefix, example[document], example[summary])

  return _from_tfds(
    task_name,
    tfds_name,
    to_text,
    needs=lambda example: {name: example[name] for name in (document, summary)},
    metric='rouge',
    choices={'prefix': prefix},
  )


def _from_tfds(
  task_name: str,
  tfds_name: str,
  to_text: Callable,
  needs: Needs,
  *,
  metric: str | None,
  choices: Mapping[str, Any],
  splits: Mapping[str, str] = _SPLITS,
  after: tuple[Preprocessor, ...] = (),
) -> TaskSpec:
  """Returns a task on a data set of TFDS.

  Args:
    task_name: its name, for errors.
    tfds_name: the data set: builder, configuration and version.
    to_text: from TFDS's example to the strings 'inputs' and 'targets'.
    needs: what an example must have; see `skipping.keep_usable`.
    metric: see `TaskSpec`.
    choices: see `TaskSpec`; the data set is added.
    splits: from our names of the splits to TFDS's.
    after: preprocessors of token ids, behind what may be cached.
  """

  def read_fields(function):
    @tf.autograph.experimental.do_not_convert
    def read(example):
      try:
        return function(example)
      except KeyError as error:
        there = ', '.join(name for name in example if name != 'tfds_id')
        raise ValueError(
          f'The data set {tfds_name} has no field {error}, which task '
          f'{task_name!r} reads; it has {there}: check TFDS_NAME.'
        ) from None

    return read

  def to_texts(dataset: tf.data.Dataset) -> tf.data.Dataset:
    usable = keep_usable(dataset, read_fields(needs), task_name)
    return usable.map(read_fields(to_text), num_parallel_calls=tf.data.AUTOTUNE)

  return TaskSpec(
    source=lambda: TfdsSource(tfds_name, task_name, splits),
    preprocessors=(
      to_texts,
      seqio.preprocessors.tokenize,
      seqio.CacheDatasetPlaceholder(),
      *after,
      seqio.preprocessors.append_eos_after_trim,
    ),
    metric=metric,
    name=task_name,
    choices={'tfds_name': tfds_name, **choices},
  )


def _texts(prefix: str, inputs: tf.Tensor, targets: tf.Tensor) -> dict:
  return {
    'inputs': tf.strings.join([prefix, tf.strings.strip(inputs)]),
    'targets': tf.strings.strip(targets),
  }
