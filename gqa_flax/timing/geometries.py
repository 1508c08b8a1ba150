"""Parameters counted from a config, and public decoder-only shapes; no JAX.

The decoder-only models are there to be compared with: none of them can be
trained or loaded here, and only what a roofline needs of them is kept.
"""

import dataclasses
from collections.abc import Mapping

from gqa_flax.config import T5Config, divisors

# Rows of the relative-position bias for one head, see `model.layers`.
_NUM_BUCKETS = 32


@dataclasses.dataclass(frozen=True)
class DecoderOnlyConfig:
  """A decoder of the Llama kind: RMSNorm, rotary positions, gated MLP.

  Attributes:
    num_layers: layers.
    emb_dim: width of the residual stream, D.
    num_heads: query heads, N.
    num_kv_heads: key/value heads, K.
    head_dim: width of one head, H.
    mlp_dim: width of the MLP, F.
    vocab_size: rows of the embedding and columns of the output head, V.
    tied_embedding: whether the output head is the embedding.
    qkv_bias: whether the projections of queries, keys and values have biases.

  Raises:
    ValueError: if a size is not positive, or num_kv_heads does not divide
      num_heads.
  """

  num_layers: int
  emb_dim: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  mlp_dim: int
  vocab_size: int
  tied_embedding: bool = False
  qkv_bias: bool = False

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if not isinstance(value, bool) and value < 1:
        raise ValueError(
          f'DecoderOnlyConfig.{field.name} is {value!r}; set it to 1 or more.'
        )
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
        f'DecoderOnlyConfig.num_kv_heads is {self.num_kv_heads}, which does '
        f'not divide num_heads = {self.num_heads}; choose one of '
        f'{divisors(self.num_heads)}.'
      )

  @property
  def layer_params(self) -> int:
    """Parameters of one layer, with its two norms."""
    D, N, K, H = self.emb_dim, self.num_heads, self.num_kv_heads, self.head_dim
    kernels = 2 * D * N * H + 2 * D * K * H + 3 * D * self.mlp_dim
    biases = (N + 2 * K) * H if self.qkv_bias else 0
    return kernels + biases + 2 * D

  @property
  def embedding_params(self) -> int:
    """Parameters of the embedding, and as many of an untied output head."""
    return self.vocab_size * self.emb_dim

  @property
  def num_params(self) -> int:
    """All parameters, the last norm among them."""
    tables = 1 if self.tied_embedding else 2
    layers = self.num_layers * self.layer_params
    return layers + self.emb_dim + tables * self.embedding_params


def _llama(num_layers, emb_dim, num_heads, num_kv_heads, mlp_dim, vocab_size):
  return DecoderOnlyConfig(
    num_layers=num_layers,
    emb_dim=emb_dim,
    num_heads=num_heads,
    num_kv_heads=num_kv_heads,
    head_dim=128,
    mlp_dim=mlp_dim,
    vocab_size=vocab_size,
  )


# Llama 2: Touvron et al. 2023 (arXiv 2307.09288), table 1, widths of the MLP by
# the released config.json; its 34B was not released, and is Code Llama 34B's
# (2308.12950). Llama 3: Grattafiori et al. 2024 (2407.21783), table 3. Qwen2.5:
# Yang et al. 2024 (2412.15115), table 1, widths by the released config.json.
GEOMETRIES: Mapping[str, DecoderOnlyConfig] = {
  'llama-2-7b': _llama(32, 4096, 32, 32, 11008, 32_000),
  'llama-2-13b': _llama(40, 5120, 40, 40, 13824, 32_000),
  'llama-2-34b': _llama(48, 8192, 64, 8, 22016, 32_000),
  'llama-2-70b': _llama(80, 8192, 64, 8, 28672, 32_000),
  'llama-3-8b': _llama(32, 4096, 32, 8, 14336, 128_256),
  'llama-3-70b': _llama(80, 8192, 64, 8, 28672, 128_256),
  'qwen2.5-0.5b': DecoderOnlyConfig(
    num_layers=24,
    emb_dim=896,
    num_heads=14,
    num_kv_heads=2,
    head_dim=64,
    mlp_dim=4864,
    vocab_size=151_936,
    tied_embedding=True,
    qkv_bias=True,
  ),
  'qwen2.5-7b': DecoderOnlyConfig(
    num_layers=28,
    emb_dim=3584,
    num_heads=28,
    num_kv_heads=4,
    head_dim=128,
    mlp_dim=18944,
    vocab_size=152_064,
    qkv_bias=True,
  ),
  'qwen2.5-32b': DecoderOnlyConfig(
    num_layers=64,
    emb_dim=5120,
    num_heads=40,
    num_kv_heads=8,
    head_dim=128,
    mlp_dim=27648,
    vocab_size=152_064,
    qkv_bias=True,
  ),
}


def mlp_params(config: T5Config) -> int:
  """Returns the parameters of one MLP of T5, gated or not."""
  kernels = len(config.mlp_activations) + 1
  return kernels * config.emb_dim * config.mlp_dim


def t5_param_parts(config: T5Config) -> dict[str, int]:
  """Returns the parameters of T5.1.1 by the phase that reads them.

  Returns:
    'embedding' (read by rows), 'encoder', 'cross_keys_values' (of all decoder
    layers; read when the cache is filled, and by no step), 'decoder' (the rest
    of it) and 'head', which is 0 if the head is the embedding.
  """
  D, N, H = config.emb_dim, config.num_heads, config.head_dim
  kernel, grouped = D * N * H, D * config.num_kv_heads * H
  mlp = mlp_params(config)
  last_norm_and_bias = D + _NUM_BUCKETS * N
  encoder_layer = 4 * kernel + mlp + 2 * D
  decoder_layer = 4 * kernel + 2 * grouped + mlp + 3 * D
  embedding = config.vocab_size * D
  return {
    'embedding': embedding,
    'encoder': config.num_encoder_layers * encoder_layer + last_norm_and_bias,
    'cross_keys_values': config.num_decoder_layers * 2 * grouped,
    'decoder': config.num_decoder_layers * decoder_layer + last_norm_and_bias,
    'head': 0 if config.logits_via_embedding else embedding,
  }


def num_params(config: T5Config | DecoderOnlyConfig) -> int:
  """Returns the number of all parameters."""
  if isinstance(config, T5Config):
    return sum(t5_param_parts(config).values())
  return config.num_params
