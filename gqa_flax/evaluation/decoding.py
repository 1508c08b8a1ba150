"""From examples to decoded tokens, batch by batch, and to texts."""

import contextlib
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from gqa_flax import partitioning
from gqa_flax.data.examples import generation_batches
from gqa_flax.evaluation.partial import Partial
from gqa_flax.inference import EOS_ID, PAD_ID
from gqa_flax.model.network import Transformer
from gqa_flax.partitioning import hosts
from gqa_flax.runtime import status
from gqa_flax.training import watchdog


def decode_tokens(
  model: Transformer,
  params: Any,
  examples: Sequence[Mapping[str, Any]],
  sequence_length: Mapping[str, int],
  batch_size: int,
  decode: Callable,
  partial: Partial | None = None,
  name: str = '',
) -> list[list[int]]:
  """Decodes examples ({'inputs': token ids}), in order.

  Args:
    model: a Transformer.
    params: its parameters.
    examples: with inputs of at most `sequence_length['inputs']` tokens.
    sequence_length: {'inputs': S, 'targets': T}.
    batch_size: examples decoded together.
    decode: see `evaluate.TaskScore`.
    partial: holds the batches that need no decoding, and gets the others as
      they come.
    name: of a progress bar; none is shown without one.

  Returns:
    For each example its token ids, without the padding at the end.
  """
  mesh = partitioning.current_mesh()
  done = list(partial.batches) if partial else []
  rest = examples[len(done) * batch_size :]
  before = len(examples) - len(rest)
  bar = status.Bar(
    name,
    len(examples),
    initial=before,
    unit='example',
    shows=bool(name) and hosts.is_primary(),
    hurries=True,
  )
  with contextlib.closing(bar):
    for i, batch in enumerate(
      generation_batches(rest, sequence_length['inputs'], batch_size)
    ):
      inputs = partitioning.spread_batch(batch, mesh)['encoder_input_tokens']
      num_rows = len(rest[i * batch_size : (i + 1) * batch_size])
      # All batches have one shape: the first one compiles.
      first = status.phase('compiling, and decoding the first batch')
      with contextlib.nullcontext() if i else first:
        decoded = decode(model, params, inputs, sequence_length['targets'])
        rows = np.asarray(jax.device_get(decoded))[:num_rows]
      watchdog.beat()
      done.append([np.trim_zeros(row, 'b').tolist() for row in rows])
      if partial:
        partial.append(done[-1])
      bar.show(before + i * batch_size + num_rows)
  return [row for batch in done for row in batch]


def to_text(tokens: Sequence[int], vocabulary) -> str:
  """Returns the text of decoded tokens, leaving out padding and EOS."""
  return vocabulary.decode([x for x in tokens if x not in (PAD_ID, EOS_ID)])


def fingerprint(params: Any) -> str:
  """Hashes the first row of every array.

  That takes no time, and would be another after any training or conversion.
  """
  digest = hashlib.sha256()
  for array in jax.tree.leaves(params):
    digest.update(np.asarray(array[:1]).tobytes())
  return digest.hexdigest()


def describe(decode: Callable) -> str:
  """Names a function for decoding, with what `functools.partial` binds."""
  if isinstance(decode, functools.partial):
    return f'{describe(decode.func)} {decode.args} {decode.keywords}'
  return getattr(decode, '__qualname__', type(decode).__name__)
