"""The time to decode on the devices that are here, phase by phase."""

import contextlib
import dataclasses
import importlib.util
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from gqa_flax import compilation, partitioning
from gqa_flax.checkpoints.architecture import abstract_params
from gqa_flax.config import T5Config
from gqa_flax.inference import EOS_ID, precision
from gqa_flax.runtime import status
from gqa_flax.timing import decoding as programs
from gqa_flax.timing.decoding import (
  Decoding,
  check_count,
  layouts,
  meshes,
  read_lengths,
  rows_at_once,
  sizes_to_try,
)
from gqa_flax.timing.spread import Spread


@dataclasses.dataclass(frozen=True)
class Measurement:
  """What decoding one batch took.

  Attributes:
    decoding: what was decoded.
    mesh: devices along data, fsdp and model.
    device: its kind.
    repeats: of each phase, after one that is not counted.
    encode: of the whole batch.
    fill_cache: projecting the cross-attention's cache.
    decode: filling the cache and all steps.
    compile_seconds: of all programs, those of larger batches included.
    program_bytes: what the largest of them takes of a device, by the compiler.
  """

  decoding: Decoding
  mesh: tuple[int, int, int]
  device: str
  repeats: int
  encode: Spread
  fill_cache: Spread
  decode: Spread
  compile_seconds: float
  program_bytes: int

  def seconds(self) -> dict[str, float]:
    """Returns the medians of `encode`, `fill_cache` and all `steps`."""
    return {
      'encode': self.encode.median,
      'fill_cache': self.fill_cache.median,
      'steps': max(0.0, self.decode.median - self.fill_cache.median),
    }

  @property
  def seconds_a_sample(self) -> float:
    """Seconds a sample and device, as the paper counts: its T_infer."""
    devices = int(np.prod(self.mesh))
    total = self.encode.median + self.decode.median
    return devices * total / self.decoding.batch_size

  def to_dict(self) -> dict[str, Any]:
    """Returns the fields as JSON can hold them."""
    return {**dataclasses.asdict(self), 'decoding': self.decoding.to_dict()}

  @classmethod
  def from_dict(cls, fields: Mapping[str, Any]) -> 'Measurement':
    """Reads what `to_dict` wrote."""
    spreads = {
      name: Spread(**fields[name])
      for name in ('encode', 'fill_cache', 'decode')
    }
    decoding = Decoding.from_dict(fields['decoding'])
    mesh = tuple(fields['mesh'])
    return cls(**{**fields, **spreads, 'decoding': decoding, 'mesh': mesh})


def measure_all(
  *,
  config: T5Config,
  sequence_length: Mapping[str, int],
  mesh: partitioning.MeshShape | None = None,
  batch_size: int | None = None,
  param_dtype: str = 'bfloat16',
  repeats: int = 5,
  trace_dir: str | None = None,
) -> Iterator[Measurement]:
  """Yields `measure` for each way of dividing model and cache over the devices.

  Args:
    config: the architecture; a cache_sharding that is not 'auto' is the only
      one tried.
    sequence_length: {'inputs': S, 'targets': T}.
    mesh: sizes that are fixed; what is 'auto' is tried in all ways.
    batch_size: see `measure`.
    param_dtype: see `measure`.
    repeats: see `measure`.
    trace_dir: see `measure`; the last one's stays.

  Raises:
    ValueError: as `measure` and `read_lengths`, or if no mesh has the sizes.
  """
  lengths = read_lengths(sequence_length)
  ways = [
    (sizes, layout)
    for sizes in meshes(config, jax.device_count(), mesh)
    for layout in layouts(config, sizes)
  ]
  for number, (sizes, layout) in enumerate(ways, 1):
    mesh_text = programs.describe(sizes, layout)
    status.tell(f'measuring {number} of {len(ways)}: {mesh_text}')
    yield measure(
      dataclasses.replace(config, cache_sharding=layout),
      lengths,
      partitioning.make_mesh(partitioning.MeshShape(*sizes)),
      batch_size=batch_size,
      param_dtype=param_dtype,
      repeats=repeats,
      trace_dir=trace_dir,
    )


def measure(
  config: T5Config,
  lengths: tuple[int, int],
  mesh,
  *,
  batch_size: int | None = None,
  param_dtype: str = 'bfloat16',
  repeats: int = 5,
  trace_dir: str | None = None,
) -> Measurement:
  """Times a model with random parameters on random tokens.

  All sequences are decoded to the full length, whatever tokens come.

  Args:
    config: the architecture and how its cache is divided.
    lengths: S and T.
    mesh: a Mesh of devices that are here.
    batch_size: of all devices; None is the largest that fits in their memory by
      the compiler's analysis, up to 32 a device.
    param_dtype: of the parameters.
    repeats: of each phase.
    trace_dir: where jax.profiler writes a trace of one batch more, to be read
      with xprof; None for none.

  Raises:
    ValueError: if no batch fits, batch_size or repeats is no integer of 1 or
      more, or no trace can be taken.
  """
  check_count('REPEATS', repeats)
  sizes = sizes_to_try(batch_size, mesh.size)
  if trace_dir:
    _check_traceable(mesh.devices.flat[0].platform)
  room = _room(mesh)
  begin = time.monotonic()
  for size in sizes:
    work = _decoding(config, size, lengths, mesh, param_dtype)
    with status.phase(f'compiling for {size:,} sequences'):
      compiled = _compile(work, mesh, room)
    if compiled:
      break
  else:
    raise ValueError(
      f'{sizes[-1]} sequences of {lengths[0]}/{lengths[1]} tokens do not fit '
      f'in {room:,} bytes a device on a mesh of {tuple(mesh.shape.values())}; '
      'give a smaller BATCH_SIZE, shorter lengths or more devices.'
    )
  compile_seconds = time.monotonic() - begin
  run = _Run(work, mesh, compiled)
  with status.phase(f'running {repeats + 1} repetitions'):
    times = run.repeat(repeats)
  if trace_dir:
    with jax.profiler.trace(trace_dir):
      run.once()
  return Measurement(
    decoding=work,
    mesh=tuple(mesh.shape.values()),
    device=mesh.devices.flat[0].device_kind,
    repeats=repeats,
    compile_seconds=round(compile_seconds, 2),
    program_bytes=max(_bytes(program) for program in compiled.values()),
    **{phase: Spread.of(seconds) for phase, seconds in times.items()},
  )


