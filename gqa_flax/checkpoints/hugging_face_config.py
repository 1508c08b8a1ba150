"""config.json of a Hugging Face T5, and what T5Config makes of it."""

from collections.abc import Mapping
from typing import Any

from gqa_flax.checkpoints.folders import MismatchError
from gqa_flax.checkpoints.hugging_face_files import read_json, write_json
from gqa_flax.checkpoints.json_files import is_integer
from gqa_flax.config import EOS_ID, PAD_ID, T5Config
from gqa_flax.model.layers import MAX_DISTANCE, NUM_BUCKETS, RMSNorm

FILE = 'config.json'
GENERATION_FILE = 'generation_config.json'
# What only we read in it: the number of key/value heads, and the step.
OURS = 'gqa_flax'

_SIZES = {
  'vocab_size': 'vocab_size',
  'd_model': 'emb_dim',
  'd_kv': 'head_dim',
  'd_ff': 'mlp_dim',
  'num_layers': 'num_encoder_layers',
  'num_decoder_layers': 'num_decoder_layers',
  'num_heads': 'num_heads',
}
# What our model has built in.
_FIXED = {
  'layer_norm_epsilon': RMSNorm.epsilon,
  'relative_attention_num_buckets': NUM_BUCKETS,
  'relative_attention_max_distance': MAX_DISTANCE,
}
# transformers' own, for what a config.json leaves out.
_DEFAULTS = {
  **_FIXED,
  'vocab_size': 32128,
  'd_model': 512,
  'd_kv': 64,
  'd_ff': 2048,
  'num_layers': 6,
  'num_decoder_layers': None,
  'num_heads': 8,
  'feed_forward_proj': 'relu',
  'tie_word_embeddings': True,
}
# Model types of T5.1.1's architecture, with their own defaults. mT5's head is
# never behind scaled outputs, whatever transformers 5 writes about tying.
_MODEL_TYPES: Mapping[str, Mapping[str, Any]] = {
  't5': _DEFAULTS,
  'mt5': {
    **_DEFAULTS,
    'vocab_size': 250112,
    'd_ff': 1024,
    'num_layers': 8,
    'num_heads': 6,
    'feed_forward_proj': 'gated-gelu',
    'tie_word_embeddings': False,
    'scale_decoder_outputs': False,
  },
}
# What is taken for T5 by its name, and is not.
_OTHERS = {
  'umt5': 'which has a relative position bias in every layer',
  'longt5': 'which attends locally in its encoder',
  'switch_transformers': 'which has experts in its MLPs',
}
_BOOLEANS = ('tie_word_embeddings', 'scale_decoder_outputs', 'is_gated_act')
_STRINGS = ('feed_forward_proj', 'dense_act_fn')
# Their 'gelu' is the exact one; ours and 'gelu_new' are the approximation.
_ACTIVATIONS = {
  'gelu_new': 'gelu',
  'relu': 'relu',
  'silu': 'silu',
  'swish': 'silu',
  'tanh': 'tanh',
}
FEED_FORWARD = {
  ('gelu', 'linear'): 'gated-gelu',
  ('relu', 'linear'): 'gated-relu',
  ('silu', 'linear'): 'gated-silu',
  ('tanh', 'linear'): 'gated-tanh',
  ('gelu',): 'gelu_new',
  ('relu',): 'relu',
  ('silu',): 'silu',
  ('tanh',): 'tanh',
}
_SPECIAL_TOKENS = {
  'decoder_start_token_id': PAD_ID,
  'eos_token_id': EOS_ID,
  'pad_token_id': PAD_ID,
}


def write_config(path, config: T5Config, step: int):
  """Writes config.json and generation_config.json."""
  tied = config.logits_via_embedding
  write_json(
    path / FILE,
    {
      'architectures': ['T5ForConditionalGeneration'],
      'model_type': 't5',
      **{theirs: getattr(config, ours) for theirs, ours in _SIZES.items()},
      **_FIXED,
      'dropout_rate': config.dropout_rate,
      'feed_forward_proj': feed_forward(config),
      # transformers 4 reads the first; 5 puts True in its place whatever it
      # is, and by the second decides if the head is T5.1.0's.
      'tie_word_embeddings': tied,
      'scale_decoder_outputs': tied,
      'is_encoder_decoder': True,
      'use_cache': True,
      **_SPECIAL_TOKENS,
      OURS: {'num_kv_heads': config.num_kv_heads, 'step': step},
    },
  )
  write_json(path / GENERATION_FILE, _SPECIAL_TOKENS)


def feed_forward(config: T5Config) -> str:
  """Returns feed_forward_proj; raises ValueError where there is none."""
  if config.mlp_activations not in FEED_FORWARD:
    raise ValueError(
      f'T5Config.mlp_activations is {config.mlp_activations}, which Hugging '
      f'Face T5 cannot compute; it can {list(FEED_FORWARD)}.'
    )
  return FEED_FORWARD[config.mlp_activations]


