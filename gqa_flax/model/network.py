"""The T5.1.1 encoder, decoder and their union; names are T5X's."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from gqa_flax.config import T5Config
from gqa_flax.model.blocks import DecoderLayer, EncoderLayer, rms_norm
from gqa_flax.model.cache import DecoderCache, KVCache
from gqa_flax.model.layers import (
  RelativePositionBias,
  allowed_pairs,
  attention_bias,
  residual_dropout,
  truncated_init,
)
from gqa_flax.partitioning import constrain, constrain_cache


class Encoder(nn.Module):
  """A stack of EncoderLayer."""

  config: T5Config

  def setup(self):
    config = self.config
    self.relpos_bias = RelativePositionBias(
      config.num_heads, bidirectional=True, dtype=jnp.dtype(config.dtype)
    )
    layer = _remat(EncoderLayer, config, deterministic_argument=3)
    self.layers = [layer(config) for _ in range(config.num_encoder_layers)]
    self.encoder_norm = rms_norm(config)
    self.dropout = residual_dropout(config.dropout_rate)

  def __call__(self, x_BSD, mask_bias, deterministic):
    """Returns [B, S, D] from embedded tokens [B, S, D]."""
    positions = jnp.arange(x_BSD.shape[1])
    biases = self.relpos_bias(positions, positions), mask_bias
    x_BSD = self.dropout(x_BSD, deterministic)
    for layer in self.layers:
      x_BSD = layer(x_BSD, biases, deterministic)
    return self.dropout(self.encoder_norm(x_BSD), deterministic)


class Decoder(nn.Module):
  """A stack of DecoderLayer and, if untied, the output head."""

  config: T5Config

  def setup(self):
    config = self.config
    self.relpos_bias = RelativePositionBias(
      config.num_heads, bidirectional=False, dtype=jnp.dtype(config.dtype)
    )
    layer = _remat(DecoderLayer, config, deterministic_argument=5)
    self.layers = [layer(config) for _ in range(config.num_decoder_layers)]
    self.decoder_norm = rms_norm(config)
    self.dropout = residual_dropout(config.dropout_rate)
    if not config.logits_via_embedding:
      self.logits_dense = nn.Dense(
        config.vocab_size,
        use_bias=False,
        dtype=jnp.float32,
        kernel_init=truncated_init(),
      )

  def __call__(
    self, y_BTD, encoded_BSD, mask_bias, encoder_bias, deterministic
  ):
    """Returns [B, T, D] from embedded tokens [B, T, D]."""
    positions = jnp.arange(y_BTD.shape[1])
    biases = self.relpos_bias(positions, positions), mask_bias
    y_BTD = self.dropout(y_BTD, deterministic)
    for layer in self.layers:
      y_BTD = layer(y_BTD, encoded_BSD, biases, encoder_bias, deterministic)
    return self.dropout(self.decoder_norm(y_BTD), deterministic)

  def project_encoded(self, encoded_BSD) -> tuple[KVCache, ...]:
    """Returns the cross-attention cache of every layer."""
    return tuple(layer.project_encoded(encoded_BSD) for layer in self.layers)

  def decode_step(self, y_B1D, cache: DecoderCache):
    """Returns [B, 1, D] and the cache, one position on."""
    length = cache.self_attention[0].length
    keys = jnp.arange(length)
    bias = self.relpos_bias(cache.position[None], keys)
    written = (keys <= cache.position)[None, None, :]
    biases = bias + attention_bias(written, bias.dtype), cache.encoder_bias
    self_caches = []
    for layer, self_cache, cross_cache in zip(
      self.layers, cache.self_attention, cache.cross_attention, strict=True
    ):
      y_B1D, self_cache = layer.decode_step(
        y_B1D, self_cache, cross_cache, cache.position, biases
      )
      self_caches.append(self_cache)
    cache = dataclasses.replace(
      cache,
      self_attention=tuple(self_caches),
      position=cache.position + 1,
    )
    return self.decoder_norm(y_B1D), cache


class Transformer(nn.Module):
  """T5.1.1: encoder, decoder, one embedding for both, float32 logits.

  `apply({'params': params}, ...)` takes parameters named as T5X names them,
  such as `decoder/layers_0/encoder_decoder_attention/key/kernel`.
  """

  config: T5Config

  def setup(self):
    config = self.config
    self.token_embedder = nn.Embed(
      config.vocab_size,
      config.emb_dim,
      dtype=jnp.dtype(config.dtype),
      embedding_init=nn.initializers.normal(stddev=1.0),
    )
    self.encoder = Encoder(config)
    self.decoder = Decoder(config)

  def __call__(
    self,
    encoder_input_tokens,
    decoder_input_tokens,
    decoder_target_tokens,
    encoder_segment_ids=None,
    decoder_segment_ids=None,
    encoder_positions=None,
    decoder_positions=None,
    enable_dropout=False,
  ):
    """Returns the logits of every target position (teacher forcing).

    Args:
      encoder_input_tokens: int32 [batch, source_length], 0 is padding.
      decoder_input_tokens: int32 [batch, target_length], the targets shifted
        right behind a 0.
      decoder_target_tokens: int32 [batch, target_length]; only says which
        positions are padding.
      encoder_segment_ids: int32 [batch, source_length], which example of a
        packed row a token belongs to. None if rows are not packed.
      decoder_segment_ids: the same for targets, [batch, target_length].
      encoder_positions: accepted because packed batches carry them; T5's
        relative positions are differences, the same within a row as within a
        segment, so they change nothing.
      decoder_positions: likewise.
      enable_dropout: needs a PRNG named 'dropout' in `rngs`.

    Returns:
      float32 [batch, target_length, vocab_size].

    Raises:
      ValueError: if only one side has segment ids.
    """
    del encoder_positions, decoder_positions
    if (encoder_segment_ids is None) != (decoder_segment_ids is None):
      raise ValueError(
        'Packed batches carry both encoder_segment_ids and '
        'decoder_segment_ids, but one is None; give both or neither.'
      )
    deterministic = not enable_dropout
    encoded_BSD = self.encode(
      encoder_input_tokens, encoder_segment_ids, enable_dropout=enable_dropout
    )
    dtype = jnp.dtype(self.config.dtype)
    real_BT = decoder_target_tokens > 0
    T = real_BT.shape[1]
    causal = jnp.tril(jnp.ones((1, T, T), bool))
    allowed = causal & allowed_pairs(
      real_BT, real_BT, decoder_segment_ids, decoder_segment_ids
    )
    encoder_allowed = allowed_pairs(
      real_BT,
      encoder_input_tokens > 0,
      decoder_segment_ids,
      encoder_segment_ids,
    )
    y_BTD = self.decoder(
      self._embed(decoder_input_tokens),
      encoded_BSD,
      attention_bias(allowed, dtype),
      attention_bias(encoder_allowed, dtype),
      deterministic,
    )
    return self._logits(y_BTD)

  def encode(
    self,
    encoder_input_tokens,
    encoder_segment_ids=None,
    *,
    enable_dropout=False,
  ):
    """Returns the encoder's output [batch, source_length, emb_dim]."""
    real_BS = encoder_input_tokens > 0
    allowed = allowed_pairs(
      real_BS, real_BS, encoder_segment_ids, encoder_segment_ids
    )
    return self.encoder(
      self._embed(encoder_input_tokens),
      attention_bias(allowed, jnp.dtype(self.config.dtype)),
      not enable_dropout,
    )

  def init_cache(
    self, encoder_input_tokens, max_decode_length: int
  ) -> DecoderCache:
    """Encodes, and returns the cache from which decoding starts.

    Args:
      encoder_input_tokens: int32 [batch, source_length], 0 is padding.
      max_decode_length: positions that the self-attention cache holds.

    Returns:
      A DecoderCache at position 0.
    """
    encoded_BSD = self.encode(encoder_input_tokens)
    return self.fill_cache(encoded_BSD, encoder_input_tokens, max_decode_length)

  def fill_cache(
    self, encoded_BSD, encoder_input_tokens, max_decode_length: int
  ) -> DecoderCache:
    """Returns `init_cache` of what is encoded already."""
    config = self.config
    dtype = jnp.dtype(config.dtype)
    empty = KVCache.zeros(
      encoder_input_tokens.shape[0],
      max_decode_length,
      config.num_kv_heads,
      config.head_dim,
      dtype,
      config.cache_dtype,
    )
    empty = jax.tree.map(
      lambda x_BKSH: constrain_cache(x_BKSH, config.cache_sharding), empty
    )
    return DecoderCache(
      self_attention=(empty,) * config.num_decoder_layers,
      cross_attention=self.decoder.project_encoded(encoded_BSD),
      encoder_bias=attention_bias(
        (encoder_input_tokens > 0)[:, None, :], dtype
      ),
      position=jnp.zeros((), jnp.int32),
    )

  def decode_step(self, tokens_B, cache: DecoderCache):
    """Decodes one position.

    Args:
      tokens_B: int32 [batch], the previous token of each sequence (0 at first).
      cache: from `init_cache` or the previous step; its position must be below
        its length.

    Returns:
      float32 logits [batch, vocab_size] and the cache, one position on.

    Raises:
      ValueError: if the cache is full, where its position is known.
    """
    cache.check_room()
    y_B1D = self._embed(tokens_B[:, None])
    y_B1D, cache = self.decoder.decode_step(y_B1D, cache)
    return self._logits(y_B1D)[:, 0], cache

  def _embed(self, tokens_BT):
    table_VD = self.token_embedder.embedding.astype(self.config.dtype)
    # Whole rows on every device: gathering parts of them would move batches.
    table_VD = constrain(table_VD, 'vocab', None)
    return constrain(jnp.take(table_VD, tokens_BT, axis=0), 'batch', None, None)

  def _logits(self, y_BTD):
    config = self.config
    if config.logits_via_embedding:
      # T5.1.0 rescales its tied embedding to a logit's scale.
      logits_BTV = self.token_embedder.attend(y_BTD) / config.emb_dim**0.5
    else:
      logits_BTV = self.decoder.logits_dense(y_BTD)
    return constrain(logits_BTV.astype(jnp.float32), 'batch', None, 'vocab')


def _remat(layer, config, deterministic_argument):
  """Wraps a layer so that its backward pass recomputes what it did not keep."""
  if config.remat_policy == 'none':
    return layer
  policy = None
  if config.remat_policy == 'dots':
    policy = jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims
  return nn.remat(
    layer, policy=policy, static_argnums=(deterministic_argument,)
  )
