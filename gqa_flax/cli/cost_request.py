"""Reads the command line of `gqa-flax cost`, and refuses what cannot be."""

import difflib
import re

from gqa_flax.cli.cost_report import Report
from gqa_flax.cli.gin_config import UsageError
from gqa_flax.config import SIZES, T5Config, divisors
from gqa_flax.timing import kv_cache
from gqa_flax.timing.chips import CHIPS
from gqa_flax.timing.geometries import GEOMETRIES, DecoderOnlyConfig

# The paper's largest batch, and its lengths of summarization.
SEQUENCES_A_CHIP = 32
SOURCE_LENGTH = 2048
TARGET_LENGTH = 512
# What Llama 2 was trained on.
LENGTH = 4096


def read(args) -> Report:
  """Reads the command line.

  Raises:
    UsageError: a name is unknown, or a number cannot be.
  """
  model, config = _find_model(args.model)
  chip_name = _nearest(args.chip.lower(), [*CHIPS], 'chip', args.chip)
  _require_positive('num_chips', args.num_chips)
  batch_size = args.batch_size
  if batch_size is None:
    batch_size = SEQUENCES_A_CHIP * args.num_chips
  _require_positive('batch_size', batch_size)
  return Report(
    model=model,
    config=config,
    kv_heads=_kv_heads(args.num_kv_heads, model, config),
    chip_name=chip_name,
    num_chips=args.num_chips,
    batch_size=batch_size,
    lengths=_lengths(args, model, config),
  )


def _find_model(name: str) -> tuple[str, T5Config | DecoderOnlyConfig]:
  """Returns the plain name and the config of 'xxl', 't5_1_1_xxl' and so on."""
  short = re.sub(r'^t5([._]1[._]1|-v1_1)[-_.]', '', name.lower())
  short = _nearest(short, [*SIZES, *GEOMETRIES], 'model', name)
  if short in SIZES:
    return short, T5Config.t5_1_1(short)
  return short, GEOMETRIES[short]


def _nearest(name: str, known, kind: str, given: str) -> str:
  """Returns the name if it is known."""
  if name in known:
    return name
  near = difflib.get_close_matches(name, known, n=3) or known
  raise UsageError(
    f'There is no {kind} {given!r} here; the nearest: {", ".join(near)}.'
  )


def _lengths(args, model: str, config) -> tuple[int, ...]:
  """Returns positions of source and target, or those of a decoder."""
  own = {'length': LENGTH}
  foreign = {'source_length': SOURCE_LENGTH, 'target_length': TARGET_LENGTH}
  if isinstance(config, T5Config):
    own, foreign = foreign, own
  for name in foreign:
    if getattr(args, name) is not None:
      options = ' and '.join(f'--{option}' for option in own)
      raise UsageError(f'--{name} does not apply to {model}; give {options}.')
  lengths = []
  for name, default in own.items():
    given = getattr(args, name)
    lengths.append(default if given is None else given)
    _require_positive(name, lengths[-1])
  return tuple(lengths)


def _kv_heads(given, model: str, config) -> list[int]:
  """Returns numbers of key/value heads, from N to 1."""
  N = config.num_heads
  for K in given or ():
    if K not in divisors(N):
      raise UsageError(
        f'--num_kv_heads {K} does not divide the {N} query heads of {model}; '
        f'choose of {divisors(N)}.'
      )
  kv_heads = {N, *given, 1} if given else kv_cache.usual_kv_heads(config)
  return sorted(kv_heads, reverse=True)


def _require_positive(name: str, value: int):
  if value < 1:
    raise UsageError(f'--{name} is {value}; give 1 or more.')
