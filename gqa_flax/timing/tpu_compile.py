"""Compiles for a TPU slice on a machine that has none, and reads off the cost.

The `libtpu` wheel holds the compiler (pip install 'gqa_flax[tpu-compile]'). It
wants its environment set before it is loaded and keeps its memory, so programs
are compiled by a process of their own: `compile_train_step`,
`compile_decoding`.
"""

import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import re
import resource
import subprocess
import sys
import tempfile
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
    chips_per_host_bounds=where.host_bounds,
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
  return _compile(lowered, where, sizes)[0]


def costs_with_loop(
  lowered, where: Slice, sizes: Mesh, trips: int
) -> tuple[Cost, Cost | None]:
  """Returns `cost_of`, and of it what one turn of a loop needs.

  Args:
    lowered: see `cost_of`.
    where: see `cost_of`.
    sizes: see `cost_of`.
    trips: how often the loop runs; no other may run as often.

  Returns:
    The whole, and one turn, without memory; None if the program does not fit.
  """
  cost, program = _compile(lowered, where, sizes)
  if program is None:
    return cost, None
  turn = program.loop_body(trips)
  return cost, dataclasses.replace(
    Cost(slice=where.name, mesh=sizes, fits=True),
    **_work(turn),
  )


def _compile(lowered, where, sizes) -> tuple[Cost, hlo.Program | None]:
  import jax

  begin = time.monotonic()
  with tempfile.TemporaryDirectory(prefix='gqa_flax_hlo_') as folder:
    options = {'xla_dump_to': folder, 'xla_dump_hlo_as_text': True}
    try:
      compiled = lowered.compile(compiler_options=options)
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
      ), None
    seconds = round(time.monotonic() - begin, 1)
    program = hlo.Program.parse(_text(compiled, pathlib.Path(folder)))
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
    compiler_flops=costs['flops'],
    compiler_bytes=costs['bytes accessed'],
    **_work(program),
  ), program


def _text(compiled, dumped: pathlib.Path) -> str:
  """Returns a program's text as the compiler itself has written it.

  jaxlib's `as_text` cannot read gathers that libtpu hands to the SparseCores of
  v5p (jaxlib 0.10.2, libtpu 0.0.52). It serves where nothing was written: what
  comes from JAX's compilation cache is not compiled.
  """
  for file in dumped.glob('*.after_codegen.txt'):
    return file.read_text()
  return compiled.as_text()


def _work(program: hlo.Program) -> dict[str, Any]:
  return {
    'flops': products.matrix_flops(program),
    'cycles': program.cycles(),
    'collectives': _by_kind(exchanges.collectives(program)),
  }


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
  answer = _ask({'step': step.to_dict()}, where, sizes, log)
  return Cost.from_dict(answer['step'])


def compile_decoding(
  decoding, where: Slice, sizes: Mesh, programs: Sequence[str], log=None
) -> dict[str, Cost]:
  """Compiles programs of `timing.decoding` in a process of its own.

  Args:
    decoding: a `decoding.Decoding`.
    where: the slice.
    sizes: of the mesh.
    programs: of 'encode' and 'decode'.
    log: see `compile_train_step`.

  Returns:
    Each program's cost; with 'decode', if it fits, that of one of its steps
    under 'step'.

  Raises:
    RuntimeError: as `compile_train_step` does.
  """
  request = {'decoding': decoding.to_dict(), 'programs': [*programs]}
  answer = _ask(request, where, sizes, log)
  return {name: Cost.from_dict(cost) for name, cost in answer.items()}


def _ask(request, where: Slice, sizes: Mesh, log) -> dict[str, Any]:
  """Has a process of its own do what `main` does."""
  request = {'slice': where.name, 'mesh': sizes, **request}
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
  return json.loads(result.stdout.splitlines()[-1])


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
  """Compiles what standard input asks for; the last line out are the costs."""
  request = json.load(sys.stdin)
  where, sizes = Slice.parse(request['slice']), tuple(request['mesh'])
  mesh = make_mesh(where, sizes)
  if 'step' in request:
    from gqa_flax.timing import programs

    step = programs.TrainStep.from_dict(request['step'])
    costs = {'step': cost_of(programs.lower(step, mesh), where, sizes)}
  else:
    costs = _decoding_costs(request, where, sizes, mesh)
  print(json.dumps({name: cost.to_dict() for name, cost in costs.items()}))


def _decoding_costs(request, where, sizes, mesh) -> dict[str, Cost]:
  from gqa_flax.timing import decoding

  wanted = decoding.Decoding.from_dict(request['decoding'])
  costs: dict[str, Cost] = {}
  for name in request['programs']:
    lowered = decoding.lower(wanted, mesh, name)
    if name == 'encode':
      costs[name] = cost_of(lowered, where, sizes)
      continue
    whole, step = costs_with_loop(lowered, where, sizes, wanted.target_length)
    costs[name] = whole
    if step:
      costs['step'] = step
  return costs


if __name__ == '__main__':
  main()