def _check_traceable(platform: str):
  """Raises ValueError where a trace would end in a segmentation fault.

  JAX loads libtpu to look for TPUs, and the profiler then calls it even if
  there were none (seen with jax 0.10.2 and libtpu 0.0.52).

  Args:
    platform: of the devices that are timed.
  """
  if platform == 'tpu' or os.environ.get('JAX_PLATFORMS'):
    return
  if importlib.util.find_spec('libtpu'):
    raise ValueError(
      'No trace can be taken where libtpu is installed and there is no TPU: '
      f'its profiler ends the process; set JAX_PLATFORMS={platform} in the '
      'environment.'
    )


class _Run:
  """Parameters, tokens and programs; times the phases in turn."""

  def __init__(self, work: Decoding, mesh, compiled):
    self._work, self._compiled = work, compiled
    shapes = programs.arguments(work, mesh)['decode']
    with jax.set_mesh(mesh):
      self._params = _random_params(work, shapes[0])
      rng = np.random.default_rng(0)
      tokens = rng.integers(
        EOS_ID + 1,
        work.config.vocab_size,
        (work.batch_size, work.source_length),
        np.int32,
      )
      self._tokens = jax.device_put(tokens, shapes[2].sharding)
      part = programs.arguments(work, mesh)['encode'][1].sharding
      self._parts = [
        jax.device_put(rows, part) for rows in np.split(tokens, work.parts)
      ]
      self._join = jax.jit(
        lambda parts: jax.numpy.concatenate(parts),
        out_shardings=shapes[1].sharding,
      )

  def repeat(self, repeats: int) -> dict[str, list[float]]:
    """Returns the seconds of each phase; the first time is not counted."""
    rounds = [self.once() for _ in range(repeats + 1)][1:]
    return {phase: [r[phase] for r in rounds] for phase in rounds[0]}

  def once(self) -> dict[str, float]:
    """Returns the seconds of one batch."""
    seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def timed(phase):
      with jax.profiler.TraceAnnotation(phase):
        begin = time.perf_counter()
        yield
        seconds[phase] = time.perf_counter() - begin

    def call(phase, *arguments):
      return jax.block_until_ready(
        self._compiled[phase](self._params, *arguments)
      )

    with timed('encode'):
      encoded = [call('encode', rows) for rows in self._parts]
    encoded = jax.block_until_ready(self._join(encoded))
    with timed('fill_cache'):
      call('fill_cache', encoded, self._tokens)
    with timed('decode'):
      call('decode', encoded, self._tokens)
    return seconds


def _decoding(config, batch_size, lengths, mesh, param_dtype) -> Decoding:
  data, fsdp, model = mesh.shape.values()
  S, T = lengths
  rows = rows_at_once(config, batch_size, S, data * fsdp, model)
  return Decoding(config, batch_size, S, T, rows, param_dtype)


def _compile(work: Decoding, mesh, room) -> dict[str, Callable] | None:
  """Compiles the programs; returns None if one takes too much memory."""
  compiled = {}
  for phase in ('decode', 'fill_cache', 'encode'):
    try:
      compiled[phase] = programs.lower(work, mesh, phase).compile(
        compiler_options=compilation.options('decoding', jax.default_backend())
      )
    except jax.errors.JaxRuntimeError as error:
      if 'RESOURCE_EXHAUSTED' not in str(error):
        raise
      return None
    if _bytes(compiled[phase]) > room:
      return None
  return compiled


def _random_params(work: Decoding, shapes):
  """Returns parameters of these shapes and shardings, small and random."""

  def init():
    leaves, structure = jax.tree.flatten(abstract_params(work.config))
    keys = jax.random.split(jax.random.key(0), len(leaves))
    params = structure.unflatten(
      0.02 * jax.random.normal(key, x.shape) for key, x in zip(keys, leaves)
    )
    return precision.prepare(params, work.param_dtype)

  shardings = jax.tree.map(lambda x: x.sharding, shapes)
  return jax.jit(init, out_shardings=shardings)()


def _room(mesh) -> int:
  """Returns the bytes that a device can hold."""
  device = mesh.devices.flat[0]
  limit = (device.memory_stats() or {}).get('bytes_limit')
  if limit:
    return limit
  # Processors share the machine's memory.
  machine = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  return machine // mesh.size


def _bytes(compiled) -> int:
  memory = compiled.memory_analysis()
  return (
    memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes
    + memory.temp_size_in_bytes
    + memory.generated_code_size_in_bytes
  )
