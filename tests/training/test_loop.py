"""The loop: where it starts, what it keeps, and when it refuses."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from gqa_flax import cli
from gqa_flax.checkpoints import formats, native
from gqa_flax.training import optimizer, progress
from gqa_flax.training.validation import ValidationLoss


def assert_identical(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_going_on_from_a_checkpoint_changes_no_bit(run, tmp_path):
  whole = run('whole', 6)
  run('parts', 3)
  # What a killed attempt had logged of steps that no checkpoint holds.
  log = tmp_path / 'parts' / 'metrics.jsonl'
  log.write_text(log.read_text() + '{"step": 4, "loss": 1.0}\n{"step": 5, "lo')
  parts = run('parts', 6)
  assert_identical(whole.params, parts.params)
  assert_identical(whole.opt_state, parts.opt_state)
  first, second = (
    [(r['step'], r['loss']) for r in progress.records(tmp_path / name)]
    for name in ('whole', 'parts')
  )
  assert first == second
  assert [step for step, _ in first] == [1, 2, 3, 4, 5, 6]


def test_the_loss_falls(
  run, tmp_path, tiny_config, make_batch, counting_batches
):
  """On one batch, seen over and over."""

  class OneBatch(counting_batches):
    def __next__(self):
      return self.make_batch(self.config, batch=8, seed=0)

  data = OneBatch(make_batch, tiny_config)
  run('one', 30, train_data=data, checkpoint_every=30)
  losses = [r['loss'] for r in progress.records(tmp_path / 'one')]
  assert losses[-1] < 0.8 * losses[0]


def test_initial_checkpoint_gives_parameters_and_step(run, tmp_path):
  run('first', 2)
  second = run('second', 4, initial_checkpoint=str(tmp_path / 'first'))
  assert int(second.step) == 4
  assert int(second.opt_state[0].count) == 2
  log = progress.records(tmp_path / 'second')
  assert [r['step'] for r in log] == [3, 4]
  # The schedule goes on from the checkpoint's step too.
  rate = optimizer.rsqrt_schedule(100)
  assert log[0]['learning_rate'] == pytest.approx(float(rate(np.int32(2))))


@pytest.mark.slow
def test_an_initial_checkpoint_of_another_format_is_the_same(run, tmp_path):
  run('first', 2)
  ours = str(tmp_path / 'first')
  params, config = formats.load_params(ours)
  theirs = formats.save_params(
    tmp_path / 'theirs', params, config, 'hugging_face', step=2
  )
  wanted = run('ours', 4, initial_checkpoint=ours)
  found = run('second', 4, initial_checkpoint=theirs)
  assert int(found.step) == 4
  assert_identical(found.params, wanted.params)
  assert_identical(found.opt_state, wanted.opt_state)


def test_a_step_that_nobody_says_is_asked_for(
  run, tmp_path, tiny_config, tiny_params
):
  folder = tmp_path / 'theirs'
  formats.save_params(folder, tiny_params, tiny_config, 'hugging_face', step=0)
  fields = json.loads((folder / 'config.json').read_text())
  del fields['gqa_flax']
  (folder / 'config.json').write_text(json.dumps(fields))
  with pytest.raises(
    ValueError, match=r'does not say at which step it is, .*convert .* --step='
  ):
    run('second', 4, initial_checkpoint=str(folder))
  # The remedy.
  argv = ['convert', str(folder), str(tmp_path / 'dir'), '--num_kv_heads=8']
  assert cli.main([*argv, '--step=2']) == 0
  done = run('second', 4, initial_checkpoint=str(tmp_path / 'dir'))
  assert int(done.step) == 4


def test_a_checkpoint_in_the_warm_up_is_warned_of_once(
  run, tmp_path, tiny_config, tiny_params, capsys
):
  """As one whose step was lost, where the rate is ten times the paper's."""
  initial = str(tmp_path / 'first')
  with native.checkpoint_manager(initial) as manager:
    native.save(manager, native.Checkpoint(2, tiny_params, tiny_config))
  run('second', 3, initial_checkpoint=initial)
  warning = capsys.readouterr().err
  assert warning.count('Warning: ') == 1
  assert f'Warning: {initial} is at step 2, within the 100 warm-up' in warning
  assert 'at learning rate 0.1; ' in warning and 'as STEP.' in warning
  # Not again, once the run has a checkpoint of its own.
  run('second', 3, initial_checkpoint=initial)
  assert 'Warning' not in capsys.readouterr().err


