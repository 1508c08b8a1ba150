"""Reports on estimated decoding: Figure 6 and Table 1's column of times."""

from collections.abc import Iterable, Mapping, Sequence

from experiments import paper_values
from experiments.decode_times import claims, tables
from experiments.decode_times.cells import Cell, Found
from gqa_flax.reporting.tables import markdown_table, paragraph
from gqa_flax.timing.spread import digits


def figure6(
  best: Mapping[int, Found],
  found: Mapping[Cell, Found],
  paper,
  cells: Sequence[Cell],
):
  """Returns the report of Figure 6.

  Args:
    best: by number of key/value heads.
    found: all records by cell.
    paper: of `paper_values.read`.
    cells: what is to be compiled.
  """
  rows = []
  for K, chosen in best.items():
    reading = paper['values'].get(str(K))
    rows.append(
      tables.row(
        f'{K}', chosen, reading and sum(reading) / 2, tables.reading(reading)
      )
    )
  return _text(
    [
      '# Figure 6: the time to decode by key/value heads\n',
      _about(found),
      _missing(found, cells),
      f"The paper's times: {paper['how']}.\n",
      '![Seconds a sample by key/value heads](time.png)\n',
      markdown_table(('key/value heads', *tables.HEADER), rows),
      *(f'{claim.sentence()}\n' for claim in claims.shape(best, paper)),
      _by_table1(best.values()),
      _encoder(best.values()),
      '## A decode step against its bound\n',
      tables.steps(found),
      _LEGEND,
      '## Phases of the best meshes\n',
      tables.phases(best.values()),
      '## All meshes\n',
      tables.all_meshes(found, 'xxl'),
    ]
  )


def table1(
  best: Mapping[tuple, Found],
  found: Mapping[Cell, Found],
  paper,
  cells: Sequence[Cell],
):
  """Returns the report of Table 1's times.

  Args:
    best: by size and number of key/value heads.
    found: all records by cell.
    paper: of `paper_values.read`.
    cells: what is to be compiled.
  """
  values = paper['values']
  rows = [
    tables.row(
      f.cell.model, f, values[f.cell.model], f'{values[f.cell.model]:.2f}'
    )
    for f in best.values()
  ]
  return _text(
    [
      "# Table 1: the paper's T_infer, estimated\n",
      _about(found),
      _missing(found, cells),
      f"The paper's times: {paper['how']}.\n",
      markdown_table(('model', *tables.HEADER), rows),
      _ratios(best, values),
      _t5x(best, values),
      _encoder(best.values()),
      _LEGEND,
      '## Phases of the best meshes\n',
      tables.phases(best.values()),
      '## All meshes of MHA-Large\n',
      tables.all_meshes(found, 'large'),
      'Those of XXL are in ../figure6_num_groups/report.md.\n',
    ]
  )


def _text(parts: Iterable[str]) -> str:
  """Joins the parts that say something."""
  return '\n'.join(part for part in parts if part)


def _about(found: Mapping[Cell, Found]) -> str:
  first = next(iter(found.values()))
  versions = first.provenance['versions']
  return paragraph(f"""
    Seconds a sample and chip: the encoder, filling the cross-attention's cache
    and 512 greedy steps for one batch, times eight chips, over its samples.
    Nothing here was run: the TPU's own compiler compiled the functions that
    decode for {first.cell.slice}, eight TPU v4 that were not there (jax
    {versions['jax']}, libtpu {first.provenance['libtpu']}), with bfloat16
    parameters, for every mesh without fsdp and both ways of dividing the cache,
    each with the largest batch up to 32 a chip that fits by the compiler's
    memory analysis. A row is the mesh of the least time.""")


def _missing(found: Mapping[Cell, Found], cells: Sequence[Cell]) -> str:
  """Returns which cells are not compiled yet, if any."""
  missing = [cell for cell in cells if cell not in found]
  if not missing:
    return ''
  by_mesh: dict[str, list[str]] = {}
  for cell in missing:
    mesh = f'{" x ".join(map(str, cell.mesh))} by {cell.cache_sharding}'
    by_mesh.setdefault(mesh, []).append(cell.model)
  listed = '; '.join(
    f'{", ".join(models)} on {mesh}' for mesh, models in by_mesh.items()
  )
  return paragraph(
    f'Not compiled yet, {len(missing)} of {len(cells)} cells: {listed}.'
  )


