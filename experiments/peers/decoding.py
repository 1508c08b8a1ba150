"""Greedy decoding to a forced length, by transformers and by us."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from experiments.peers import measure, models
from gqa_flax import Greedy, Transformer, sample_decode


def run(cell: models.Cell, repeats: int, variants) -> dict[str, Any]:
  """Checks that both decode the same tokens, and times them.

  'decode' is all of it, encoder included; 'encode' is the encoder alone, which
  is the same with any number of key/value heads.

  Args:
    cell: what is decoded.
    repeats: see `measure.take_turns`.
    variants: of transformers; see `models.in_transformers`.

  Returns:
    Fields of a record.

  Raises:
    RuntimeError: if the two models do not compute the same logits.
  """
  config, batch = cell.config, cell.batch()
  params = models.random_params(config)
  theirs = {
    f'transformers, {variant}': model
    for variant, model in models.in_transformers(
      params, config, variants
    ).items()
  }
  ours = {
    _name(heads, config.num_heads): models.grouped(params, config, heads)
    for heads in (config.num_heads, 2, 1)
  }
  contestants = _contestants(theirs, ours, batch, cell.target_length)
  first, results = measure.warm_up(contestants)
  decoded = {name: found[-1] for name, found in results['decode'].items()}
  multi_head = (*ours[models.MULTI_HEAD], decoded[models.MULTI_HEAD])
  return {
    'contestants': {
      **{
        name: {'library': 'transformers', 'variant': variant}
        for name, variant in zip(theirs, variants, strict=True)
      },
      **{
        name: {
          'library': 'gqa_flax',
          'num_kv_heads': model.config.num_kv_heads,
        }
        for name, (model, _) in ours.items()
      },
    },
    'agreement': {
      name: agreement(multi_head, (model, decoded[name]), batch)
      for name, model in theirs.items()
    },
    'first_call_seconds': first,
    **measure.take_turns(contestants, repeats),
  }


def _contestants(theirs, ours, batch, length: int) -> measure.Contestants:
  source = jnp.asarray(batch['encoder_input_tokens'])
  return {
    'decode': {
      **{
        name: functools.partial(decode_theirs, model, batch, length)
        for name, model in theirs.items()
      },
      **{
        name: functools.partial(decode_ours, *model_and_params, source, length)
        for name, model_and_params in ours.items()
      },
    },
    'encode': {
      **{
        name: functools.partial(encode_theirs, model, batch)
        for name, model in theirs.items()
      },
      models.MULTI_HEAD: functools.partial(
        encode_ours, *ours[models.MULTI_HEAD], source
      ),
    },
  }


def decode_theirs(model, batch: Mapping[str, np.ndarray], length: int):
  """Returns int64 [batch, length]; EOS is a token as any other."""
  source = models.torch_tokens(batch['encoder_input_tokens'])
  with torch.inference_mode():
    tokens = model.generate(
      input_ids=source,
      attention_mask=torch.ones_like(source),
      max_new_tokens=length,
      do_sample=False,
      num_beams=1,
      use_cache=True,
    )
  # Theirs begin with the start token.
  return tokens[:, 1:].numpy()


def decode_ours(model: Transformer, params, source, length: int):
  """Returns int32 [batch, length]; EOS is a token as any other."""
  tokens = sample_decode(
    model, params, source, length, Greedy(), stop_at_eos=False
  )
  return np.asarray(tokens)


def encode_theirs(model, batch: Mapping[str, np.ndarray]):
  """Runs the encoder alone."""
  source = models.torch_tokens(batch['encoder_input_tokens'])
  with torch.inference_mode():
    model.get_encoder()(
      input_ids=source, attention_mask=torch.ones_like(source)
    )


def encode_ours(model: Transformer, params, source):
  """Runs the encoder alone."""
  _encode(model, params, source).block_until_ready()


@functools.partial(jax.jit, static_argnames='model')
def _encode(model, params, source):
  return model.apply({'params': params}, source, method='encode')


@functools.partial(jax.jit, static_argnames='model')
def _logits(model, params, inputs):
  return model.apply({'params': params}, **inputs)


def agreement(ours, theirs, batch) -> dict[str, Any]:
  """Compares the tokens decoded, and the logits with one decoder input.

  Args:
    ours: the multi-head model, its parameters, and what it decoded.
    theirs: the same model in transformers, and what it decoded.
    batch: has the encoder's input.

  Returns:
    See `compare_tokens`; the largest difference of logits after the tokens
    that transformers decoded; the smallest distance of their best token from
    their second.

  Raises:
    RuntimeError: if the logits are not the same.
  """
  model, params, tokens = ours
  their_model, expected = theirs
  inputs = np.pad(expected, ((0, 0), (1, 0)))[:, :-1]
  source = models.torch_tokens(batch['encoder_input_tokens'])
  with torch.inference_mode():
    logits = their_model(
      input_ids=source,
      attention_mask=torch.ones_like(source),
      decoder_input_ids=models.torch_tokens(inputs),
    ).logits
    best = torch.topk(logits, 2).values
  found = _logits(
    model,
    params,
    {
      'encoder_input_tokens': jnp.asarray(batch['encoder_input_tokens']),
      'decoder_input_tokens': jnp.asarray(inputs, jnp.int32),
      # Says that none of the decoder's positions are padding.
      'decoder_target_tokens': jnp.ones(inputs.shape, jnp.int32),
    },
  )
  difference = float(np.abs(np.asarray(found) - logits.numpy()).max())
  models.check_same(difference, 'transformers')
  return {
    **compare_tokens(expected, tokens),
    'largest_logit_difference': difference,
    'smallest_margin': float((best[..., 0] - best[..., 1]).min()),
  }


def compare_tokens(expected: np.ndarray, found: np.ndarray) -> dict[str, Any]:
  """Returns the share of equal tokens, and where the first other one is.

  Args:
    expected: [batch, length].
    found: the same.

  Raises:
    ValueError: if the shapes differ: one of them ended before the length.
  """
  if expected.shape != found.shape:
    raise ValueError(
      f'Tokens {found.shape} cannot be compared with {expected.shape}; decode '
      'both to one length.'
    )
  other = np.argwhere((expected != found).T)  # by position, then by row
  first = None
  if len(other):
    first = {'position': int(other[0][0]), 'row': int(other[0][1])}
  return {
    'equal_tokens': float((expected == found).mean()),
    'first_difference': first,
    'different_tokens_decoded': len(np.unique(expected)),
  }


def _name(num_kv_heads: int, num_heads: int) -> str:
  if num_kv_heads == num_heads:
    return models.MULTI_HEAD
  return 'gqa_flax MQA' if num_kv_heads == 1 else f'gqa_flax GQA-{num_kv_heads}'