def test_a_checkpoint_beyond_the_warm_up_is_not_warned_of():
  rsqrt, constant = optimizer.rsqrt_schedule(5), optimizer.constant_schedule()
  warnings = [optimizer.warmup_warning(rsqrt, step, 'm') for step in range(8)]
  assert [w is None for w in warnings] == [False] * 5 + [True] * 3
  assert optimizer.warmup_warning(constant, 0, 'm') is None


@pytest.mark.parametrize('warmup_steps', [0, -1, 1.5, True])
def test_a_schedule_without_a_first_rate_is_refused(warmup_steps):
  with pytest.raises(ValueError, match='WARMUP_STEPS is .*; give an integer'):
    optimizer.rsqrt_schedule(warmup_steps)


@pytest.mark.slow
def test_carried_optimizer_state_changes_no_bit(
  run, tmp_path, tiny_config, make_batch, counting_batches
):
  """Another run begins where the first stood, all but the data."""

  class Following(counting_batches):
    def __init__(self):
      super().__init__(make_batch, tiny_config)
      self.position = 3

  whole = run('whole', 6)
  run('first', 3)
  carried = run(
    'carried',
    6,
    train_data=Following(),
    initial_checkpoint=str(tmp_path / 'first'),
    initial_optimizer='carry',
  )
  assert_identical(whole.params, carried.params)
  assert_identical(whole.opt_state, carried.opt_state)
  assert int(carried.opt_state[0].count) == 6


def test_no_optimizer_state_to_carry_is_one_sentence(
  run, tmp_path, tiny_config, make_params
):
  config = dataclasses.replace(tiny_config, dropout_rate=0.1)
  params = make_params(tiny_config)
  with native.checkpoint_manager(tmp_path / 'bare') as manager:
    native.save(manager, native.Checkpoint(2, params, config))
  arguments = {'initial_checkpoint': str(tmp_path / 'bare')}
  with pytest.raises(ValueError, match=r'bare/checkpoint_2 holds no.*gin\.OPT'):
    run('carried', 4, initial_optimizer='carry', **arguments)
  with pytest.raises(ValueError, match=r"OPTIMIZER_STATE is 'kept'; give"):
    run('kept', 4, initial_optimizer='kept', **arguments)


def test_a_finished_run_is_left_alone(run, tmp_path, capsys):
  run('done', 2)
  before = sorted((tmp_path / 'done').rglob('*'))
  run('done', 2)
  assert 'nothing to do' in capsys.readouterr().out
  assert sorted((tmp_path / 'done').rglob('*')) == before


def test_a_caller_who_reports_progress_is_the_only_one_to(
  run, tmp_path, capsys
):
  seen = {}
  run('quiet', 4, log_every=2, on_log=seen.__setitem__)
  assert capsys.readouterr() == ('', '')
  logged = {r['step']: r for r in progress.records(tmp_path / 'quiet')}
  assert list(seen) == [2, 4] == list(logged)
  assert {step: x['loss'] for step, x in seen.items()} == {
    step: record['loss'] for step, record in logged.items()
  }


def test_the_best_and_the_latest_are_kept(run, tmp_path):
  scores = iter([1.0, 9.0, 3.0, 2.0])
  run(
    'best',
    8,
    evaluators=[lambda model, params: {'score': next(scores)}],
    keep=1,
    keep_best='score',
  )
  kept = {p.name for p in (tmp_path / 'best').glob('checkpoint_*')}
  assert kept == {'checkpoint_4', 'checkpoint_8'}
  logged = progress.records(tmp_path / 'best')
  scored = {r['step']: r['score'] for r in logged if 'score' in r}
  assert native.best_step(scored) == 4


