"""What is wrong with a run is said before its first step."""

import dataclasses
import os
import signal
import subprocess
import sys
import time

import jax
import pytest

from gqa_flax.checkpoints import native
from gqa_flax.runtime import owner
from gqa_flax.training import checks, loop, progress
from gqa_flax.training.validation import ValidationLoss


class Score:
  """An evaluator that says what it gives, and gives it."""

  metric_names = ('validation/rouge1', 'validation/rouge2')
  vocab_size = 64

  def __call__(self, model, params):
    return dict.fromkeys(self.metric_names, 1.0)


def never(position):
  raise AssertionError('a batch was read')


def assert_refused(run, tmp_path, match, train_steps=2, **kwargs):
  """Refused before any batch, with nothing left on disk."""
  with pytest.raises(ValueError, match=match):
    run('refused', train_steps, before=never, **kwargs)
  assert not (tmp_path / 'refused').exists()


@pytest.mark.parametrize(
  ('setting', 'sentence'),
  [
    ({'keep': 0}, 'KEEP_CHECKPOINTS is 0; give an integer of at least 1'),
    ({'keep': -1}, 'KEEP_CHECKPOINTS is -1; '),
    ({'train_steps': -5}, 'TRAIN_STEPS is -5; give an integer of at least 1'),
    ({'train_steps': 1.5}, 'TRAIN_STEPS is 1.5; '),
    ({'checkpoint_every': 0}, 'CHECKPOINT_EVERY is 0; '),
    ({'evaluate_every': -1}, 'EVALUATE_EVERY is -1; '),
    ({'log_every': 0}, 'log_every is 0; '),
    ({'microbatches': 0}, 'MICROBATCHES is 0; give an integer of at least 1'),
    (
      {'microbatches': 3},
      'MICROBATCHES is 3, which does not divide BATCH_SIZE',
    ),
    ({'model_dir': ''}, "MODEL_DIR is ''; give the path of a folder"),
    ({'model_dir': 20240101}, 'MODEL_DIR is 20240101; give the path of a'),
    (
      {'initial_checkpoint': ''},
      "INITIAL_CHECKPOINT_PATH is ''; give the path",
    ),
    ({'compilation_cache': ''}, "COMPILATION_CACHE is ''; give the path of a"),
    ({'compilation_cache': '/proc/x'}, r'COMPILATION_CACHE /proc/x cannot be'),
    ({'loss_normalizing_factor': 'TOKENS'}, "FACTOR is 'TOKENS'; set it to a"),
    (
      {'loss_normalizing_factor': 0},
      'FACTOR is 0; set it to a positive',
    ),
    ({'keep_best': 'rouge1'}, "KEEP_BEST is 'rouge1', which no .*; give eval"),
  ],
)
def test_settings_that_make_no_sense(setting, sentence, run, tmp_path):
  assert_refused(run, tmp_path, sentence, **setting)


def test_a_cache_folder_that_is_a_file_is_refused(tmp_path):
  (tmp_path / 'file').write_text('')
  for path in (tmp_path / 'file', tmp_path / 'file' / 'cache'):
    with pytest.raises(ValueError, match=f'COMPILATION_CACHE {path} cannot be'):
      checks.make_cache_folder(str(path))
  checks.make_cache_folder(str(tmp_path / 'new' / 'cache'))
  assert (tmp_path / 'new' / 'cache').is_dir()


def test_a_score_that_no_evaluator_gives_is_refused_with_those_there_are(
  run, tmp_path, tiny_config, make_batch
):
  evaluators = [ValidationLoss([make_batch(tiny_config)]), Score()]
  assert_refused(
    run,
    tmp_path,
    "KEEP_BEST is 'validation/bleu', which no evaluator of this run gives; "
    'choose one of validation/accuracy, validation/cross_entropy, '
    'validation/rouge1, validation/rouge2, or None.',
    evaluators=evaluators,
    keep_best='validation/bleu',
  )
  checks.check_keep_best('validation/rouge2', evaluators)
  checks.check_keep_best('validation/accuracy', evaluators)
  checks.check_keep_best(None, evaluators)


@pytest.mark.slow
def test_the_best_checkpoint_by_a_loss_has_the_lowest(run, tmp_path):
  scores = iter([3.0, 1.0, 2.0])
  run(
    'best',
    6,
    evaluators=[lambda model, params: {'held_out/loss': next(scores)}],
    keep=1,
    keep_best='held_out/loss',
  )
  kept = {path.name for path in (tmp_path / 'best').glob('checkpoint_*')}
  assert kept == {'checkpoint_4', 'checkpoint_6'}
  modes = {'validation/cross_entropy': 'min', 'test/rouge1': 'max', None: 'max'}
  assert {name: checks.best_mode(name) for name in modes} == modes


