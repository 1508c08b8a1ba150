"""Reading compiled text, against programs written and counted by hand."""

import re

import pytest

from gqa_flax.timing import hlo
from gqa_flax.timing.exchanges import Collective, collectives
from gqa_flax.timing.products import matrix_flops

# A loop of five trips (counter 0 below 10 by 2) around a product, an exchange
# that starts and ends apart, and after it a fusion that holds a product.
LOOP = """\
HloModule step, is_scheduled=true

%add.1 (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%a, %b)
}

%fused_computation (p0: bf16[8,16], p1: bf16[16,32]) -> bf16[8,32] {
  %p0 = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(0)
  %p1 = bf16[16,32]{1,0:T(8,128)(2,1)S(1)} parameter(1)
  ROOT %convolution.1 = bf16[8,32]{1,0:T(8,128)(2,1)} convolution(%p0, %p1), \
dim_labels=bf_io->bf, backend_config={"estimated_cycles":"999999"}
}

%body (state: (s32[], f32[4,8], f32[8,2])) -> (s32[], f32[4,8], f32[8,2]) {
  %state = (s32[]{:T(128)}, f32[4,8]{1,0:T(8,128)}, /*index=2*/f32[8,2]{1,0}) \
parameter(0)
  %two = s32[]{:T(128)} constant(2)
  %i = s32[]{:T(128)} get-tuple-element(%state), index=0
  %copy.1 = s32[]{:T(128)S(6)} copy(%i)
  %next = s32[]{:T(128)} add(%copy.1, %two)
  %x = f32[4,8]{1,0:T(8,128)} get-tuple-element(%state), index=1
  %w = f32[8,2]{1,0} get-tuple-element(%state), index=2
  %product = f32[4,2]{1,0} dot(%x, %w), lhs_contracting_dims={1}, \
rhs_contracting_dims={0}, backend_config={"estimated_cycles":"100"}
  %all-reduce.1 = f32[4,2]{1,0} all-reduce(%product), channel_id=1, \
replica_groups={{0,1},{2,3}}, use_global_device_ids=true, to_apply=%add.1
  ROOT %out = (s32[]{:T(128)}, f32[4,8]{1,0}, f32[8,2]{1,0}) \
tuple(%next, %x, %w)
}

%condition (state.1: (s32[], f32[4,8], f32[8,2])) -> pred[] {
  %ten = s32[]{:T(128)} constant(10)
  %state.1 = (s32[]{:T(128)}, f32[4,8]{1,0}, f32[8,2]{1,0}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  ROOT %below = pred[]{:T(512)} compare(%i.1, %ten), direction=LT
}

ENTRY %main.1 (state.2: (s32[], f32[4,8], f32[8,2]), q: bf16[8,16], \
k: bf16[4,32]) -> bf16[8,32] {
  %state.2 = (s32[]{:T(128)}, f32[4,8]{1,0}, f32[8,2]{1,0}) parameter(0)
  %q = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(1)
  %k = bf16[4,32]{1,0:T(8,128)(2,1)} parameter(2)
  %while.1 = (s32[]{:T(128)}, f32[4,8]{1,0}, f32[8,2]{1,0}) \
while(%state.2), condition=%condition, body=%body
  %all-gather-start.1 = (bf16[4,32]{1,0}, bf16[16,32]{1,0}) \
all-gather-start(%k), channel_id=2, replica_groups=[2,4]<=[2,4]T(1,0), \
dimensions={0}, backend_config={"estimated_cycles":"7"}
  %all-gather-done.1 = bf16[16,32]{1,0} all-gather-done(%all-gather-start.1)
  ROOT %fusion.1 = bf16[8,32]{1,0:T(8,128)(2,1)} \
fusion(%q, %all-gather-done.1), kind=kOutput, calls=%fused_computation, \
backend_config={"window_config":{"estimated_cycles":"1000"}}
}
"""


def entry(lines: str, rest: str = '') -> hlo.Program:
  return hlo.Program.parse(
    f'{rest}\nENTRY %main (p: f32[]) -> f32[] {{\n{lines}\n}}\n'
  )


def test_a_loop_counts_by_its_trips():
  program = hlo.Program.parse(LOOP)
  assert program.entry == 'main.1'
  assert program.times()['body'] == 5
  assert program.cycles() == 5 * 100 + 7 + 1000
  assert matrix_flops(program) == 5 * (2 * 4 * 8 * 2) + 2 * 8 * 16 * 32


