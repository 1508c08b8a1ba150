"""SentencePiece vocabularies: T5's own by default.

T5.1.1's public checkpoints were all trained with one vocabulary of 32,000
pieces and 100 sentinels, which is not part of this repository: it is fetched
from the T5 authors' bucket when it is first asked for, or read from a file.
"""

import hashlib
import json
import os
import urllib.request

import seqio
from etils import epath
from google.protobuf.message import DecodeError
from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2

from gqa_flax.config import EOS_ID, PAD_ID
from gqa_flax.data import user_cache

T5_URL = (
  'https://storage.googleapis.com/t5-data/vocabs/cc_all.32000.100extra/'
  'sentencepiece.model'
)
T5_SHA256 = 'd60acb128cf7b7f2536e8f38a5b18a05535c9e14c7a355904270e15b0945ea86'
EXTRA_IDS = 100


def sentencepiece(
  file: str | None = None,
  extra_ids: int = EXTRA_IDS,
  cache_dir: str | os.PathLike | None = None,
) -> seqio.SentencePieceVocabulary:
  """Returns a vocabulary from a SentencePiece model.

  Args:
    file: a local path or one in a bucket, such as
      'gs://t5-data/vocabs/cc_all.32000.100extra/sentencepiece.model'; None is
      T5's own, fetched once.
    extra_ids: the sentinels of span corruption, on top of the pieces.
    cache_dir: where T5's is kept; see `user_cache.folder`.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is no SentencePiece model, or not one of T5's kind.
    ConnectionError: T5's vocabulary could not be fetched.
  """
  if file is None:
    path = user_cache.folder(cache_dir) / f't5_{T5_SHA256[:16]}.model'
    if not path.exists():
      user_cache.write_whole(path, _fetch())
    file = str(path)
  elif not epath.Path(file).exists():
    raise FileNotFoundError(
      f'There is no SentencePiece model {file}; check VOCABULARY_FILE, or '
      "leave it None for T5's own."
    )
  _check(epath.Path(file))
  return seqio.SentencePieceVocabulary(file, extra_ids=extra_ids)


def size_of(task: seqio.Task | seqio.Mixture) -> int:
  """Returns how many token ids a model of a task's features needs."""
  features = task.output_features.values()
  return max(feature.vocabulary.vocab_size for feature in features)


def check_ids(vocabulary: seqio.Vocabulary, where: str):
  """Raises ValueError unless special tokens have the ids that T5's have.

  A vocabulary that does not know how sequences end is taken for one of ready
  token ids.

  Args:
    vocabulary: of a task, or to decode with.
    where: whose it is, for the error.
  """
  pad_id = vocabulary.pad_id
  if isinstance(vocabulary, seqio.SentencePieceVocabulary):
    pad_id = vocabulary.tokenizer.pad_id()  # for seqio, it is always 0
  if pad_id != PAD_ID or vocabulary.eos_id not in (EOS_ID, None):
    raise ValueError(
      f'The vocabulary of {where} has pad_id {pad_id} and eos_id '
      f'{vocabulary.eos_id}, where the model pads with {PAD_ID} and ends '
      f'sequences with {EOS_ID}, as T5 does; give one with these ids (of '
      f'SentencePiece: --pad_id={PAD_ID} --eos_id={EOS_ID} --unk_id=2 '
      '--bos_id=-1).'
    )


def _check(path: epath.Path):
  """Sees that a file is a whole model."""
  remedy = "give another VOCABULARY_FILE, or leave it None for T5's own."
  if path.is_dir():
    raise ValueError(f'{path} is a folder, not a SentencePiece model: {remedy}')
  content = path.read_bytes()
  proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
  try:
    proto.ParseFromString(content)
    # Pieces come first: a file that is cut between two of them parses.
    is_whole = proto.HasField('trainer_spec')
    model = SentencePieceProcessor(model_proto=content) if is_whole else None
  except (DecodeError, RuntimeError):
    model = None
  if model is None:
    raise ValueError(
      f'{path} ({len(content)} bytes) is no SentencePiece model, or a part of '
      f'one: {remedy}'
    )


def fingerprint(vocabulary: seqio.Vocabulary) -> str:
  """Returns what tells vocabularies apart: their size, and ids of one text."""
  probe = "The quick brown Füchse jump: 0123456789 (it's 1/3 of €5,99)!"
  described = [vocabulary.vocab_size, [*vocabulary.encode(probe)]]
  digest = hashlib.sha256(json.dumps(described).encode()).hexdigest()[:16]
  return f'{vocabulary.vocab_size} ids, {digest}'


def _fetch() -> bytes:
  try:
    with urllib.request.urlopen(T5_URL, timeout=10) as response:
      content = response.read()
  except OSError as error:
    raise ConnectionError(
      f"T5's vocabulary could not be fetched from {T5_URL} "
      f'({getattr(error, "reason", error)}); copy it here by other means, and '
      'give its path as VOCABULARY_FILE.'
    ) from None
  if hashlib.sha256(content).hexdigest() != T5_SHA256:
    raise ConnectionError(
      f"What came from {T5_URL} is not T5's vocabulary ({len(content)} bytes); "
      'is there a proxy between? Give the path of a copy as VOCABULARY_FILE.'
    )
  return content
