"""The same random weights and the same batch in both libraries."""

import dataclasses
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

from gqa_flax import T5Config, Transformer, convert_params, save_params

SEED = 0
MULTI_HEAD = 'gqa_flax MHA'
# A model whose logits differ by more is another model; rounding makes 1e-5.
TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True)
class Cell:
  """What is computed.

  Attributes:
    size: of `T5Config.t5_1_1`.
    batch_size: rows.
    source_length: tokens of a row that the encoder reads, none of it padding.
    target_length: tokens of a row that the decoder makes or reads.
    dropout_rate: while training.
  """

  size: str
  batch_size: int
  source_length: int
  target_length: int
  dropout_rate: float = 0.0

  @property
  def config(self) -> T5Config:
    """The multi-head architecture, in float32."""
    return T5Config.t5_1_1(
      self.size, dropout_rate=self.dropout_rate, dtype='float32'
    )

  def batch(self) -> dict[str, np.ndarray]:
    """Returns random tokens, as `data.batches` would, neither 0 nor EOS."""
    rng = np.random.default_rng(SEED)

    def tokens(length):
      shape = (self.batch_size, length)
      return rng.integers(2, self.config.vocab_size, shape, np.int32)

    targets = tokens(self.target_length)
    return {
      'encoder_input_tokens': tokens(self.source_length),
      'decoder_input_tokens': np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
      'decoder_target_tokens': targets,
      'decoder_loss_weights': np.ones(targets.shape, np.float32),
    }


def random_params(config: T5Config):
  """Returns parameters as training begins with them."""
  token = jnp.zeros((1, 1), jnp.int32)
  init = jax.jit(Transformer(config).init)
  return init(jax.random.key(SEED), token, token, token)['params']


def grouped(params, config: T5Config, num_kv_heads: int):
  """Returns a model and parameters, converted by the mean."""
  params, config = convert_params(params, config, num_kv_heads, 'mean')
  return Transformer(config), params


def in_transformers(
  params, config: T5Config, variants: Sequence[str]
) -> dict[str, transformers.T5ForConditionalGeneration]:
  """Returns models of theirs with our parameters, by variant.

  They go through the disk, in Hugging Face's format.

  Args:
    params: ours.
    config: of the architecture.
    variants: 'sdpa' and 'eager' are what transformers calls
      attn_implementation; 'compiled' is the first by torch.compile, which needs
      a C++ compiler, with a cache of fixed size.
  """
  transformers.logging.set_verbosity_error()
  transformers.logging.disable_progress_bar()
  with tempfile.TemporaryDirectory(prefix='peers_') as folder:
    path = pathlib.Path(folder) / 'model'
    save_params(path, params, config, 'hugging_face', step=0)
    return {variant: _load(path, variant) for variant in variants}


def _load(path, variant: str) -> transformers.T5ForConditionalGeneration:
  compiled = variant == 'compiled'
  model = transformers.T5ForConditionalGeneration.from_pretrained(
    path, attn_implementation='sdpa' if compiled else variant
  ).eval()
  # Where transformers is told a smallest length it forbids EOS, which would
  # choose other tokens than ours; without an EOS it has nothing to forbid.
  model.generation_config.eos_token_id = None
  if compiled:
    model.generation_config.cache_implementation = 'static'
    # `generate` calls the encoder by itself.
    for module in (model, model.encoder):
      module.forward = torch.compile(module.forward, dynamic=False)
  return model


def torch_tokens(tokens: np.ndarray) -> torch.Tensor:
  """Returns token ids as torch wants them."""
  return torch.tensor(tokens, dtype=torch.long)


def check_same(difference: float, where: str):
  """Raises RuntimeError if logits differ by more than by rounding."""
  if not difference <= TOLERANCE:  # also where it is not a number
    raise RuntimeError(
      f'The logits of {where} differ from ours by up to {difference:.2g}: it '
      'is not the same model, and its time says nothing; nothing was recorded.'
    )


def common(cell: Cell) -> dict[str, Any]:
  """Returns what a record says of the model."""
  config = cell.config
  return {
    **dataclasses.asdict(cell),
    'num_heads': config.num_heads,
    'dtype': config.dtype,
    'seed': SEED,
  }
