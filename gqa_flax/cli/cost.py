"""`gqa-flax cost`: memory, bytes and FLOPs of decoding, from a config alone.

Arithmetic: it loads neither JAX nor TensorFlow, and answers at once. What it
needs is imported when it is called, as NumPy would slow the other commands.
"""

import argparse
import json

from gqa_flax.timing.chips import CHIPS

_EXAMPLES = """\
examples:
  # The paper's model and set-up: 8 TPU v4, 2048/512 tokens.
  gqa-flax cost xxl
  gqa-flax cost xxl --num_kv_heads 4 8 16 32 --batch_size=128

  # Of a public decoder: 8 of 40 key/value heads leave 20% of the cache.
  gqa-flax cost qwen2.5-32b --length=32768 --chip=v5e --num_chips=16 --json

MODEL is a T5.1.1 size (mini, small, base, large, xl, xxl) or one of llama-2-7b,
llama-2-13b, llama-2-34b, llama-2-70b, llama-3-8b, llama-3-70b, qwen2.5-0.5b,
qwen2.5-7b, qwen2.5-32b.

All elements are bfloat16. The times are bounds: parameters, caches and FLOPs
are divided evenly among the chips, nothing is exchanged or held twice, and what
passes from layer to layer takes no time and no memory.
"""


def add_commands(commands):
  """Adds the command of this file to those of `gqa-flax`."""
  command = commands.add_parser(
    'cost',
    help=cost.__doc__,
    description=cost.__doc__,
    epilog=_EXAMPLES,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  command.set_defaults(run=cost)
  add = command.add_argument
  add('model', metavar='MODEL', help='see below')
  add(
    '--num_kv_heads',
    type=int,
    nargs='+',
    action='extend',
    metavar='K',
    help='beside MHA and MQA; by default as published, or a divisor up to 8',
  )
  add('--batch_size', type=int, help='sequences in all; 32 a chip by default')
  add('--source_length', type=int, help='of T5; 2048 by default')
  add('--target_length', type=int, help='of T5; 512 by default')
  add('--length', type=int, help='of a decoder; 4096 by default')
  add('--chip', default='v4', help=f'{", ".join(CHIPS)}; v4 by default')
  add('--num_chips', type=int, default=8, help='8 by default')
  add('--json', action='store_true', help='print JSON instead of tables')
  add('--debug', action='store_true', help='show tracebacks')


def cost(args):
  """Says how large KV caches are, and what bounds each phase of decoding."""
  from gqa_flax.cli import cost_request

  report = cost_request.read(args)
  print(json.dumps(report.to_dict(), indent=2) if args.json else report.text())
