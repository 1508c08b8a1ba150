"""One layer of the encoder and one of the decoder; names are T5X's."""

import flax.linen as nn
import jax.numpy as jnp

from gqa_flax.config import T5Config
from gqa_flax.model.attention import Attention
from gqa_flax.model.cache import KVCache
from gqa_flax.model.layers import GatedMlp, RMSNorm, residual_dropout
from gqa_flax.partitioning import constrain


def rms_norm(config):
  """Returns a norm in the activations' dtype."""
  return RMSNorm(dtype=jnp.dtype(config.dtype))


def _attention(config, num_kv_heads):
  return Attention(
    num_heads=config.num_heads,
    num_kv_heads=num_kv_heads,
    head_dim=config.head_dim,
    emb_dim=config.emb_dim,
    dropout_rate=config.dropout_rate,
    dtype=jnp.dtype(config.dtype),
    cache_sharding=config.cache_sharding,
    cache_dtype=config.cache_dtype,
  )


def _mlp(config):
  return GatedMlp(
    mlp_dim=config.mlp_dim,
    activations=config.mlp_activations,
    dropout_rate=config.dropout_rate,
    dtype=jnp.dtype(config.dtype),
  )


class EncoderLayer(nn.Module):
  """Multi-head self-attention, then the MLP, each on a residual branch."""

  config: T5Config

  def setup(self):
    config = self.config
    self.pre_attention_layer_norm = rms_norm(config)
    self.attention = _attention(config, config.num_heads)
    self.pre_mlp_layer_norm = rms_norm(config)
    self.mlp = _mlp(config)
    self.dropout = residual_dropout(config.dropout_rate)

  def __call__(self, x_BSD, biases, deterministic):
    """Returns [B, S, D]."""
    y_BSD = self.pre_attention_layer_norm(x_BSD)
    y_BSD = self.attention(y_BSD, y_BSD, biases, deterministic=deterministic)
    x_BSD += self.dropout(y_BSD, deterministic)
    y_BSD = self.mlp(
      self.pre_mlp_layer_norm(x_BSD), deterministic=deterministic
    )
    x_BSD += self.dropout(y_BSD, deterministic)
    return constrain(x_BSD, 'batch', None, None)


class DecoderLayer(nn.Module):
  """Grouped self-attention, grouped cross-attention, then the MLP."""

  config: T5Config

  def setup(self):
    config = self.config
    self.pre_self_attention_layer_norm = rms_norm(config)
    self.self_attention = _attention(config, config.num_kv_heads)
    self.pre_cross_attention_layer_norm = rms_norm(config)
    self.encoder_decoder_attention = _attention(config, config.num_kv_heads)
    self.pre_mlp_layer_norm = rms_norm(config)
    self.mlp = _mlp(config)
    self.dropout = residual_dropout(config.dropout_rate)

  def __call__(self, x_BTD, encoded_BSD, biases, encoder_bias, deterministic):
    """Returns [B, T, D], all target positions at once."""
    y_BTD = self.pre_self_attention_layer_norm(x_BTD)
    y_BTD = self.self_attention(
      y_BTD, y_BTD, biases, deterministic=deterministic
    )
    x_BTD += self.dropout(y_BTD, deterministic)
    y_BTD = self.encoder_decoder_attention(
      self.pre_cross_attention_layer_norm(x_BTD),
      encoded_BSD,
      (encoder_bias,),
      deterministic=deterministic,
    )
    x_BTD += self.dropout(y_BTD, deterministic)
    return self._mlp_branch(x_BTD, deterministic)

  def project_encoded(self, encoded_BSD) -> KVCache:
    """Returns the cross-attention's keys and values of the encoder's output."""
    attention = self.encoder_decoder_attention
    return attention.place(attention.project_keys_values(encoded_BSD))

  def decode_step(self, x_B1D, self_cache, cross_cache, position, biases):
    """Returns [B, 1, D] and the self-attention cache with this position."""
    bias, encoder_bias = biases
    y_B1D = self.pre_self_attention_layer_norm(x_B1D)
    self_cache = self.self_attention.extend(self_cache, y_B1D, position)
    x_B1D += self.self_attention.attend(y_B1D, self_cache, (bias,))
    x_B1D += self.encoder_decoder_attention.attend(
      self.pre_cross_attention_layer_norm(x_B1D), cross_cache, (encoder_bias,)
    )
    return self._mlp_branch(x_B1D, True), self_cache

  def _mlp_branch(self, x_BTD, deterministic):
    y_BTD = self.mlp(
      self.pre_mlp_layer_norm(x_BTD), deterministic=deterministic
    )
    x_BTD += self.dropout(y_BTD, deterministic)
    return constrain(x_BTD, 'batch', None, None)
