"""FLOPs and bytes against the model's own program, sums, and known figures."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import jaxprs_in_params

from gqa_flax.checkpoints.architecture import abstract_params
from gqa_flax.config import T5Config
from gqa_flax.model.network import Transformer
from gqa_flax.timing import roofline
from gqa_flax.timing.chips import CHIPS
from gqa_flax.timing.flops import forward_flops
from gqa_flax.timing.geometries import GEOMETRIES, DecoderOnlyConfig, num_params
from gqa_flax.timing.kv_cache import cache_bytes

BATCH, SOURCE, TARGET = 3, 7, 5
V4 = CHIPS['v4']


@pytest.fixture(params=[1, 2, 8])
def config(request, tiny_config):
  """All sizes differ, the layers of the two stacks too."""
  return dataclasses.replace(tiny_config, num_kv_heads=request.param)


def on_other_platforms(equations):
  """Yields what runs where no platform has a program of its own.

  Such a choice, and attention's rule for gradients, are all that may hold
  functions.
  """
  for equation in equations:
    if equation.params.get('branches_platforms'):
      inside = equation.params['branches'][-1]
    elif equation.primitive.name == 'custom_vjp_call':
      inside = equation.params['call_jaxpr']
    else:
      assert not any(jaxprs_in_params(equation.params))
      yield equation
      continue
    yield from on_other_platforms(inside.jaxpr.eqns)


@dataclasses.dataclass
class Program:
  """A traced method of the model, without nested functions."""

  flops: int
  read: dict[str, int]  # elements by the name of a parameter that is used

  @classmethod
  def trace(cls, config, params, method, *args):
    def apply(params, *args):
      return Transformer(config).apply({'params': params}, *args, method=method)

    with jax.disable_jit():
      jaxpr = jax.make_jaxpr(apply)(params, *args).jaxpr
    flops, used = 0, set()
    for equation in jaxpr.eqns:
      used.update(v for v in equation.invars if not hasattr(v, 'val'))
    for equation in on_other_platforms(jaxpr.eqns):
      if equation.primitive.name == 'dot_general':
        (contracted, _), _ = equation.params['dimension_numbers']
        inner = math.prod(equation.invars[0].aval.shape[i] for i in contracted)
        flops += 2 * inner * math.prod(equation.outvars[0].aval.shape)
    # Parameters come first among the arguments, in the order of the tree.
    read = {
      jax.tree_util.keystr(path, simple=True, separator='/'): x.size
      for (path, x), var in zip(jax.tree.leaves_with_path(params), jaxpr.invars)
      if var in used
    }
    return cls(flops, read)

  def read_but_embedding(self):
    return sum(self.read.values()) - self.read['token_embedder/embedding']


@pytest.fixture
def programs(config):
  """What encodes, what encodes and fills the caches, and a step."""
  params = abstract_params(config)
  sources = jax.ShapeDtypeStruct((BATCH, SOURCE), jnp.int32)
  tokens = jax.ShapeDtypeStruct((BATCH,), jnp.int32)

  def init_cache(model, sources):
    return model.init_cache(sources, TARGET)

  def apply(params, sources):
    variables = {'params': params}
    return Transformer(config).apply(variables, sources, method=init_cache)

  cache = jax.eval_shape(apply, params, sources)
  return (
    Program.trace(config, params, 'encode', sources),
    Program.trace(config, params, init_cache, sources),
    Program.trace(config, params, 'decode_step', tokens, cache),
  )


def test_flops_are_what_the_model_multiplies(config, programs):
  encode, fill, step = (program.flops for program in programs)
  assert roofline.encode(config, BATCH, SOURCE).flops == encode > 0
  filled = roofline.cache_fill(config, BATCH, SOURCE).flops
  assert filled == fill - encode > 0
  work = roofline.decode_step(config, BATCH, SOURCE, TARGET)
  assert work.flops == step > 0


def test_parameters_read_are_those_the_program_uses(config, programs):
  """With caches and activations at no bytes an element, parameters remain."""
  widths = {'param_width': 1, 'value_width': 0}
  encode, fill, step = (program.read_but_embedding() for program in programs)
  D = config.emb_dim
  work = roofline.encode(config, BATCH, SOURCE, **widths)
  assert work.bytes == encode + BATCH * SOURCE * D
  work = roofline.cache_fill(config, BATCH, SOURCE, **widths)
  assert work.bytes == fill - encode
  work = roofline.decode_step(config, BATCH, SOURCE, TARGET, **widths)
  assert work.bytes == step + BATCH * D
  cross = 'decoder/layers_0/encoder_decoder_attention'
  assert f'{cross}/query/kernel' in programs[2].read
  assert f'{cross}/key/kernel' not in programs[2].read


def test_values_moved_are_outputs_and_caches(config):
  """With parameters at no bytes an element, these remain."""
  widths = {'param_width': 0, 'value_width': 4}
  model = Transformer(config)
  sources = jax.ShapeDtypeStruct((BATCH, SOURCE), jnp.int32)

  def init(sources):
    params = model.init(jax.random.key(0), sources, sources, sources)
    return (
      model.apply(params, sources, method='encode'),
      model.apply(params, sources, TARGET, method='init_cache'),
    )

  encoded, cache = jax.eval_shape(init, sources)

  def num_bytes(tree):
    return sum(4 * math.prod(x.shape) for x in jax.tree.leaves(tree))

  own, cross = num_bytes(cache.self_attention), num_bytes(cache.cross_attention)
  assert cache_bytes(config, BATCH, SOURCE, value_width=4) == cross
  assert cache_bytes(config, BATCH, TARGET, value_width=4) == own
  work = roofline.encode(config, BATCH, SOURCE, **widths)
  assert work.bytes == num_bytes(encoded)
  work = roofline.cache_fill(config, BATCH, SOURCE, **widths)
  assert work.bytes == num_bytes(encoded) + cross
  work = roofline.decode_step(config, BATCH, SOURCE, TARGET, **widths)
  assert work.bytes == cross + own + own // TARGET


def test_a_tied_head_reads_the_embedding_once(tiny_config):
  tied = dataclasses.replace(tiny_config, logits_via_embedding=True)
  sizes = BATCH, SOURCE, TARGET
  untied_work = roofline.decode_step(tiny_config, *sizes)
  work = roofline.decode_step(tied, *sizes)
  assert work.flops == untied_work.flops
  assert untied_work.bytes - work.bytes == 2 * BATCH * tied.emb_dim


def test_phases_add_up_to_the_forward_pass(config):
  """Every step attends to all T positions, as teacher forcing computes."""
  phases = [
    roofline.encode(config, BATCH, SOURCE),
    roofline.cache_fill(config, BATCH, SOURCE),
    *[roofline.decode_step(config, BATCH, SOURCE, TARGET)] * TARGET,
  ]
  whole = sum(phases, roofline.Work(0, 0))
  assert whole.flops == forward_flops(config, BATCH, SOURCE, TARGET)
  assert whole.bytes == sum(work.bytes for work in phases)


@pytest.mark.parametrize(
  ('num_kv_heads', 'sequences_a_chip', 'milliseconds'),
  [(8, 32, 4.37), (64, 16, 14.59)],
)
def test_a_step_of_xxl_on_eight_v4(
  num_kv_heads, sequences_a_chip, milliseconds
):
  """By hand: kernels, head, embedding rows and caches in bfloat16."""
  config = T5Config.t5_1_1('xxl', num_kv_heads=num_kv_heads)
  batch = 8 * sequences_a_chip
  work = roofline.decode_step(config, batch, 2048, 512)
  # Queries and outputs of two attentions, keys and values of one, the MLP.
  layer = 4 * 4096**2 + 2 * 4096 * num_kv_heads * 64 + 3 * 4096 * 10240
  weights = 24 * layer + 32128 * 4096
  caches = batch * (2048 + 512) * 24 * 2 * num_kv_heads * 64
  # Norms, relative biases, embedding rows and the new position.
  assert work.bytes == pytest.approx(2 * (weights + caches), rel=2e-3)
  assert work.bytes > 2 * (weights + caches)
  assert work.memory_seconds(V4, 8) > work.compute_seconds(V4, 8)
  assert 1e3 * work.seconds(V4, 8) == pytest.approx(milliseconds, abs=5e-3)


def test_bounds_by_hand():
  work = roofline.Work(flops=550 * 10**12, bytes=6 * 10**11)
  assert work.compute_seconds(V4) == pytest.approx(2)
  assert work.memory_seconds(V4) == pytest.approx(0.5)
  assert work.seconds(V4) == pytest.approx(2)
  assert work.seconds(V4, 8) == pytest.approx(0.25)
  more = work + roofline.Work(0, 54 * 10**11)
  assert more == roofline.Work(550 * 10**12, 6 * 10**12)
  assert more.seconds(V4, 2) == pytest.approx(2.5)
  assert work.intensity == pytest.approx(550 / 0.6)


@pytest.mark.parametrize('name', ['llama-2-70b', 'qwen2.5-0.5b'])
def test_a_prompt_costs_its_positions_one_by_one_but_for_logits(name):
  config = GEOMETRIES[name]
  steps = [
    roofline.decoder_only_step(config, BATCH, 1 + position)
    for position in range(TARGET)
  ]
  head = 2 * BATCH * config.vocab_size * config.emb_dim
  expected = sum(work.flops for work in steps) - (TARGET - 1) * head
  assert roofline.prefill(config, BATCH, TARGET).flops == expected


def test_a_step_of_a_decoder_by_its_parameters():
  """Two FLOPs a kernel's element and sequence, four a pair and channel."""
  config = GEOMETRIES['qwen2.5-7b']
  length = 1000
  D, L, V = config.emb_dim, config.num_layers, config.vocab_size
  norms, biases = (2 * L + 1) * D, L * (28 + 2 * 4) * 128
  kernels = num_params(config) - norms - biases - V * D
  attention = 4 * L * 28 * 128 * length
  work = roofline.decoder_only_step(config, BATCH, length)
  assert work.flops == BATCH * (2 * kernels + attention)
  # All parameters but the embedding, of which a row each; 57,344 bytes a token.
  weights = num_params(config) - V * D + BATCH * D
  assert work.bytes == 2 * weights + BATCH * (length + 1) * 57_344


def test_a_tied_decoder_reads_its_embedding_once():
  config = DecoderOnlyConfig(
    **dict(num_layers=1, emb_dim=4, num_heads=2, num_kv_heads=1, head_dim=2),
    **dict(mlp_dim=8, vocab_size=100, tied_embedding=True),
  )
  widths = {'param_width': 1, 'value_width': 0}
  work = roofline.decoder_only_step(config, BATCH, 9, **widths)
  assert work.bytes == num_params(config)
  assert roofline.prefill(config, BATCH, 9, **widths).bytes == work.bytes
  untied = dataclasses.replace(config, tied_embedding=False)
  work = roofline.prefill(untied, BATCH, 9, **widths)
  assert work.bytes == num_params(config) + BATCH * 9 * 4
  # More tokens than rows read each row once.
  work = roofline.prefill(untied, BATCH, 90, **widths)
  assert work.bytes == num_params(config) + 100 * 4
