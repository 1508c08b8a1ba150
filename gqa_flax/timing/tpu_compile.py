"""Compiles for a TPU slice on a machine that has none, and reads off the cost.

The `libtpu` wheel holds the compiler (pip install 'gqa_flax[tpu-compile]'). It
wants its environment set before it is loaded and keeps its memory, so each
program is compiled by a process of its own: `compile_train_step`.
"""

import importlib.metadata
import importlib.util
import json
import os
import re
import resource
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from gqa_flax.timing import exchanges, hlo, products
from gqa_flax.timing.chips import Chip, Slice
from gqa_flax.timing.cost import Cost, Mesh


def available() -> bool:
  """Whether the compiler for TPUs is installed."""
  return importlib.util.find_spec('libtpu') is not None


def version() -> str:
  """Returns the version of the compiler for TPUs."""
  return importlib.metadata.version('libtpu')


def environment(generation: Chip) -> dict[str, str]:
  """Returns what must be set before JAX and libtpu are loaded."""
  return {
    'JAX_PLATFORMS': 'cpu',
    'TPU_SKIP_MDS_QUERY': '1',  # there is no metadata server to ask
    'TPU_WORKER_HOSTNAMES': 'localhost',
    'TPU_ACCELERATOR_TYPE': generation.accelerator_type,
    # No chip is held, so another process may compile at the same time.
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
    'TPU_MIN_LOG_LEVEL': '3',
    'TPU_LOG_DIR': 'disabled',
  }


def topology_devices(where: Slice) -> Sequence[Any]:
  """Returns the devices of a slice that is not here.

  Raises:
    RuntimeError: if libtpu is missing.
  """
  if not available():
    raise RuntimeError(
      'Compiling for a TPU needs the libtpu package, which is not installed; '
      "run pip install 'gqa_flax[tpu-compile]' (Linux on x86-64)."
    )
  from jax.experimental import topologies

  return topologies.get_topology_desc(
    platform='tpu',
    topology_name=where.name,
    chip_config_name=where.chip.cores_setting,
    chips_per_host_bounds=where.chip.host_bounds,
    num_slices=1,
  ).devices


def make_mesh(where: Slice, sizes: Mesh):
  """Lays the chips of a slice out as (data, fsdp, model).

  A mesh of one chip takes the first of the slice.

  Raises:
    ValueError: if the sizes multiply to neither 1 nor the number of chips.
  """
  from gqa_flax import partitioning

  devices = list(topology_devices(where))
  if tuple(sizes) == (1, 1, 1):
    devices = devices[:1]
  return partitioning.make_mesh(partitioning.MeshShape(*sizes), devices=devices)


def cost_of(lowered, where: Slice, sizes: Mesh) -> Cost:
  """Compiles a lowered program and reads off what it needs.

  Args:
    lowered: what `jax.jit(...).lower(...)` gave for a mesh of the slice.
    where: the slice.
    sizes: of the mesh.

  Raises:
    jax.errors.JaxRuntimeError: if compiling fails for another reason than
      that the program does not fit.
  """
  import jax

  begin = time.monotonic()
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    message = str(error)
    if 'RESOURCE_EXHAUSTED' not in message:
      raise
    return Cost(
      slice=where.name,
      mesh=sizes,
      fits=False,
      over_bytes=bytes_over(message),
      compile_seconds=round(time.monotonic() - begin, 1),
      compile_peak_bytes=_peak_bytes(),
    )
  seconds = round(time.monotonic() - begin, 1)
  program = hlo.Program.parse(compiled.as_text())
  memory, costs = compiled.memory_analysis(), compiled.cost_analysis()
  return Cost(
    slice=where.name,
    mesh=sizes,
    fits=True,
    compile_seconds=seconds,
    compile_peak_bytes=_peak_bytes(),
    argument_bytes=memory.argument_size_in_bytes,
    output_bytes=memory.output_size_in_bytes,
    alias_bytes=memory.alias_size_in_bytes,
    temporary_bytes=memory.temp_size_in_bytes,
    code_bytes=memory.generated_code_size_in_bytes,
    flops=products.matrix_flops(program),
    compiler_flops=costs['flops'],
    compiler_bytes=costs['bytes accessed'],
    cycles=program.cycles(),
    collectives=_by_kind(exchanges.collectives(program)),
  )


def compile_train_step(step, where: Slice, sizes: Mesh, log=None) -> Cost:
  """Compiles one training step in a process of its own.

  Args:
    step: a `programs.TrainStep`.
    where: the slice.
    sizes: of the mesh.
    log: an open file for what the compiler says; None drops it.

  Raises:
    RuntimeError: if the process fails, with the last it said.
  """
  request = {'slice': where.name, 'mesh': sizes, 'step': step.to_dict()}
  variables = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
  result = subprocess.run(
    [sys.executable, '-m', 'gqa_flax.timing.tpu_compile'],
    input=json.dumps(request),
    env=variables | environment(where.chip),
    capture_output=True,
    text=True,
  )
  if log is not None:
    log.write(result.stderr)
    log.flush()
  if result.returncode:
    last = result.stderr.strip().splitlines()[-1:] or ['nothing']
    raise RuntimeError(
      f'Compiling for {where.name} ended with status {result.returncode} and '
      f'said last: {last[0]}'
    )
  return Cost.from_dict(json.loads(result.stdout.splitlines()[-1]))


def bytes_over(message: str) -> int | None:
  """Returns how many bytes a program was over, by the compiler's message."""
  if over := re.search(r'[Ee]xceed\w* .*?capacity by ([\d.]+[KMGT]?)', message):
    return _bytes(over[1])
  needed = re.search(
    r'\(([\d.]+[KMGT]?)\) exceeds available \w+ \(([\d.]+[KMGT]?)\)', message
  )
  return _bytes(needed[1]) - _bytes(needed[2]) if needed else None


def _bytes(text: str) -> int:
  power = 'KMGT'.find(text[-1]) + 1
  return round(float(text.rstrip('KMGT')) * 1024**power)


def _by_kind(collectives) -> dict[str, dict[str, float]]:
  kinds: dict[str, dict[str, float]] = defaultdict(
    lambda: {'count': 0, 'bytes': 0, 'sent_bytes': 0}
  )
  for collective in collectives:
    kind = kinds[collective.kind]
    kind['count'] += round(collective.times)
    kind['bytes'] += round(collective.times * collective.size)
    kind['sent_bytes'] += round(collective.sent)
  return dict(kinds)


def _peak_bytes() -> int:
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main():
  """Compiles what standard input asks for; the last line out is the cost."""
  from gqa_flax.timing import programs

  request = json.load(sys.stdin)
  where, sizes = Slice.parse(request['slice']), tuple(request['mesh'])
  mesh = make_mesh(where, sizes)
  step = programs.TrainStep.from_dict(request['step'])
  lowered = programs.lower(step, mesh)
  print(json.dumps(cost_of(lowered, where, sizes).to_dict()))


if __name__ == '__main__':
  main()
