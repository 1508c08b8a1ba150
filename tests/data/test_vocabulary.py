"""T5's vocabulary: fetched once, whole, or read from a file."""

import hashlib
import io
import re
import urllib.error
import urllib.request

import pytest
import sentencepiece
import seqio
from sentencepiece import sentencepiece_model_pb2

from gqa_flax.data import tasks, vocabulary
from gqa_flax.evaluation import evaluate


@pytest.fixture(scope='module')
def model():
  """The bytes of a small SentencePiece model."""
  file = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(['one two three four', 'five six seven'] * 10),
    model_writer=file,
    vocab_size=21,
    pad_id=0,
    eos_id=1,
    unk_id=2,
    bos_id=-1,
    minloglevel=2,
  )
  return file.getvalue()


@pytest.fixture
def served(model, monkeypatch):
  """Serves the model in place of T5's; returns the requests made."""
  requests = []

  def urlopen(url, timeout):
    requests.append(url)
    return io.BytesIO(model)

  digest = hashlib.sha256(model).hexdigest()
  monkeypatch.setattr(urllib.request, 'urlopen', urlopen)
  monkeypatch.setattr(vocabulary, 'T5_SHA256', digest)
  return requests


def test_t5s_is_fetched_once(served, tmp_path):
  for _ in range(2):
    found = vocabulary.sentencepiece(cache_dir=tmp_path)
    assert found.vocab_size == 121
    assert found.decode(found.encode('six two')) == 'six two'
  assert served == [vocabulary.T5_URL]


def test_another_file_than_t5s_is_refused(served, tmp_path, monkeypatch):
  monkeypatch.setattr(vocabulary, 'T5_SHA256', '0' * 64)
  with pytest.raises(ConnectionError, match="is not T5's vocabulary"):
    vocabulary.sentencepiece(cache_dir=tmp_path)
  assert not list(tmp_path.iterdir())


def test_without_a_network_the_remedy_is_said(tmp_path, monkeypatch):
  def urlopen(url, timeout):
    raise urllib.error.URLError('no route')

  monkeypatch.setattr(urllib.request, 'urlopen', urlopen)
  with pytest.raises(
    ConnectionError, match=r'\(no route\); copy it here .*VOC'
  ):
    vocabulary.sentencepiece(cache_dir=tmp_path)


def test_a_file_is_read(model, tmp_path):
  path = tmp_path / 'pieces.model'
  with pytest.raises(FileNotFoundError, match=f'no SentencePiece model {path}'):
    vocabulary.sentencepiece(str(path))
  path.write_bytes(model)
  assert vocabulary.sentencepiece(str(path), extra_ids=5).vocab_size == 26


def cut_between_pieces(model):
  proto = sentencepiece_model_pb2.ModelProto()
  proto.ParseFromString(model)
  whole = sentencepiece_model_pb2.ModelProto()
  whole.pieces.extend(proto.pieces[:10])
  return whole.SerializeToString()


@pytest.mark.parametrize(
  'damage',
  [
    lambda model: b'one two\nthree\n',
    lambda model: b'',
    lambda model: model[:-1],
    lambda model: model[: len(model) // 2],
    cut_between_pieces,
  ],
)
def test_what_is_no_whole_model_is_named(model, tmp_path, damage, capfd):
  path = tmp_path / 'pieces.model'
  content = damage(model)
  path.write_bytes(content)
  with pytest.raises(ValueError) as error:
    vocabulary.sentencepiece(str(path))
  assert str(error.value) == (
    f'{path} ({len(content)} bytes) is no SentencePiece model, or a part of '
    "one: give another VOCABULARY_FILE, or leave it None for T5's own."
  )
  assert capfd.readouterr().err == ''


def test_a_folder_is_no_model(tmp_path):
  with pytest.raises(ValueError, match=f'{tmp_path} is a folder, not a Sent'):
    vocabulary.sentencepiece(str(tmp_path))


def test_a_model_with_other_special_ids_is_refused(tmp_path):
  """As SentencePiece numbers them by default: EOS would be T5's unknown."""
  file = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(['one two three four', 'five six seven'] * 10),
    model_writer=file,
    vocab_size=21,
    minloglevel=2,
  )
  path = tmp_path / 'pieces.model'
  path.write_bytes(file.getvalue())
  found = vocabulary.sentencepiece(str(path))
  with pytest.raises(ValueError, match='a task has pad_id -1 and eos_id 2,'):
    vocabulary.check_ids(found, 'a task')