def test_elements_of_tuples_may_be_named_in_place():
  """As newer versions of XLA write them: %state#0."""
  short = LOOP
  for name, source, index in re.findall(
    r'%([\w.]+) = \S+ get-tuple-element\(%([\w.]+)\), index=(\d)', LOOP
  ):
    short = re.sub(rf'  %{name} = .*\n', '', short)
    short = re.sub(rf'%{name}([,)])', rf'%{source}#{index}\1', short)
  assert 'get-tuple-element' not in short and '#2' in short
  expected, found = hlo.Program.parse(LOOP), hlo.Program.parse(short)
  assert found.times() == expected.times()
  assert found.cycles() == expected.cycles()
  assert matrix_flops(found) == matrix_flops(expected)


def test_one_turn_of_a_loop_is_a_program():
  program = hlo.Program.parse(LOOP)
  turn = program.loop_body(5)
  assert turn.cycles() == 100
  assert matrix_flops(turn) == 2 * 4 * 2 * 8
  (exchange,) = collectives(turn)
  assert (exchange.kind, exchange.times) == ('all-reduce', 1)
  with pytest.raises(ValueError, match='0 loops of the program run 7 times'):
    program.loop_body(7)


def test_trips_that_the_compiler_noted_come_first():
  noted = LOOP.replace(
    'body=%body', 'body=%body, backend_config={"known_trip_count":{"n":"3"}}'
  )
  assert hlo.Program.parse(noted).times()['body'] == 3


def test_loops_in_loops_multiply():
  inner = LOOP.replace('ENTRY %main.1', '%inner').replace(
    'ROOT %fusion.1', '%fusion.1'
  )
  text = inner + (
    '\nENTRY %main (p: s32[]) -> s32[] {\n'
    '  %p = s32[] parameter(0)\n'
    '  ROOT %while.2 = s32[] while(%p), condition=%c, body=%inner, '
    'backend_config={"known_trip_count":{"n":"4"}}\n}\n'
  )
  program = hlo.Program.parse(text)
  assert program.times()['body'] == 4 * 5
  assert program.cycles() == 4 * hlo.Program.parse(LOOP).cycles()


def test_a_condition_that_is_no_comparison_with_a_constant_is_an_error():
  text = LOOP.replace('compare(%i.1, %ten)', 'compare(%i.1, %i.1)')
  with pytest.raises(ValueError, match='loop while.1 ends on a condition'):
    hlo.Program.parse(text).cycles()


def test_text_without_an_entry_is_an_error():
  with pytest.raises(ValueError, match='has no ENTRY'):
    hlo.Program.parse('HloModule nothing\n')


def test_exchanges_once_whether_they_start_and_end_apart_or_loop():
  by_kind = {c.kind: c for c in collectives(hlo.Program.parse(LOOP))}
  assert set(by_kind) == {'all-reduce', 'all-gather'}
  assert by_kind['all-reduce'] == Collective('all-reduce', 4 * 2 * 4, 2, 5)
  # The start's result is (operand, result): only the second is gathered.
  assert by_kind['all-gather'] == Collective('all-gather', 16 * 32 * 2, 4, 1)


def test_an_exchange_in_several_fusions_is_known_by_its_channel():
  part = (
    '%async_collective_{n} (p{n}: f32[4]) -> f32[16] {{\n'
    '  %p{n} = f32[4] parameter(0)\n'
    '  ROOT %all-gather.{n} = f32[16] all-gather(%p{n}), channel_id=9, '
    'replica_groups=[1,4]<=[4], dimensions={{0}}\n}}\n'
  )
  lines = ''.join(
    f'  %fusion.{n} = f32[16] fusion(%p), kind=kCustom, '
    f'calls=%async_collective_{n}\n'
    for n in (1, 2)
  )
  program = entry(lines, part.format(n=1) + part.format(n=2))
  assert collectives(program) == [Collective('all-gather', 64, 4, 1)]


def test_an_all_reduce_of_which_a_chip_keeps_its_part_is_a_reduce_scatter():
  rest = (
    '%all-reduce-scatter.1 (p: f32[16]) -> f32[4] {\n'
    '  %p = f32[16] parameter(0)\n'
    '  %all-reduce.3 = f32[16] all-reduce(%p), channel_id=3, '
    'replica_groups=[1,4]<=[4], to_apply=%add\n'
    '  ROOT %slice = f32[4] dynamic-slice(%all-reduce.3)\n}\n'
  )
  program = entry(
    '  ROOT %f = f32[4] fusion(%p), kind=kCustom, calls=%all-reduce-scatter.1',
    rest,
  )
  assert collectives(program) == [Collective('reduce-scatter', 64, 4, 1)]


