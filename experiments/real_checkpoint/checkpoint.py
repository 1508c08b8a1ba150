"""A real checkpoint of the T5.1.1 architecture, from the package index.

`traceforge-title-model` (MIT) carries flan-t5-small, fine-tuned to write
titles, as int8 ONNX: 6 heads of 64, 8 + 8 layers, width 512, the T5
vocabulary; 76,961,152 parameters once dequantized.
"""

import importlib.resources
import pathlib

import numpy as np
import onnx
from flax import traverse_util
from onnx import numpy_helper

from experiments.real_checkpoint import sentencepiece_file
from gqa_flax.checkpoints import formats
from gqa_flax.checkpoints.architecture import parameter_shapes
from gqa_flax.checkpoints.published import PUBLISHED
from gqa_flax.config import T5Config

PACKAGE = 'traceforge_title_model'
CONFIG = T5Config.t5_1_1('small', dropout_rate=0.0)
# Of flan-t5-small; how long its last owners trained is not known.
STEP = PUBLISHED['flan-t5-small']
VOCABULARY_FILE = 'sentencepiece.model'
_ATTENTION = ('query', 'key', 'value', 'out')
_MLP = ('wi_0', 'wi_1', 'wo')


def load():
  """Returns (params, config), float32, named as T5X names them.

  The quantized matrices stand in the order in which the graph uses them; the
  names of the norms, the embedding and the biases are the original ones.

  Raises:
    ValueError: if the files hold other arrays than such a model has.
  """
  encoder, decoder = _arrays('encoder'), _arrays('decoder')
  flat = {
    'token_embedder/embedding': decoder['m.shared.weight'],
    **_stack('encoder', encoder, 'enc', (('attention', _ATTENTION), _MLP)),
    **_stack(
      'decoder',
      decoder,
      'm.decoder',
      (
        ('self_attention', _ATTENTION),
        ('encoder_decoder_attention', _ATTENTION),
        _MLP,
      ),
    ),
  }
  expected = parameter_shapes(CONFIG)
  found = {name: x.shape for name, x in flat.items()}
  if found != expected:
    raise ValueError(
      f'{PACKAGE} holds other arrays than a T5.1.1-Small has: '
      f'{sorted(found.items() ^ expected.items())[:6]}; install version 0.2.0.'
    )
  return traverse_util.unflatten_dict(flat, sep='/'), CONFIG


def write(folder):
  """Writes the checkpoint in the native format, its vocabulary beside it.

  Args:
    folder: gets checkpoint_<STEP>/ and `VOCABULARY_FILE`, each of them whole
      or not at all; what is there is kept.
  """
  folder = pathlib.Path(folder)
  if not (folder / VOCABULARY_FILE).exists():
    sentencepiece_file.write(
      source() / 'tokenizer.json', folder / VOCABULARY_FILE
    )
  if not any(folder.glob('checkpoint_*')):
    params, config = load()
    formats.save_params(folder, params, config, step=STEP)


def source():
  """Returns the folder of the package that holds its files."""
  return importlib.resources.files(PACKAGE) / 'data' / 'span'


def _stack(stack, arrays, prefix, parts):
  """Names the arrays of one stack as T5X does."""
  matrices = iter(
    sorted((n for n in arrays if n.startswith('onnx::')), key=_number)
  )
  norms = {
    'encoder': ('pre_attention_layer_norm', 'pre_mlp_layer_norm'),
    'decoder': (
      'pre_self_attention_layer_norm',
      'pre_cross_attention_layer_norm',
      'pre_mlp_layer_norm',
    ),
  }[stack]
  bias = f'{prefix}.block.0.layer.0.SelfAttention.relative_attention_bias'
  flat = {
    f'{stack}/{stack}_norm/scale': arrays[f'{prefix}.final_layer_norm.weight'],
    f'{stack}/relpos_bias/rel_embedding': arrays[f'{bias}.weight'].T,
  }
  for i in range(CONFIG.num_decoder_layers):
    layer = f'{stack}/layers_{i}'
    for j, norm in enumerate(norms):
      flat[f'{layer}/{norm}/scale'] = arrays[
        f'{prefix}.block.{i}.layer.{j}.layer_norm.weight'
      ]
    for part in parts:
      module, names = part if part is not _MLP else ('mlp', _MLP)
      for name in names:
        flat[f'{layer}/{module}/{name}/kernel'] = arrays[next(matrices)]
  if stack == 'decoder':
    flat['decoder/logits_dense/kernel'] = arrays[next(matrices)]
  return flat


def _arrays(name) -> dict[str, np.ndarray]:
  """Reads one ONNX file; (q - zero_point) * scale where it is quantized."""
  path = source() / f'{name}.onnx'
  stored = {
    t.name: numpy_helper.to_array(t)
    for t in onnx.load_from_string(path.read_bytes()).graph.initializer
  }
  arrays = {}
  for key, x in stored.items():
    if key.endswith('_quantized'):
      base = key.removesuffix('_quantized')
      zero = stored[f'{base}_zero_point'].astype(np.float32)
      scale = stored[f'{base}_scale'].astype(np.float32)
      arrays[base] = (x.astype(np.float32) - zero) * scale
    elif key.endswith('.weight'):
      arrays[key] = x.astype(np.float32)
  return arrays


def _number(name: str) -> int:
  return int(name.rsplit('_', 1)[1])
