"""An evaluation that was stopped goes on as if it had not been."""

import contextlib
import dataclasses
import functools
import shutil

import pytest

from gqa_flax.checkpoints import native
from gqa_flax.evaluation import decoding, predictions
from gqa_flax.evaluation.evaluate import TaskScore, evaluate
from gqa_flax.inference.decode import greedy_decode

LENGTHS = {'inputs': 24, 'targets': 12}


class Stopping:
  """Decodes greedily, and raises at its n-th call."""

  def __init__(self, at=0, error=RuntimeError, never=False):
    self.calls, self._at, self._error = 0, None if never else at, error

  def __call__(self, *args):
    if self.calls == self._at:
      raise self._error('stopped')
    self.calls += 1
    return greedy_decode(*args)


def run(checkpoint, task, folder, decode=greedy_decode, **kwargs):
  """Evaluates nine examples in three batches."""
  score = TaskScore(
    task, 'test', LENGTHS, batch_size=4, num_examples=9, decode=decode
  )
  evaluate(
    checkpoint=checkpoint,
    evaluators=[score],
    output_dir=str(folder),
    **kwargs,
  )
  return score


def read(folder):
  """Returns the bytes of every file."""
  return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope='module')
def finished(checkpoint, task, tmp_path_factory):
  """An evaluation that nothing stopped: its evaluator and its files."""
  folder = tmp_path_factory.mktemp('finished')
  score = run(checkpoint, task, folder, Stopping(never=True))
  return score, read(folder)


@pytest.mark.parametrize('error', [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize('batches_done', [0, 1, 2])
def test_after_a_stop_it_goes_on_to_the_same_files(
  checkpoint, task, tmp_path, finished, batches_done, error, capsys
):
  with pytest.raises(error, match='stopped'):
    run(checkpoint, task, tmp_path, Stopping(batches_done, error))
  names = [path.name for path in tmp_path.iterdir()]
  assert names == (['predictions.partial.jsonl'] if batches_done else [])
  rest = Stopping(never=True)
  run(checkpoint, task, tmp_path, rest)
  assert rest.calls == 3 - batches_done
  assert read(tmp_path) == finished[1]
  assert capsys.readouterr().err == ''


def test_a_torn_batch_is_decoded_again(checkpoint, task, tmp_path, finished):
  with pytest.raises(RuntimeError):
    run(checkpoint, task, tmp_path, Stopping(2))
  path = tmp_path / 'predictions.partial.jsonl'
  path.write_bytes(path.read_bytes()[:-9])
  rest = Stopping(never=True)
  run(checkpoint, task, tmp_path, rest)
  assert rest.calls == 2
  assert read(tmp_path) == finished[1]


def test_stopped_while_writing_it_decodes_nothing_again(
  checkpoint, task, tmp_path, finished, monkeypatch
):
  def write_whole(path, text):
    if path.name == 'scores.json':
      raise OSError('disk full')
    original(path, text)

  original = predictions.write_whole
  with monkeypatch.context() as patch:
    patch.setattr(predictions, 'write_whole', write_whole)
    with pytest.raises(OSError, match='disk full'):
      run(checkpoint, task, tmp_path, Stopping(never=True))
  rest = Stopping(never=True)
  run(checkpoint, task, tmp_path, rest)
  assert rest.calls == 0
  assert read(tmp_path) == finished[1]


@pytest.mark.parametrize(
  'change', ['settings', 'batch_size', 'num_examples', 'cache_dtype']
)
def test_what_was_decoded_otherwise_is_not_gone_on_with(
  checkpoint, task, tmp_path, finished, change, capsys
):
  kwargs = {'batch_size': 4, 'num_examples': 9}
  other = {'batch_size': 2, 'num_examples': 8}
  score = TaskScore(
    task,
    'test',
    LENGTHS,
    decode=Stopping(1),
    **(kwargs | {k: x for k, x in other.items() if k == change}),
  )
  with pytest.raises(RuntimeError):
    evaluate(
      checkpoint=checkpoint,
      evaluators=[score],
      output_dir=str(tmp_path),
      settings='another' if change == 'settings' else '',
      cache_dtype='int8' if change == 'cache_dtype' else 'auto',
    )
  rest = Stopping(never=True)
  run(checkpoint, task, tmp_path, rest)
  assert rest.calls == 3
  assert read(tmp_path) == finished[1]
  note = capsys.readouterr().err
  assert note.startswith('Starting over: ') and change in note


def test_another_model_at_the_same_place_is_not_gone_on_with(
  task, tmp_path, tiny_config, make_params, capsys
):
  config = dataclasses.replace(tiny_config, vocab_size=704, num_kv_heads=2)
  model, out = tmp_path / 'model', tmp_path / 'out'
  for seed, decode in ((0, Stopping(1)), (1, Stopping(never=True))):
    shutil.rmtree(model, ignore_errors=True)
    params = make_params(config, seed)
    with native.checkpoint_manager(model) as manager:
      native.save(manager, native.Checkpoint(3, params, config))
    with contextlib.suppress(RuntimeError):
      run(str(model), task, out, decode)
  assert decode.calls == 3
  assert 'another params.' in capsys.readouterr().err


def test_evaluators_of_several_splits_have_a_folder_each(
  checkpoint, task, tmp_path, finished
):
  def scores(stop_at):
    decode = Stopping(stop_at)
    evaluators = [
      TaskScore(task, split, LENGTHS, 4, decode, num_examples=9)
      for split in ('test', 'validation')
    ]
    return decode, evaluate(
      checkpoint=checkpoint, evaluators=evaluators, output_dir=str(tmp_path)
    )

  with pytest.raises(RuntimeError):
    scores(5)
  rest, written = scores(None)
  assert rest.calls == 1
  assert read(tmp_path / 'test') == finished[1]
  for split in ('test', 'validation'):
    own = predictions.read(tmp_path / split).record
    assert own['split'] == split
    assert own[f'{split}/rouge1'] == written[f'{split}/rouge1']
  record = predictions.read_scores(tmp_path)
  assert record == {'checkpoint': checkpoint, 'step': 3, **written}
  assert len(written) == 6


def test_decoding_functions_are_named_with_what_they_are_bound_to():
  names = {
    decoding.describe(function)
    for function in (
      greedy_decode,
      functools.partial(greedy_decode, beam_size=2),
      functools.partial(greedy_decode, beam_size=4),
      functools.partial(functools.partial(greedy_decode, beam_size=4), 1),
      Stopping(),
    )
  }
  assert len(names) == 5
  assert not any('0x' in name for name in names)
