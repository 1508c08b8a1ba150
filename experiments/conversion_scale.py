"""Converting at full size on a small machine: peak memory and time.

Writes a synthetic T5.1.1 checkpoint of a public size in T5X's legacy format
(random float32, gzip, T5X's chunks), then converts it to GQA-8 by the mean,
into the same format, and lets TensorStore alone copy the same arrays from zarr
to zarr with the same compression. The two take turns, each in a process of its
own, and medians are compared: a conversion has to read, decompress, compress
and write as much, but for the pooled heads, and besides checks every value and
hashes every array.

  python -m experiments.conversion_scale --size xl --work_dir runs/scale

Needs twice the checkpoint on the disk (xl 22 GB, xxl 89 GB). Hardware: two CPU
cores; xl takes half an hour. Records go to results/conversion/.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

import numpy as np

from gqa_flax.checkpoints import t5x_write
from gqa_flax.checkpoints.architecture import parameter_shapes
from gqa_flax.checkpoints.arrays import LazyArray
from gqa_flax.config import T5Config
from gqa_flax.reporting import records
from gqa_flax.reporting.tables import markdown_table

STEP = 1_000_000
# Rows of one array at a time, so that a copy holds about half a gigabyte.
_COPIES_AT_ONCE = 4


def write_synthetic(folder: pathlib.Path, config: T5Config):
  """Writes a checkpoint of random parameters, whole or not at all."""
  temporary = folder.with_name(f'{folder.name}.incomplete')
  shutil.rmtree(temporary, ignore_errors=True)
  folder.parent.mkdir(parents=True, exist_ok=True)
  arrays = {
    name: _noise(index, shape)
    for index, (name, shape) in enumerate(parameter_shapes(config).items())
  }
  t5x_write.write_legacy(temporary, STEP, arrays, None)
  temporary.rename(folder)


def _noise(index, shape) -> LazyArray:
  def read_rows(start, stop):
    rng = np.random.default_rng((index, start))
    rows = rng.standard_normal((stop - start, *shape[1:]), np.float32)
    return rows * np.float32(0.05)

  return LazyArray(shape, np.dtype(np.float32), read_rows)


def copy(source: pathlib.Path, target: pathlib.Path):
  """Copies every zarr array of a folder with TensorStore and nothing else."""
  import tensorstore as ts

  def start(folder):
    metadata = json.loads((folder / '.zarray').read_text())
    read = {'driver': 'zarr', 'kvstore': f'file://{folder}/'}
    write = {
      'driver': 'zarr',
      'kvstore': f'file://{target / folder.name}/',
      'metadata': metadata,
    }
    return ts.open(write, create=True).result().write(ts.open(read).result())

  folders = [path.parent for path in source.glob('*/.zarray')]
  # The largest first, as the conversion does.
  folders.sort(key=lambda f: -sum(p.stat().st_size for p in f.iterdir()))
  running = []
  for folder in folders:
    running.append(start(folder))
    if len(running) >= _COPIES_AT_ONCE:
      running.pop(0).result()
  for future in running:
    future.result()


def measure(command, log) -> dict[str, float]:
  """Runs a command; returns seconds and the peak of its resident memory."""
  os.sync()
  begin = time.monotonic()
  process = subprocess.Popen(command, stdout=log, stderr=log)
  _, status, usage = os.wait4(process.pid, 0)
  seconds = time.monotonic() - begin
  if status:
    raise RuntimeError(f'{" ".join(command)} failed; see {log.name}')
  return {
    'seconds': round(seconds, 1),
    'peak_resident_mb': round(usage.ru_maxrss * 1024 / 1e6),
  }


def run(size: str, num_kv_heads: int, work: pathlib.Path, repeats: int, path):
  """Measures the two in turn; appends a record for each run."""
  config = T5Config.t5_1_1(size)
  source = work / size / f'checkpoint_{STEP}'
  parameters = sum(
    int(np.prod(shape)) for shape in parameter_shapes(config).values()
  )
  needed = 2 * 4 * parameters
  if not source.exists():
    free = shutil.disk_usage(work).free
    if free < needed:
      raise SystemExit(
        f'{size} needs {needed / 1e9:.0f} GB in {work}, which has '
        f'{free / 1e9:.0f} GB free; give another --work_dir or --size.'
      )
    write_synthetic(source, config)
  output = work / 'output'
  commands = {
    'tensorstore copy': [
      *(sys.executable, '-m', 'experiments.conversion_scale'),
      *('--copy', str(source), '--work_dir', str(output)),
    ],
    'conversion': [
      *(sys.executable, '-m', 'gqa_flax.cli', 'convert'),
      '--gin_file=gin_configs/runs/convert.gin',
      f'--gin.INPUT={source}',
      f'--gin.OUTPUT={output}',
      f'--gin.NUM_KV_HEADS={num_kv_heads}',
      '--gin.CONVERSION_METHOD=mean',
      '--gin.OUTPUT_FORMAT=t5x_legacy',
    ],
  }
  stored = sum(p.stat().st_size for p in source.rglob('*') if p.is_file())
  with open(work / 'log.txt', 'a') as log:
    for repeat in range(repeats):
      for name, command in commands.items():
        shutil.rmtree(output, ignore_errors=True)
        record = {
          'experiment': 'conversion_scale',
          'size': size,
          'what': name,
          'repeat': repeat,
          'num_kv_heads': num_kv_heads,
          'parameters': parameters,
          'stored_bytes': stored,
          **measure(command, log),
          'provenance': records.provenance('cpu', os.cpu_count() or 1),
        }
        records.append(path, record)
        print(name, record['seconds'], record['peak_resident_mb'], flush=True)
  shutil.rmtree(output, ignore_errors=True)


def report(folder: pathlib.Path):
  """Writes report.md from the records alone."""
  found = records.read(folder / 'records.jsonl')
  lines = [
    '# Conversion from disk to disk\n',
    "A synthetic T5.1.1 checkpoint in T5X's legacy format (float32, gzip) to "
    'grouped heads by the mean, in the same format, and TensorStore alone '
    'copying the same arrays; in turn, medians. Made by '
    'experiments/conversion_scale.py.\n',
  ]
  rows = []
  for size in dict.fromkeys(record['size'] for record in found):
    runs = [record for record in found if record['size'] == size]
    medians = {}
    for what in ('tensorstore copy', 'conversion'):
      these = [record for record in runs if record['what'] == what]
      seconds = [record['seconds'] for record in these]
      medians[what] = statistics.median(seconds)
      rows.append(
        (
          size,
          f'{these[0]["parameters"]:,}',
          f'{these[0]["stored_bytes"] / 1e9:.1f}',
          what,
          len(these),
          f'{medians[what]:.0f} ({min(seconds):.0f} to {max(seconds):.0f})',
          max(record['peak_resident_mb'] for record in these),
        )
      )
    ratio = medians['conversion'] / medians['tensorstore copy']
    lines.append(f'{size}: the conversion takes {ratio:.2f} times the copy.\n')
  header = (
    *('size', 'parameters', 'GB on disk', 'what', 'runs'),
    *('seconds, median (lowest to highest)', 'highest peak resident MB'),
  )
  parameters = sum(
    int(np.prod(shape))
    for shape in parameter_shapes(T5Config.t5_1_1('xxl')).values()
  )
  if not any(record['size'] == 'xxl' for record in found):
    lines.append(
      f'xxl was not measured: {2 * 4 * parameters / 1e9:.0f} GB, its '
      f'{parameters:,} parameters twice, do not fit the disk.\n'
    )
  (folder / 'report.md').write_text(
    '\n'.join([*lines, markdown_table(header, rows)])
  )


def main() -> int:
  """Measures, or copies for the measurement."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--size', default='xl')
  parser.add_argument('--num_kv_heads', type=int, default=8)
  parser.add_argument('--work_dir', default='runs/scale', type=pathlib.Path)
  parser.add_argument('--results_dir', default='results/conversion')
  parser.add_argument('--repeats', type=int, default=3)
  parser.add_argument('--copy', type=pathlib.Path, help=argparse.SUPPRESS)
  parser.add_argument('--only', choices=('write', 'report'))
  args = parser.parse_args()
  work = args.work_dir.absolute()
  results = pathlib.Path(args.results_dir)
  if args.copy:
    copy(args.copy, work)
    return 0
  work.mkdir(parents=True, exist_ok=True)
  if args.only == 'write':
    folder = work / args.size / f'checkpoint_{STEP}'
    if not folder.exists():
      write_synthetic(folder, T5Config.t5_1_1(args.size))
    return 0
  if args.only != 'report':
    run(
      args.size,
      args.num_kv_heads,
      work,
      args.repeats,
      results / 'records.jsonl',
    )
  report(results)
  return 0


if __name__ == '__main__':
  sys.exit(main())