def test_fingerprints_tell_vocabularies_apart(model, tmp_path):
  path = tmp_path / 'pieces.model'
  path.write_bytes(model)
  found = [
    vocabulary.fingerprint(v)
    for v in (
      vocabulary.sentencepiece(str(path)),
      vocabulary.sentencepiece(str(path), extra_ids=0),
      seqio.ByteVocabulary(),
      seqio.ByteVocabulary(extra_ids=1),
    )
  ]
  assert len(set(found)) == 4
  assert found[0] == vocabulary.fingerprint(vocabulary.sentencepiece(str(path)))


def train(folder, **ids):
  file = folder / f'{"_".join(map(str, ids.values()))}.model'
  with file.open('wb') as writer:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(['one two three four', 'five six seven'] * 10),
      model_writer=writer,
      vocab_size=21,
      hard_vocab_limit=False,
      minloglevel=2,
      **ids,
    )
  return vocabulary.sentencepiece(str(file), extra_ids=0)


T5_IDS = {'pad_id': 0, 'eos_id': 1, 'unk_id': 2, 'bos_id': -1}
OTHER_IDS = [
  # SentencePiece's own default, as Llama has it.
  ({}, 'pad_id -1 and eos_id 2'),
  # MADLAD.
  ({'pad_id': 1, 'eos_id': 2, 'unk_id': 0, 'bos_id': -1}, 'pad_id 1 and eos_i'),
  # CodeT5.
  ({'pad_id': 0, 'bos_id': 1, 'eos_id': 2, 'unk_id': 3}, '0 and eos_id 2'),
  # What seqio takes for padding is "unknown" here.
  ({'pad_id': -1, 'eos_id': 1, 'unk_id': 0, 'bos_id': -1}, 'pad_id -1 and'),
]


@pytest.mark.parametrize('ids, message', OTHER_IDS)
def test_a_vocabulary_of_other_special_tokens_is_refused(
  ids, message, tmp_path
):
  found = train(tmp_path, **ids)
  for make in (
    lambda: tasks.get_task('wikipedia_summarization', found),
    lambda: evaluate.infer(checkpoint='', vocabulary=found, sequence_length={}),
  ):
    with pytest.raises(
      ValueError, match=f'vocabulary of .* {message}'
    ) as error:
      make()
  # What the error asks for.
  options = re.findall(r'--(\w+)=(-?\d)', str(error.value))
  asked = {name: int(value) for name, value in options}
  assert asked == T5_IDS
  vocabulary.check_ids(train(tmp_path, **asked), 'the remedy')


@pytest.mark.parametrize('name', ['inputs', 'targets'])
def test_a_registered_task_of_other_special_tokens_is_refused(name):
  bytes_, other = seqio.ByteVocabulary(), seqio.PassThroughVocabulary(99, 2)
  features = {'inputs': bytes_, 'targets': bytes_, name: other}
  seqio.TaskRegistry.add(
    f'other_{name}',
    source=tasks.TextSource(lambda split: {}, ['train']),
    preprocessors=[],
    output_features={key: seqio.Feature(v) for key, v in features.items()},
  )
  with pytest.raises(
    ValueError, match=f"the {name} of task 'other_{name}' has .* eos_id 2, whe"
  ):
    tasks.get_task(f'other_{name}')


@pytest.mark.parametrize(
  'accepted',
  [
    seqio.ByteVocabulary(),
    seqio.PassThroughVocabulary(99, 1),
    seqio.PassThroughVocabulary(99),  # of ready ids: it does not know
  ],
)
def test_vocabularies_of_t5_s_special_tokens(accepted):
  vocabulary.check_ids(accepted, 'here')
