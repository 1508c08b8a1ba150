"""What `gqa-flax cost` says, as JSON and as tables."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from gqa_flax.config import T5Config
from gqa_flax.evaluation import table
from gqa_flax.timing import kv_cache, roofline
from gqa_flax.timing.chips import CHIPS, Chip
from gqa_flax.timing.geometries import DecoderOnlyConfig, num_params


@dataclasses.dataclass(frozen=True)
class Report:
  """All that the command says.

  Attributes:
    model: its name.
    config: as published; T5.1.1 with multi-head attention.
    kv_heads: numbers of key/value heads to compare, from N to 1.
    chip_name: a key of `chips.CHIPS`.
    num_chips: how many share parameters, caches and FLOPs.
    batch_size: sequences on all chips.
    lengths: positions of a sequence in the caches: of source and target for
      T5, one number for a decoder.
  """

  model: str
  config: T5Config | DecoderOnlyConfig
  kv_heads: Sequence[int]
  chip_name: str
  num_chips: int
  batch_size: int
  lengths: tuple[int, ...]

  @property
  def chip(self) -> Chip:
    """The figures of one chip."""
    return CHIPS[self.chip_name]

  def caches(self) -> list[kv_cache.CacheSize]:
    """Returns the caches' sizes, by key/value heads."""
    return kv_cache.compare(
      self.config,
      self.kv_heads,
      self.batch_size,
      sum(self.lengths),
      self.chip,
      self.num_chips,
    )

  def phases(self) -> Iterator[tuple[str, roofline.Work]]:
    """Yields the name of each phase and its work.

    A decode step attends to all positions of the caches: the last one does so
    in any program, and each one where the cache has a fixed length.
    """
    B = self.batch_size
    if isinstance(self.config, T5Config):
      source, target = self.lengths
      yield 'encode', roofline.encode(self.config, B, source)
    for num_kv_heads in self.kv_heads:
      config = dataclasses.replace(self.config, num_kv_heads=num_kv_heads)
      name = kv_cache.attention_name(config)
      if isinstance(config, T5Config):
        yield f'cache fill, {name}', roofline.cache_fill(config, B, source)
        step = roofline.decode_step(config, B, source, target)
      else:
        (length,) = self.lengths
        yield f'prefill, {name}', roofline.prefill(config, B, length)
        step = roofline.decoder_only_step(config, B, length)
      yield f'decode step, {name}', step

  def to_dict(self) -> dict[str, Any]:
    """Returns all figures as JSON can hold them, in bytes and seconds."""
    return {
      'model': self.model,
      'num_params': num_params(self.config),
      'num_heads': self.config.num_heads,
      'num_kv_heads': self.config.num_kv_heads,
      'chip': self.chip_name,
      'num_chips': self.num_chips,
      'batch_size': self.batch_size,
      'lengths': list(self.lengths),
      'caches': [size.to_dict() for size in self.caches()],
      'phases': [
        {
          'phase': phase,
          'flops': work.flops,
          'bytes': work.bytes,
          'compute_seconds': work.compute_seconds(self.chip, self.num_chips),
          'memory_seconds': work.memory_seconds(self.chip, self.num_chips),
        }
        for phase, work in self.phases()
      ],
    }

  def text(self) -> str:
    """Returns the same to be read, without a new line at the end."""
    sizes = self.caches()
    return '\n'.join(
      [
        self._headline(),
        '\nKV cache',
        *table.align(_cache_rows(sizes)),
        '',
        *self._arithmetic(sizes),
        *self._misfits(sizes),
        '\nBounds; a decode step attends to all positions of the caches',
        *table.align(self._phase_rows()),
      ]
    )

  def _headline(self) -> str:
    config, chip = self.config, self.chip
    lengths = ' + '.join(f'{length:,}' for length in self.lengths)
    return (
      f'{self.model}: {num_params(config):,} parameters, {config.num_heads} '
      f'query heads, {config.num_kv_heads} key/value heads\n'
      f'{self.batch_size:,} sequences of {lengths} positions in bfloat16 on '
      f'{self.num_chips} x {self.chip_name}: '
      f'{self.num_chips * chip.hbm_bytes / 1e9:,.1f} GB, '
      f'{self.num_chips * chip.hbm_bandwidth / 1e12:,.1f} TB/s, '
      f'{self.num_chips * chip.peak_flops / 1e12:,.0f} TFLOP/s'
    )

  def _arithmetic(self, sizes) -> Iterator[str]:
    """Yields how the bytes of a token come about, and the share of MHA's."""
    L, N = kv_cache.num_layers(self.config), self.config.num_heads
    H = self.config.head_dim
    yield (
      'A token: 2 (key, value) x layers x KV heads x head_dim x 2 bytes, in '
      f'{L} layers with heads of {H}'
    )
    for size in sizes:
      K = size.num_kv_heads
      share = '' if K == N else f'; {K}/{N} = {100 * size.share:.3g}% of MHA'
      yield (
        f'  {size.attention}: 2 x {L} x {K} x {H} x 2 = {size.token_bytes:,} '
        f'bytes{share}'
      )

  def _misfits(self, sizes) -> Iterator[str]:
    """Yields what the chips cannot hold."""
    for size in sizes:
      if not size.params_fit:
        yield (
          f'{size.attention}: the parameters alone, '
          f'{2 * size.num_params / 1e9:,.1f} GB, do not fit the chips.'
        )
      elif size.largest_batch < self.batch_size:
        yield (
          f'{size.attention}: {self.batch_size:,} sequences do not fit beside '
          f'the parameters; at most {size.largest_batch:,} do.'
        )

  def _phase_rows(self) -> list[list[str]]:
    rows = [
      [
        *('phase', 'TFLOP', 'GB', 'FLOP a byte'),
        *('compute, ms', 'memory, ms', 'bound by'),
      ]
    ]
    for phase, work in self.phases():
      compute = work.compute_seconds(self.chip, self.num_chips)
      memory = work.memory_seconds(self.chip, self.num_chips)
      figures = (work.flops / 1e12, work.bytes / 1e9, work.intensity)
      times = (1e3 * compute, 1e3 * memory)
      binds = 'compute' if compute > memory else 'memory'
      rows.append([phase, *map(_number, (*figures, *times)), binds])
    return rows


def _cache_rows(sizes: Sequence[kv_cache.CacheSize]) -> list[list[str]]:
  header = [
    *('attention', 'KV heads', 'parameters', 'bytes a token'),
    *('MB a sequence', 'GB a batch', "of MHA's", 'largest batch'),
  ]
  return [
    header,
    *(
      [
        size.attention,
        str(size.num_kv_heads),
        f'{size.num_params:,}',
        f'{size.token_bytes:,}',
        f'{size.sequence_bytes / 1e6:,.1f}',
        f'{size.batch_bytes / 1e9:,.2f}',
        f'{100 * size.share:.3g}%',
        f'{size.largest_batch:,}',
      ]
      for size in sizes
    ),
  ]


def _number(value: float) -> str:
  """Three digits or more, and no exponent where it can be helped."""
  return f'{value:#.3g}' if value < 99.95 else f'{value:,.1f}'
