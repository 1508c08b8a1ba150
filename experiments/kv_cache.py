"""KV caches of T5.1.1 and of public decoders with MHA, GQA and MQA.

Bytes a token and a sequence, the largest batch on eight TPU v4, and the bound
of a decode step, from configurations alone; and the arithmetic of a claim about
Qwen's 32B model.

  python -m experiments.kv_cache

No accelerator, no data, one second. Records go to results/kv_cache/; a record
that would say what the last one of its kind says is left out.
"""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gqa_flax.config import SIZES, T5Config
from gqa_flax.reporting import records
from gqa_flax.reporting.tables import markdown_table
from gqa_flax.timing import kv_cache, roofline
from gqa_flax.timing.chips import CHIPS
from gqa_flax.timing.geometries import GEOMETRIES, DecoderOnlyConfig

CHIP, NUM_CHIPS = 'v4', 8
# As in the paper: at most 32 sequences a chip, 2048/512 tokens.
MAX_BATCH = 32 * NUM_CHIPS
T5_LENGTHS = (2048, 512)
DECODER_LENGTHS = (4096,)
CLAIMED_MODEL, CLAIM = 'qwen2.5-32b', 0.62


def configs() -> dict[str, T5Config | DecoderOnlyConfig]:
  """Returns every published model by name."""
  sizes = {
    f't5.1.1-{size}': T5Config.t5_1_1(size) for size in SIZES if size != 'mini'
  }
  return {**sizes, **GEOMETRIES}


def rows() -> Iterator[dict[str, Any]]:
  """Yields what is to be recorded of every model and attention."""
  chip = CHIPS[CHIP]
  for model, config in configs().items():
    lengths = T5_LENGTHS if isinstance(config, T5Config) else DECODER_LENGTHS
    kv_heads = kv_cache.usual_kv_heads(config)
    for size in kv_cache.compare(
      config, kv_heads, MAX_BATCH, sum(lengths), chip, NUM_CHIPS
    ):
      grouped = dataclasses.replace(config, num_kv_heads=size.num_kv_heads)
      batch_size = min(MAX_BATCH, size.largest_batch)
      step = _step(grouped, batch_size, lengths)
      yield {
        'experiment': 'kv_cache',
        'model': model,
        'published': size.num_kv_heads == config.num_kv_heads,
        'num_layers': kv_cache.num_layers(config),
        'num_heads': config.num_heads,
        'head_dim': config.head_dim,
        'lengths': [*lengths],
        'chip': CHIP,
        'num_chips': NUM_CHIPS,
        **size.to_dict(),
        'batch_size': batch_size,
        'batch_bytes': batch_size * size.sequence_bytes,
        'step_flops': step.flops,
        'step_bytes': step.bytes,
        'step_seconds': step.seconds(chip, NUM_CHIPS),
      }


def _step(config, batch_size, lengths) -> roofline.Work:
  """Returns the work of the last decode step."""
  if isinstance(config, T5Config):
    return roofline.decode_step(config, batch_size, *lengths)
  return roofline.decoder_only_step(config, batch_size, *lengths)


def run(path):
  """Appends the records that are new or say something else than before."""
  last = {_key(r): _without_provenance(r) for r in records.read(path)}
  provenance = records.provenance('none', 0)
  for row in rows():
    if last.get(_key(row)) != row:
      records.append(path, {**row, 'provenance': provenance})


def _key(record) -> tuple[str, int]:
  return record['model'], record['num_kv_heads']


def _without_provenance(record) -> dict[str, Any]:
  return {name: x for name, x in record.items() if name != 'provenance'}


