"""config.json of a Hugging Face T5, and what T5Config makes of it."""

from typing import Any

from gqa_flax.checkpoints.hugging_face_files import read_json, write_json
from gqa_flax.config import T5Config
from gqa_flax.model.layers import MAX_DISTANCE, NUM_BUCKETS, RMSNorm

FILE = 'config.json'
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
  'model_type': 't5',
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
  'decoder_start_token_id': 0,
  'eos_token_id': 1,
  'pad_token_id': 0,
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
  write_json(path / 'generation_config.json', _SPECIAL_TOKENS)


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
  fields = {**_DEFAULTS, **read_json(path / FILE)}
  if fields['num_decoder_layers'] is None:
    fields['num_decoder_layers'] = fields['num_layers']
  if fields['model_type'] != 't5':
    raise ValueError(
      f'{path / FILE} says model_type {fields["model_type"]!r}; give a '
      "model of type 't5'."
    )
  for name, value in _FIXED.items():
    if fields[name] != value:
      raise ValueError(
        f'{path / FILE} says {name} {fields[name]}, but gqa_flax computes '
        f'{value} alone; give a model trained with that.'
      )
  return fields


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
  try:
    num_heads = fields['num_heads']
    num_kv_heads = int(ours.get('num_kv_heads', num_heads))
    step = int(ours['step']) if 'step' in ours else None
  except (AttributeError, TypeError, ValueError) as error:
    raise ValueError(
      f'{path / FILE} says {OURS} {ours!r}; give num_kv_heads and step, '
      'or remove it.'
    ) from error
  if num_kv_heads < 1 or num_heads % num_kv_heads:
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
