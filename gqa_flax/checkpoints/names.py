"""Our parameter names, which are T5X's, and Hugging Face's."""

import re
from collections.abc import Iterator

_ATTENTIONS = (
  ('encoder', 'attention', 'layer.0.SelfAttention'),
  ('decoder', 'self_attention', 'layer.0.SelfAttention'),
  ('decoder', 'encoder_decoder_attention', 'layer.1.EncDecAttention'),
)
_KERNELS = (('query', 'q'), ('key', 'k'), ('value', 'v'), ('out', 'o'))
_NORMS = (
  ('encoder', 'pre_attention_layer_norm', 'layer.0'),
  ('encoder', 'pre_mlp_layer_norm', 'layer.1'),
  ('decoder', 'pre_self_attention_layer_norm', 'layer.0'),
  ('decoder', 'pre_cross_attention_layer_norm', 'layer.1'),
  ('decoder', 'pre_mlp_layer_norm', 'layer.2'),
)
_MLPS = (('encoder', 'layer.1'), ('decoder', 'layer.2'))


def _rows() -> Iterator[tuple[str, str, bool]]:
  """Yields our name, Hugging Face's and whether the array is transposed.

  {i} stands for the number of a layer. Only the MLP's output is called wo by
  both; T5.1.0 has one wi, T5.1.1 has wi_0 and wi_1.
  """
  yield 'token_embedder/embedding', 'shared.weight', False
  yield 'decoder/logits_dense/kernel', 'lm_head.weight', True
  for stack in ('encoder', 'decoder'):
    yield (
      f'{stack}/relpos_bias/rel_embedding',
      f'{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight',
      True,
    )
    yield (
      f'{stack}/{stack}_norm/scale',
      f'{stack}.final_layer_norm.weight',
      False,
    )
  for stack, ours, theirs in _NORMS:
    yield (
      f'{stack}/layers_{{i}}/{ours}/scale',
      f'{stack}.block.{{i}}.{theirs}.layer_norm.weight',
      False,
    )
  for stack, ours, theirs in _ATTENTIONS:
    for kernel, letter in _KERNELS:
      yield (
        f'{stack}/layers_{{i}}/{ours}/{kernel}/kernel',
        f'{stack}.block.{{i}}.{theirs}.{letter}.weight',
        True,
      )
  for stack, layer in _MLPS:
    for kernel in ('wi', 'wi_0', 'wi_1', 'wo'):
      yield (
        f'{stack}/layers_{{i}}/mlp/{kernel}/kernel',
        f'{stack}.block.{{i}}.{layer}.DenseReluDense.{kernel}.weight',
        True,
      )


_TABLE = tuple(_rows())
_TO_HUGGING_FACE = {
  ours: (theirs, transposed) for ours, theirs, transposed in _TABLE
}
_FROM_HUGGING_FACE = {
  theirs: (ours, transposed) for ours, theirs, transposed in _TABLE
}

EMBEDDING_COPIES = (
  'encoder.embed_tokens.weight',
  'decoder.embed_tokens.weight',
)
# What Hugging Face files may hold besides parameters, and why it is left out.
SKIPPED = {
  **{
    name: 'the shared embedding once more, under another name'
    for name in EMBEDDING_COPIES
  },
  'decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight': (
    'unused: T5 has no position bias in cross-attention; old versions of '
    'transformers wrote it all the same'
  ),
}


def to_hugging_face(name: str) -> tuple[str, bool]:
  """Returns Hugging Face's name of our parameter, and if it is transposed.

  Raises:
    ValueError: if T5 has no such parameter.
  """
  found = _look_up(_TO_HUGGING_FACE, name, r'(?<=/layers_)(0|[1-9]\d*)(?=/)')
  if found is None:
    raise ValueError(
      f'{name} has no name in Hugging Face T5; give a parameter of T5.1.0 or '
      'T5.1.1 by its T5X name.'
    )
  return found


def from_hugging_face(name: str) -> tuple[str, bool] | None:
  """Returns our name of Hugging Face's array, and if it is transposed.

  None stands for what is no parameter; `SKIPPED` may know why.
  """
  return _look_up(_FROM_HUGGING_FACE, name, r'(?<=\.block\.)(0|[1-9]\d*)(?=\.)')


def _look_up(table, name, number) -> tuple[str, bool] | None:
  if '{' in name:
    return None
  if name in table:
    return table[name]
  match = re.search(number, name)
  if match is None:
    return None
  key = f'{name[: match.start()]}{{i}}{name[match.end() :]}'
  if key not in table:
    return None
  found, transposed = table[key]
  return found.replace('{i}', match.group()), transposed