def read_config(path) -> dict[str, Any]:
  """Returns config.json's fields and transformers' defaults for the others.

  Raises:
    FileNotFoundError: if there is no config.json.
    ValueError: if it is no JSON, or of a model that ours cannot be.
  """
  fields = read_json(path / FILE)
  model_type = fields.get('model_type', 't5')
  if model_type not in [*_MODEL_TYPES]:
    reason = _OTHERS.get(str(model_type))
    raise MismatchError(
      f'{path / FILE} says model_type {model_type!r}'
      f"{f', {reason}' if reason else ''}; give a model of T5.1.1's "
      f'architecture, of type {" or ".join(map(repr, _MODEL_TYPES))}.'
    )
  fields = {**_MODEL_TYPES[model_type], **fields, 'model_type': model_type}
  if fields['num_decoder_layers'] is None:
    fields['num_decoder_layers'] = fields['num_layers']
  for name in _SIZES:
    if not is_integer(fields[name], least=1):
      raise _wrong(path / FILE, name, fields[name], 'an integer of 1 or more')
  for names, kind, article in (
    (_BOOLEANS, bool, 'true or false'),
    (_STRINGS, str, 'a string'),
  ):
    for name in names:
      if name in fields and not isinstance(fields[name], kind):
        raise _wrong(path / FILE, name, fields[name], article)
  for name, value in _FIXED.items():
    if fields[name] != value or isinstance(fields[name], bool):
      raise ValueError(
        f'{path / FILE} says {name} {fields[name]!r}, but gqa_flax computes '
        f'{value} alone; give a model trained with that.'
      )
  _check_special_tokens(path / FILE, fields)
  if (path / GENERATION_FILE).exists():
    generation = read_json(path / GENERATION_FILE)
    _check_special_tokens(path / GENERATION_FILE, generation)
  return fields


def _wrong(file, name, value, expected) -> ValueError:
  return ValueError(
    f'{file} says {name} {value!r:.200}, where {expected} is expected; correct '
    'it, or download the file again.'
  )


def _check_special_tokens(file, fields):
  """Raises MismatchError where ids are not those that are built in here."""
  for name, expected in _SPECIAL_TOKENS.items():
    found = fields.get(name, expected)
    # generate() stops at any of a list.
    ids = found if isinstance(found, list) and found else [found]
    if any(type(x) is not int or x != expected for x in ids):
      raise MismatchError(
        f'{file} says {name} {found!r:.200}, where gqa_flax uses {expected} '
        'alone, as T5 does: for padding and to start the decoder '
        f'{PAD_ID}, to end a sequence {EOS_ID}; give a model trained with '
        'these ids.'
      )


def activations(fields, path) -> tuple[str, ...]:
  """Returns mlp_activations, as transformers reads them."""
  kind, _, name = str(fields['feed_forward_proj']).rpartition('-')
  if (kind, name) == ('gated', 'gelu'):
    name = 'gelu_new'
  # Written by save_pretrained, and they win over feed_forward_proj.
  name = fields.get('dense_act_fn', name)
  is_gated = fields.get('is_gated_act', kind == 'gated')
  if name not in _ACTIVATIONS or kind not in ('', 'gated'):
    raise ValueError(
      f'{path / FILE} says feed_forward_proj '
      f'{fields["feed_forward_proj"]!r}, that is activation {name!r}; '
      f'gqa_flax knows {list(_ACTIVATIONS)}, plain or gated.'
    )
  return (_ACTIVATIONS[name], *(('linear',) if is_gated else ()))


def read_ours(fields, path) -> tuple[int, int | None]:
  """Returns num_kv_heads and the step, None where gqa_flax did not write it."""
  ours = fields.get(OURS, {})
  if not isinstance(ours, dict):
    raise ValueError(
      f'{path / FILE} says {OURS} {ours!r:.200}; give num_kv_heads and step, '
      'or remove it.'
    )
  num_heads = fields['num_heads']
  num_kv_heads, step = ours.get('num_kv_heads', num_heads), ours.get('step')
  for name, value, least in (
    ('num_kv_heads', num_kv_heads, 1),
    ('step', step, 0),
  ):
    # None stands for a step that is not known.
    known = name != 'step' or value is not None
    if known and not is_integer(value, least):
      expected = f'an integer of {least} or more'
      raise _wrong(path / FILE, f'{OURS}.{name}', value, expected)
  if num_heads % num_kv_heads:
    raise ValueError(
      f'{path / FILE} says {OURS}.num_kv_heads {num_kv_heads}, which does '
      f'not divide num_heads {num_heads}; correct it.'
    )
  return num_kv_heads, step


def check_sizes(config: T5Config, fields, mlp_activations, path):
  """Raises ValueError unless the arrays' shapes, as a config, agree."""
  wrong = [
    f'{theirs} {fields[theirs]} where the arrays have {getattr(config, ours)}'
    for theirs, ours in _SIZES.items()
    if fields[theirs] != getattr(config, ours)
  ]
  if len(mlp_activations) != len(config.mlp_activations):
    wrong.append(
      f'feed_forward_proj {fields["feed_forward_proj"]!r} where the MLP has '
      f'{len(config.mlp_activations)} input kernel(s)'
    )
  if wrong:
    raise ValueError(
      f'{path / FILE} says {"; ".join(wrong)}; give the config.json and '
      'the arrays of one model.'
    )