@pytest.mark.slow
def test_an_evaluator_that_names_nothing_is_asked_by_the_first_evaluation(
  run, tmp_path
):
  """The checkpoint is saved by then; the remedy continues from it."""
  options = {'evaluators': [lambda model, params: {'score': 1.0}]}
  with pytest.raises(ValueError, match="'scores', which .* one of score, or"):
    run('late', 4, keep_best='scores', **options)
  assert (tmp_path / 'late' / 'checkpoint_2').is_dir()
  state = run('late', 4, keep_best='score', **options)
  assert int(state.step) == 4
  assert [r['step'] for r in progress.records(tmp_path / 'late')].count(2) == 2


@pytest.mark.parametrize('source', ['data', 'evaluator', 'batches'])
def test_a_vocabulary_larger_than_the_model_is_refused(
  source, run, tmp_path, tiny_config, make_batch, counting_batches
):
  config = dataclasses.replace(tiny_config, vocab_size=40)
  options = {'config': config}
  if source == 'data':
    data = counting_batches(make_batch, tiny_config, never)
    data.vocab_size = 64
    options['train_data'] = data
  elif source == 'evaluator':
    options['evaluators'] = [Score()]
  else:
    options['evaluators'] = [ValidationLoss([make_batch(tiny_config)])]
  assert_refused(
    run,
    tmp_path,
    r'The data needs \d+ token ids, but the model has only 40; set T5Config\.',
    **options,
  )


@pytest.mark.slow
def test_a_run_must_end_behind_its_initial_checkpoint(run, tmp_path):
  run('first', 3)
  initial = str(tmp_path / 'first')
  for steps in (1, 3):
    assert_refused(
      run,
      tmp_path,
      rf'starts at step 3, that of {initial}, and TRAIN_STEPS = {steps} .*'
      'give more than 3',
      train_steps=steps,
      initial_checkpoint=initial,
    )
  assert int(run('second', 4, initial_checkpoint=initial).step) == 4
  # Its own checkpoint: at the last step it is finished, beyond it is not this.
  before = sorted((tmp_path / 'first').rglob('*'))
  run('first', 3, before=never)
  with pytest.raises(
    ValueError,
    match='first has a checkpoint of step 3, beyond TRAIN_STEPS',
  ):
    run('first', 2, before=never)
  assert sorted((tmp_path / 'first').rglob('*')) == before


def test_a_model_dir_that_cannot_be_written_is_named(run, tmp_path):
  (tmp_path / 'file').write_text('')
  for path in ('/proc/nothing', tmp_path / 'file'):
    with pytest.raises(OSError, match=rf'^MODEL_DIR {path} cannot be written'):
      run('unused', 2, before=never, model_dir=str(path))


@pytest.mark.slow
def test_a_second_job_in_one_folder_is_refused(run, tmp_path):
  """From within the first one's step, and nothing of the first is touched."""
  said = []

  def second(position):
    if position == 3:
      unfinished = tmp_path / 'run' / 'checkpoint_9.orbax-checkpoint-tmp'
      unfinished.mkdir()
      with pytest.raises(owner.FolderInUseError) as caught:
        run('run', 8, before=never)
      said.append(str(caught.value))
      assert unfinished.is_dir()

  run('run', 4, before=second)
  (sentence,) = said
  assert f'run is in use by process {os.getpid()} on ' in sentence
  assert sentence.endswith('give another MODEL_DIR.')
  assert not list((tmp_path / 'run').glob('.owner*'))


def test_a_killed_job_does_not_block_its_restart(run, tmp_path):
  """Its record and its lock die with it, and readers see no record."""
  run('run', 2)
  code = (
    'import sys, time\n'
    'from gqa_flax.runtime.owner import Owner\n'
    "with Owner(sys.argv[1], 'MODEL_DIR'):\n"
    "  print('mine', flush=True)\n"
    '  time.sleep(600)\n'
  )
  first = subprocess.Popen(
    [sys.executable, '-c', code, tmp_path / 'run'], stdout=subprocess.PIPE
  )
  with first:
    assert first.stdout.readline() == b'mine\n'
    with pytest.raises(owner.FolderInUseError, match=f'process {first.pid} on'):
      run('run', 3, before=never)
    first.send_signal(signal.SIGKILL)
  assert (tmp_path / 'run' / owner.NAME).exists()
  step = native.step_of(native.locate(tmp_path / 'run'))
  assert step == 2
  start = time.monotonic()
  assert int(run('run', 3).step) == 3
  assert time.monotonic() - start < owner.WATCH_SECONDS
  assert not (tmp_path / 'run' / owner.NAME).exists()


def test_a_job_whose_folder_was_taken_over_saves_nothing_more(
  run, tmp_path, monkeypatch
):
  def lose(self):
    raise owner.FolderInUseError('taken over')

  monkeypatch.setattr(loop.Owner, 'check', lose)
  with pytest.raises(owner.FolderInUseError, match='taken over'):
    run('lost', 4)
  assert not list((tmp_path / 'lost').glob('checkpoint_*'))


def test_jax_keeps_its_cache_where_a_run_is_refused(run, tmp_path):
  before = jax.config.jax_compilation_cache_dir
  assert_refused(
    run, tmp_path, 'KEEP_CHECKPOINTS', keep=0, compilation_cache=str(tmp_path)
  )
  assert jax.config.jax_compilation_cache_dir == before
