"""Writes Hugging Face's T5: a folder of config.json and safetensors.

Hugging Face has no grouped T5, so that a grouped model is written with each
key/value head repeated: `T5ForConditionalGeneration` then computes the same
logits, and reading the folder here gives the grouped model back.
"""

from collections.abc import Callable, Mapping

import numpy as np
from etils import epath

from gqa_flax.checkpoints.architecture import check_shapes
from gqa_flax.checkpoints.arrays import DTYPES, LazyArray
from gqa_flax.checkpoints.hugging_face_arrays import (
  is_grouped,
  observed,
  repeated,
  transposed,
)
from gqa_flax.checkpoints.hugging_face_config import feed_forward, write_config
from gqa_flax.checkpoints.hugging_face_files import write_arrays
from gqa_flax.checkpoints.model_card import model_card
from gqa_flax.checkpoints.names import to_hugging_face
from gqa_flax.config import T5Config

# As save_pretrained has it for most of its versions.
MAX_SHARD_BYTES = 5 * 10**9


def write_checkpoint(
  path,
  step: int,
  config: T5Config,
  params: Mapping[str, LazyArray],
  *,
  source: str = '',
  companions: Mapping[str, epath.Path] | None = None,
  method: str | None = None,
  dtype: str = 'float32',
  on_slab: Callable[[str, int, np.ndarray], None] | None = None,
  max_shard_bytes: int = MAX_SHARD_BYTES,
):
  """Writes a folder that `T5ForConditionalGeneration.from_pretrained` reads.

  One array is in memory at a time. An error leaves the folder half-written:
  give a temporary name and rename it.

  Args:
    path: of the folder, which must not exist.
    step: steps since the very first of pre-training.
    config: of the model. Its key/value heads are repeated num_heads /
      num_kv_heads times.
    params: by T5X name.
    source: where the parameters come from, for the model card.
    companions: files that are copied into the folder, by name.
    method: by which they were converted, for the model card.
    dtype: of the arrays: one of `arrays.DTYPES`.
    on_slab: called with the T5X name, the first row and the rows of each part
      of an array that is about to be written, float32 as it will be read,
      before transposition and repetition, in the order of the rows. What it
      raises is passed on.
    max_shard_bytes: arrays go to a further file beyond that.

  Raises:
    ValueError: if params do not fit config, or Hugging Face's T5 has no such
      MLP.
  """
  feed_forward(config)  # raises before anything is written
  check_shapes({n: a.shape for n, a in params.items()}, config, 'The model')
  path = epath.Path(path)
  path.mkdir()
  arrays = {}
  for name, array in params.items():
    theirs, is_transposed = to_hugging_face(name)
    # As it will be read.
    array = array.astype(DTYPES[dtype]).astype(np.float32)
    if on_slab is not None:
      array = observed(array, name, on_slab)
    if is_grouped(name):
      array = repeated(array, config)
    array = transposed(array) if is_transposed else array
    arrays[theirs] = array.astype(DTYPES[dtype])
  write_arrays(path, arrays, max_shard_bytes)
  write_config(path, config, step)
  companions = companions or {}
  for name, file in companions.items():
    (path / name).write_bytes(file.read_bytes())
  card = model_card(config, step, source, method, companions)
  (path / 'README.md').write_text(card)