def test_evaluation_before_training_is_of_the_initial_checkpoint(run, tmp_path):
  def scale(model, params):
    return {'scale': float(params['encoder']['encoder_norm']['scale'].sum())}

  first = run('first', 2)
  options = dict(
    initial_checkpoint=str(tmp_path / 'first'),
    evaluators=[scale],
    run_eval_before_training=True,
    evaluate_every=100,
    keep_best='scale',
  )

  def scales():
    log = progress.records(tmp_path / 'second')
    return [(r['step'], r['scale']) for r in log if 'scale' in r]

  begun = [(2, scale(None, first.params)['scale'])]
  run('second', 2, **options)  # nothing to train: evaluated alone
  assert scales() == begun
  second = run('second', 3, **options)
  ended = [*begun, (3, scale(None, second.params)['scale'])]
  assert scales() == ended
  run('second', 4, **options)  # goes on: not evaluated at 3 again
  assert scales()[:2] == ended
  assert [step for step, _ in scales()] == [2, 3, 4]


def test_a_loss_that_is_not_finite_stops_the_run(run, tmp_path):
  """A rate that blows the parameters up at step 4: only step 2 is saved."""

  def learning_rate(step):
    return jax.numpy.where(step < 3, 1e-3, np.inf).astype(np.float32)

  with pytest.raises(FloatingPointError, match=r'loss of step 5 is nan'):
    run('nan', 8, learning_rate=learning_rate, checkpoint_every=5)
  assert not list((tmp_path / 'nan').glob('checkpoint_*'))


def test_parameters_that_are_not_finite_are_not_saved(run, tmp_path):
  """The loss of step 4 is finite; what its update leaves is not."""

  def learning_rate(step):
    return jax.numpy.where(step < 3, 1e-3, np.inf).astype(np.float32)

  with pytest.raises(FloatingPointError, match=r'not finite after step 4'):
    run('inf', 8, learning_rate=learning_rate, checkpoint_every=2, keep=None)
  saved = [p.name for p in (tmp_path / 'inf').glob('checkpoint_*')]
  assert saved == ['checkpoint_2']


def test_another_architecture_is_refused_by_name(run, tmp_path, tiny_config):
  run('mha', 2)
  grouped = dataclasses.replace(tiny_config, num_kv_heads=2)
  with pytest.raises(
    ValueError, match=r'num_kv_heads 8 \(configured: 2\).*gqa-flax convert'
  ):
    run('gqa', 4, config=grouped, initial_checkpoint=str(tmp_path / 'mha'))
  assert not list((tmp_path / 'gqa').glob('checkpoint_*'))


def test_token_ids_beyond_the_vocabulary_are_refused(run, tiny_config):
  narrow = dataclasses.replace(tiny_config, vocab_size=32)
  with pytest.raises(ValueError, match='the model has only 32; set T5Config'):
    run('ids', 2, config=narrow)


def test_validation_loss_is_the_mean_over_tokens(
  tiny_config, tiny_params, make_batch, logits_of
):
  from gqa_flax import Transformer

  model = Transformer(tiny_config)
  batches = [make_batch(tiny_config, seed=seed) for seed in (1, 2)]
  total = tokens = correct = 0
  for batch in batches:
    logits = np.asarray(logits_of(model, tiny_params, batch), np.float64)
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    targets = batch['decoder_target_tokens']
    picked = np.take_along_axis(log_probs, targets[..., None], axis=-1)[..., 0]
    real = targets > 0
    total -= picked[real].sum()
    correct += (logits.argmax(-1) == targets)[real].sum()
    tokens += real.sum()
  scores = ValidationLoss(batches)(model, tiny_params)
  assert scores['validation/cross_entropy'] == pytest.approx(total / tokens)
  assert scores['validation/accuracy'] == pytest.approx(correct / tokens)


def test_validation_without_batches_is_refused():
  with pytest.raises(ValueError, match='no batch to compute the validation'):
    ValidationLoss([])


def test_validation_without_a_target_token_is_refused(tiny_config, make_batch):
  batch = make_batch(tiny_config)
  empty = {**batch, 'decoder_loss_weights': 0 * batch['decoder_loss_weights']}
  with pytest.raises(ValueError, match='No batch of the dev loss has a target'):
    ValidationLoss([empty, empty], name='dev')
  ValidationLoss([empty, batch])
