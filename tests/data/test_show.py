"""What `gqa-flax data check` says of text without pieces."""

import io

import pytest
import sentencepiece
import seqio

from gqa_flax.data import show


@pytest.fixture(scope='module')
def make_vocabulary(tmp_path_factory):
  def make(byte_fallback):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(['one two three four', 'five six seven'] * 10),
      model_writer=model,
      vocab_size=280 if byte_fallback else 21,
      byte_fallback=byte_fallback,
      hard_vocab_limit=False,
      pad_id=0,
      eos_id=1,
      unk_id=2,
      bos_id=-1,
      minloglevel=2,
    )
    path = tmp_path_factory.mktemp('vocabulary') / 'pieces.model'
    path.write_bytes(model.getvalue())
    return seqio.SentencePieceVocabulary(str(path), extra_ids=3)

  return make


def lines_about(text, vocabulary):
  """Returns what is said of inputs of a text, but for the text itself."""
  feature = seqio.Feature(vocabulary)
  task = type('Task', (), {'output_features': {}})
  task.output_features = dict.fromkeys(('inputs', 'targets'), feature)
  ids = vocabulary.encode_tf(text).numpy()
  example = {
    'inputs': ids,
    'inputs_pretokenized': text.encode(),
    'uncut_inputs_length': len(ids),
    'targets': vocabulary.encode_tf('one').numpy(),
    'targets_pretokenized': b'one',
    'uncut_targets_length': 3,
  }
  lengths = {'inputs': 99, 'targets': 99}
  shown = show.example(task, example, lengths, in_color=False).splitlines()
  assert shown[-2].startswith('targets: ')
  return shown[2:-2]


def test_bytes_are_counted_by_character(make_vocabulary):
  vocabulary = make_vocabulary(byte_fallback=True)
  # Two bytes each, and three.
  assert lines_about('one ü two üü €', vocabulary) == [
    '9 tokens are single bytes, for the vocabulary has no piece for '
    "'ü' (3), '€' (1) of the text"
  ]
  assert lines_about('one two', vocabulary) == []


def test_unknown_characters_are_counted(make_vocabulary):
  vocabulary = make_vocabulary(byte_fallback=False)
  assert lines_about('one { two {x}', vocabulary) == [
    '3 tokens are unknown (<unk>), for the vocabulary has no piece for '
    "'{' (2), '}' (1) of the text"
  ]


def test_of_many_characters_the_most_frequent_are_shown(make_vocabulary):
  vocabulary = make_vocabulary(byte_fallback=False)
  text = ' '.join(chr(ord('А') + i) for i in range(25)) + ' Я Я'
  (line,) = lines_about(text, vocabulary)
  assert "'Я' (2), " in line and line.endswith('6 more of the text')


def test_a_vocabulary_of_bytes_has_nothing_to_say():
  assert lines_about('one ü', seqio.ByteVocabulary()) == []
