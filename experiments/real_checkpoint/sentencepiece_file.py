"""The T5 vocabulary as a SentencePiece model, from the checkpoint's tokenizer.

The package carries the vocabulary as a `tokenizer.json`, with the pieces, their
scores and the table that normalizes text: all that a SentencePiece model holds.
What is made of it gives the ids of T5's own `spiece.model`.
"""

import base64
import json
import pathlib

from sentencepiece import sentencepiece_model_pb2 as pb2

from gqa_flax.data import user_cache
from gqa_flax.data.vocabulary import EXTRA_IDS

_SPECIAL = {'<pad>': 'CONTROL', '</s>': 'CONTROL', '<unk>': 'UNKNOWN'}


def write(tokenizer_json, path):
  """Writes the SentencePiece model of a T5 tokenizer, whole or not at all.

  Args:
    tokenizer_json: a file of the tokenizers library.
    path: of the model.
  """
  text = pathlib.Path(tokenizer_json).read_text(encoding='utf-8')
  user_cache.write_whole(pathlib.Path(path), convert(json.loads(text)))


def convert(tokenizer) -> bytes:
  """Returns the SentencePiece model of a T5 tokenizer, without sentinels.

  Args:
    tokenizer: the content of a `tokenizer.json`.

  Raises:
    ValueError: if it is not a unigram tokenizer with T5's special tokens.
  """
  model = tokenizer['model']
  pieces = model['vocab'][:-EXTRA_IDS]
  first = [piece for piece, _ in pieces[: len(_SPECIAL)]]
  if model['type'] != 'Unigram' or first != list(_SPECIAL):
    raise ValueError(
      f'The tokenizer is {model["type"]} and begins with {first}; give one of '
      'T5, a Unigram that begins with <pad>, </s> and <unk>.'
    )
  proto = pb2.ModelProto()
  Piece = proto.SentencePiece
  for piece, score in pieces:
    kind = Piece.Type.Value(_SPECIAL.get(piece, 'NORMAL'))
    proto.pieces.add(piece=piece, score=score, type=kind)
  proto.trainer_spec.model_type = pb2.TrainerSpec.UNIGRAM
  proto.trainer_spec.vocab_size = len(pieces)
  proto.trainer_spec.pad_id = 0
  proto.trainer_spec.eos_id = 1
  proto.trainer_spec.unk_id = 2
  proto.trainer_spec.bos_id = -1
  proto.trainer_spec.pad_piece = '<pad>'
  proto.normalizer_spec.name = 'nmt_nfkc'
  proto.normalizer_spec.precompiled_charsmap = _charsmap(
    tokenizer['normalizer']
  )
  return proto.SerializeToString()


def _charsmap(normalizer) -> bytes:
  parts = normalizer.get('normalizers', [normalizer])
  (table,) = (p for p in parts if p['type'] == 'Precompiled')
  return base64.b64decode(table['precompiled_charsmap'])