def report(folder: pathlib.Path):
  """Writes report.md from the records alone."""
  found = {_key(r): r for r in records.read(folder / 'records.jsonl')}
  lines = [
    '# KV caches of multi-head, grouped-query and multi-query attention\n',
    'Computed from configurations alone by experiments/kv_cache.py: nothing '
    'was run. All elements are bfloat16. T5.1.1 caches 2,048 positions of the '
    'source for its cross-attention and 512 of the target for its '
    'self-attention, the decoders 4,096 positions. Bytes a token hold for '
    'either cache of T5.\n',
    claim(found),
    '## All models\n',
    'Bold: as published (Llama 2 34B was not released: as Code Llama 34B). '
    f'The largest batch is what fits {NUM_CHIPS} TPU '
    f'{CHIP} beside the parameters, activations not counted. A decode step '
    f'takes at least so long with that batch, or {MAX_BATCH} sequences if more '
    'would fit, on all positions: the longer of bytes at full bandwidth and '
    'FLOPs at peak, each divided evenly among the chips. The last column '
    'divides it by the sequences.\n',
    _table(found.values()),
  ]
  (folder / 'report.md').write_text('\n'.join(lines), encoding='utf-8')


def claim(found: Mapping[tuple[str, int], Mapping[str, Any]]) -> str:
  """Returns the arithmetic of the claim, from the records."""
  of = {
    r['attention']: r
    for (model, _), r in found.items()
    if model == CLAIMED_MODEL
  }
  mha = of['MHA']
  gqa = next(r for r in of.values() if r['published'])
  N, K = mha['num_heads'], gqa['num_kv_heads']
  # Parameters and t cached positions together are that share of MHA's where
  # 2 P + t b = CLAIM (2 P' + t b').
  positions = (2 * gqa['num_params'] - CLAIM * 2 * mha['num_params']) / (
    CLAIM * mha['token_bytes'] - gqa['token_bytes']
  )
  return '\n'.join(
    [
      f'## Is the cache of a 32B Qwen {CLAIM:.0%} of multi-head attention?\n',
      f'A claim circulates that the cache of Qwen2-32B takes {CLAIM:.0%} of '
      'what multi-head attention would take. Qwen2 was published in no such '
      f'size; Qwen2.5-32B has {mha["num_layers"]} layers and {N} query heads '
      f'to {K} key/value heads of {mha["head_dim"]}. Keys and values of one '
      'token:\n',
      *(f'    {_arithmetic(r)}' for r in (mha, gqa)),
      '',
      f'    {gqa["token_bytes"]:,} / {mha["token_bytes"]:,} = {K}/{N} = '
      f'{gqa["token_bytes"] / mha["token_bytes"]:.0%}\n',
      'Layers, head_dim, bytes an element, length and batch cancel: the share '
      f'is that of the heads, whatever else changes, and {CLAIM:.0%} of {N} '
      f'heads would be {CLAIM * N:g}, which is no number of heads. A share of '
      f'{CLAIM:.0%} is that of parameters and cache together at '
      f'{positions:,.0f} cached positions in all; with none it is '
      f'{gqa["num_params"] / mha["num_params"]:.0%}, and with more it falls '
      f'towards {K / N:.0%}.\n',
    ]
  )


def _arithmetic(record) -> str:
  factors = ('num_layers', 'num_kv_heads', 'head_dim')
  product = ' x '.join(str(record[name]) for name in factors)
  return f'{record["attention"]}: 2 x {product} x 2 = {record["token_bytes"]:,}'


def _table(found: Sequence[Mapping[str, Any]]) -> str:
  header = (
    *('model', 'attention', 'KV heads', 'bytes a token', 'MB a sequence'),
    *(
      "% of MHA's",
      'largest batch',
      'decode step, ms',
      'a sequence, microseconds',
    ),
  )
  return markdown_table(
    header,
    [
      (
        r['model'],
        f'**{r["attention"]}**' if r['published'] else r['attention'],
        f'{r["num_kv_heads"]} of {r["num_heads"]}',
        r['token_bytes'],
        r['sequence_bytes'] / 1e6,
        100 * r['share'],
        r['largest_batch'],
        1e3 * r['step_seconds'],
        1e6 * r['step_seconds'] / r['batch_size'],
      )
      for r in found
    ],
  )


def main() -> int:
  """Computes, and writes the report."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument(
    '--results_dir', default='results/kv_cache', type=pathlib.Path
  )
  args = parser.parse_args()
  run(args.results_dir / 'records.jsonl')
  report(args.results_dir)
  return 0


if __name__ == '__main__':
  sys.exit(main())