def _encoder(best: Iterable[Found]) -> str:
  """Returns what the encoder has to do with the distance to the paper."""
  lines = []
  for f in best:
    e = f.estimate
    scale = e.num_chips / e.decoding.batch_size
    own, bound = (
      scale * e.seconds()['encode'],
      scale * e.bound_seconds()['encode'],
    )
    lines.append(
      f'{f.cell.model} {own / f.seconds:.0%} of {digits(f.seconds)} s (without '
      f'what is above its bound: {digits(f.seconds - own + bound)} s)'
    )
  return paragraph(f"""
    The share of the encoder, which computes its logits of 2048 x 2048 positions
    twice, so that none lie in memory: {'; '.join(lines)}.""")


def _by_table1(best: Iterable[Found]) -> str:
  """Returns how far the models that Table 1 has too are from its times."""
  values = paper_values.read('table1_seconds_a_sample')['values']
  lines = [
    f'{f.cell.model} {values[f.cell.model]:.2f} s, of which the estimate is '
    f'{f.seconds / values[f.cell.model]:.2f}'
    for f in best
    if f.cell.model in values
  ]
  return paragraph(
    'Some of the models are in Table 1 too, where the paper has printed other '
    f'times than are read off its plot: {"; ".join(lines)}.'
  )


def _ratios(best: Mapping[tuple, Found], values: Mapping[str, float]) -> str:
  """Returns how the models compare with each other, here and in the paper."""
  by_model = {f.cell.model: f.seconds for f in best.values()}
  if len(by_model) < len(values):
    return ''
  base = 'MHA-XXL'
  parts = [
    f'{by_model[base] / seconds:.1f} times as fast as {base} is {name} (paper: '
    f'{values[base] / values[name]:.1f})'
    for name, seconds in by_model.items()
    if name != base
  ]
  return paragraph('; '.join(parts) + '.')


def _t5x(best: Mapping[tuple, Found], values: Mapping[str, float]) -> str:
  """Returns what the program that the paper timed comes to by an estimate."""
  parts = []
  for f in best.values():
    name = f.cell.model
    theirs = paper_values.read('t5x_estimated')['values'].get(name)
    if theirs:
      steps = f.cell.target_length * theirs['milliseconds_a_step'] / 1e3
      seconds = (
        steps / theirs['batch_a_chip'] + theirs['encoder_seconds_a_sample']
      )
      parts.append(
        f'{name} takes {seconds:.2f} s, {seconds / values[name]:.2f} times the '
        f"paper's, where ours takes {digits(f.seconds)}"
      )
  return paragraph(f"""
    Why multi-head attention is estimated to be faster than the paper measured:
    the paper timed another program, T5X's. That one, compiled and estimated in
    the same way (../paper_values.json), is slower than measured:
    {'; '.join(parts)}. The other two models have half of their time in the
    encoder, which our program changes less.""")


_LEGEND = paragraph("""
  *Cores*: the compiler's `estimated_cycles` at the chip's clock, loops counted
  by their trips, without exchanges; it prices matrix products fairly, a stream
  through memory as some 2.5 times as long as the bandwidth allows (v4), and not
  at all what is copied beside computations, such as kernels to a v4's CMEM, so
  that a step counts as long as the bound of its mesh at least. *Exchanges*: the
  bytes that a chip sends in rings over all its links at once; the latency of
  each, and that a group along one axis of the torus has a third of the links,
  are not counted. *Estimate*: cores and exchanges, one after the other.
  *Bound*: the longer of FLOPs at the published peak and bytes at full
  bandwidth, phase by phase, divided evenly over the chips; no program is faster
  that reads whole caches in each step. *Bound of the mesh*: the same where each
  chip reads its whole part of the kernels, which `model` alone divides.""")