@pytest.mark.parametrize(
  ('line', 'expected'),
  [
    (
      '%r = f32[4] reduce-scatter(%x), replica_groups={{0,1,2,3}}, '
      'dimensions={0}, to_apply=%add',
      Collective('reduce-scatter', 64, 4, 1),
    ),
    (
      "%r = f32[16] all-to-all(%x), replica_groups=mesh['a'=2,'b'=3,'c'=4] "
      "{'a','c'}, dimensions={0}",
      Collective('all-to-all', 64, 8, 1),
    ),
    (
      '%r = (f32[16], f32[16]{0:S(1)}, u32[]{:S(2)}, u32[]{:S(2)}) '
      'collective-permute-start(%x), source_target_pairs={{0,1},{1,0}}',
      Collective('collective-permute', 64, 2, 1),
    ),
    (
      '%r = (f32[16], bf16[8]) all-reduce(%x, %x), replica_groups=[2,2]<=[4], '
      'to_apply=%add',
      Collective('all-reduce', 64 + 16, 2, 1),
    ),
  ],
)
def test_sizes_and_groups_as_they_are_written(line, expected):
  program = entry(f'  %x = f32[16] parameter(0)\n  {line}')
  assert collectives(program) == [expected]


def test_groups_of_one_exchange_nothing():
  program = entry(
    '  %x = f32[16] parameter(0)\n'
    '  %r = f32[16] all-reduce(%x), replica_groups={{0},{1}}, to_apply=%add'
  )
  assert collectives(program) == []


def test_groups_written_in_an_unknown_way_are_an_error():
  program = entry(
    '  %x = f32[16] parameter(0)\n  %r = f32[16] all-gather(%x), '
    'replica_groups=everybody'
  )
  with pytest.raises(ValueError, match='does not say between which chips'):
    collectives(program)


def test_bytes_sent_in_a_ring_of_four():
  def sent(kind):
    return Collective(kind, 1000, 4, 2).sent

  assert sent('all-gather') == sent('reduce-scatter') == 2 * 750
  assert sent('all-reduce') == 2 * 1500
  assert sent('all-to-all') == 2 * 750
  assert sent('collective-permute') == 2 * 1000


@pytest.mark.parametrize(
  ('lhs', 'rhs', 'out', 'attributes', 'products'),
  [
    # [64, 4, 256] x [256, 32]: a layer's projection.
    (
      '64,4,256',
      '1,256,32',
      '64,4,32',
      'window={size=1}, dim_labels=b0f_0io->b0f',
      64 * 4 * 256 * 32,
    ),
    # The gradient of a kernel: 64 positions are a window, met once.
    (
      '64,4,256',
      '64,4,32',
      '1,256,32',
      'window={size=64}, dim_labels=0fb_0io->0bf',
      64 * 4 * 256 * 32,
    ),
    # Batched over 2 x 4 (rows and heads), as dilated spatial dimensions.
    (
      '2,5,4,16',
      '2,7,4,16',
      '2,4,5,7',
      'window={size=2x4 stride=1x3 lhs_dilate=2x4}, dim_labels=0b1f_0o1i->01bf',
      2 * 4 * 5 * 7 * 16,
    ),
    # A window of three over five with a margin meets 4 + 5 + 4 elements.
    (
      '1,5,2',
      '3,2,8',
      '1,5,8',
      'window={size=3 pad=1_1}, dim_labels=b0f_0io->b0f',
      13 * 2 * 8,
    ),
  ],
)
def test_convolutions_cost_what_their_windows_meet(
  lhs, rhs, out, attributes, products
):
  program = entry(
    f'  %l = bf16[{lhs}] parameter(0)\n  %r = bf16[{rhs}] parameter(1)\n'
    f'  ROOT %c = bf16[{out}] convolution(%l, %r), {attributes}'
  )
  assert matrix_flops(program) == 2 * products


def test_bytes_of_types():
  assert hlo.type_bytes('(f32[2,3]{1,0:T(8,128)}, /*index=1*/bf16[5])') == 34
  assert hlo.type_bytes('pred[7]') == 7
  assert hlo.type_bytes('s32[]{:T(128)}') == 4
  assert hlo.type_bytes('f8e4m3fn[3]') == 3
