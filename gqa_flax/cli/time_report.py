"""What `gqa-flax time` says."""

from collections.abc import Mapping, Sequence
from typing import Any

from gqa_flax.cli.gin_config import UsageError
from gqa_flax.evaluation import table
from gqa_flax.timing.chips import Slice
from gqa_flax.timing.decoding import Decoding
from gqa_flax.timing.estimate import Estimate, best
from gqa_flax.timing.kv_cache import attention_name
from gqa_flax.timing.measure import Measurement
from gqa_flax.timing.spread import digits

_GIB = 2**30
_ESTIMATE = """\
Nothing was run. A time is the TPU compiler's estimate of its own program, in
cycles at the chip's clock, and behind it the least time that the bytes sent
take over all links of a chip at once. Matrix products are priced at some 90% of
the published peak, streams through memory at more than the memory takes, what
is copied beside them at nothing; but a step takes as long as a chip reads its
kernels and caches at least. Waits for other chips are not counted. No program
is faster than the bound: FLOPs at peak or bytes at full bandwidth, whichever
takes longer, divided evenly over the chips."""


def measured(rows: Sequence[Mapping[str, Any]]) -> str:
  """Returns the table of what was measured; the fastest is said last."""
  found = [Measurement.from_dict(row['measurement']) for row in rows]
  first = found[0]
  header = (
    *('data x fsdp x model', 'cache', 'batch', 'encode, s', 'cache fill, s'),
    *('a step, ms', 'a sample a device, s', 'GiB', 'compiled in, s'),
  )
  lines = [
    (
      ' x '.join(map(str, m.mesh)),
      m.decoding.config.cache_sharding,
      f'{m.decoding.batch_size}',
      str(m.encode),
      str(m.fill_cache),
      digits(1e3 * m.seconds()['steps'] / m.decoding.target_length),
      digits(m.seconds_a_sample),
      f'{m.program_bytes / _GIB:.2f}',
      f'{m.compile_seconds:.1f}',
    )
    for m in found
  ]
  fastest = min(found, key=lambda m: m.seconds_a_sample)
  return '\n'.join(
    [
      f'{_what(first.decoding)} on {first.device}; medians (and quartiles) of '
      f'{first.repeats} repeats, all of the full length, parameters in '
      f'{first.decoding.param_dtype}.\n',
      '\n'.join(table.align([header, *lines])) + '\n',
      f'The least: {digits(fastest.seconds_a_sample)} s a sample and device.',
    ]
  )


def estimated(where: Slice, rows: Sequence[Mapping[str, Any]]) -> str:
  """Returns the table of what was estimated, and the best mesh.

  Raises:
    UsageError: if the model fits on no mesh.
  """
  found = [
    Estimate.from_dict(row['estimate']) for row in rows if row['estimate']
  ]
  if not found:
    meshes = ', '.join(' x '.join(map(str, row['mesh'])) for row in rows)
    raise UsageError(
      f'The model fits on no mesh of {where.name} that was tried (data x fsdp '
      f'x model: {meshes}); take a larger slice, a smaller BATCH_SIZE, shorter '
      'lengths or fewer key/value heads.'
    )
  header = (
    *('data x fsdp x model', 'cache', 'batch a chip', 'GiB a chip'),
    *('encode, s', 'cache fill, s', 'a step, ms', 'its bound, ms'),
    *('exchanges, s', 'a sample a chip, s', 'its bound, s'),
  )
  lines = []
  for row in rows:
    mesh = ' x '.join(map(str, row['mesh']))
    if row['estimate'] is None:
      lines.append((mesh, row['cache_sharding'], 'none fits', *('',) * 8))
      continue
    e = Estimate.from_dict(row['estimate'])
    core, bound = e.core_seconds(), e.bound_seconds()
    T = e.decoding.target_length
    lines.append(
      (
        mesh,
        row['cache_sharding'],
        f'{e.batch_per_chip:g}',
        f'{e.total_bytes / _GIB:.1f}',
        digits(core['encode']),
        digits(core['fill_cache']),
        digits(1e3 * core['steps'] / T),
        digits(1e3 * bound['steps'] / T),
        digits(sum(e.exchange_seconds().values())),
        digits(e.a_sample(e.seconds())),
        digits(e.a_sample(bound)),
      )
    )
  chosen = best(found)
  mesh = ' x '.join(map(str, chosen.decode.mesh))
  return '\n'.join(
    [
      f'{_what(chosen.decoding)} on {where.name} ({where.num_chips} chips), '
      f'parameters in {chosen.decoding.param_dtype}.\n',
      '\n'.join(table.align([header, *lines])) + '\n',
      f'The best mesh: {mesh}, the cache divided by '
      f'{chosen.decoding.config.cache_sharding}, '
      f'{digits(chosen.a_sample(chosen.seconds()))} s a sample and chip.\n',
      _ESTIMATE,
    ]
  )


def _what(decoding: Decoding) -> str:
  config = decoding.config
  return (
    f'{attention_name(config)} ({config.num_kv_heads} of {config.num_heads} '
    f'key/value heads, width {config.emb_dim}), '
    f'{decoding.source_length}/{decoding.target_length} tokens'
  )
