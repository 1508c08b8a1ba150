"""An evaluation that was stopped goes on as if it had not been."""

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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize('when', ['stopped', 'finished'])
@pytest.mark.parametrize(
  'change, message',
  [
    ({'num_examples': 8}, 'num_examples is 9 there and 8 here; '),
    ({'split': 'validation'}, "split is 'test' there and 'validation' here; "),
    ({'batch_size': 2}, 'batch_size is 4 there and 2 here'),
    ({'metric': 'bleu'}, "metric is 'rouge' there and 'bleu' here"),
    ({'cache_dtype': 'int8'}, "cache_dtype is 'auto' there and 'int8' here"),
    ({'settings': 'SIZE = 8\n'}, 'SIZE is 4 there and 8 here'),
    ({'settings': ''}, 'SIZE is 4 there and not set here'),
  ],
  ids=lambda x: next(iter(x)) if isinstance(x, dict) else '',
)
def test_another_evaluation_is_not_written_over(
  checkpoint, task, tmp_path, when, change, message
):
  def run(folder, decode, **kwargs):
    arguments = {'split': 'test', 'batch_size': 4, 'num_examples': 9}
    arguments |= {'metric': None} | kwargs
    rest = {
      name: arguments.pop(name)
      for name in ('settings', 'cache_dtype')
      if name in arguments
    }
    score = TaskScore(task, sequence_length=LENGTHS, decode=decode, **arguments)
    return evaluate(
      checkpoint=checkpoint,
      evaluators=[score],
      output_dir=str(folder),
      **{'settings': 'SIZE = 4\n'} | rest,
    )

  folder = tmp_path / 'out'
  if when == 'stopped':
    with pytest.raises(RuntimeError):
      run(folder, Stopping(1))
  else:
    run(folder, greedy_decode)
  before, other = read(folder), Stopping(never=True)
  with pytest.raises(FileExistsError) as error:
    run(folder, other, **change)
  assert other.calls == 0
  assert message in str(error.value)
  assert str(error.value).endswith('give another OUTPUT_DIR.')
  assert read(folder) == before
  # What the message advises.
  run(tmp_path / 'other', other, **change)
  assert read(folder) == before


def test_the_same_evaluation_may_be_repeated(
  checkpoint, task, tmp_path, finished
):
  for _ in range(2):
    run(checkpoint, task, tmp_path, Stopping(never=True))
    assert read(tmp_path) == finished[1]


def test_what_earlier_versions_wrote_is_not_written_over(
  checkpoint, task, tmp_path, finished
):
  run(checkpoint, task, tmp_path, Stopping(never=True))
  record = predictions.read_scores(tmp_path)
  del record['evaluation']
  for name, value in (('step', 2), ('split', 'validation'), ('task', 'x')):
    predictions.write(tmp_path, record | {name: value}, [])
    with pytest.raises(
      FileExistsError, match=f'{name} is .* there and .* here'
    ):
      run(checkpoint, task, tmp_path, Stopping(never=True))
  (tmp_path / 'scores.json').write_text('mine')
  with pytest.raises(FileExistsError, match='scores.json is not of an eval'):
    run(checkpoint, task, tmp_path, Stopping(never=True))
  assert (tmp_path / 'scores.json').read_text() == 'mine'


def test_another_model_at_the_same_place_is_not_taken_for_it(
  task, tmp_path, tiny_config, make_params
):
  config = dataclasses.replace(tiny_config, vocab_size=704, num_kv_heads=2)
  model, out = tmp_path / 'model', tmp_path / 'out'

  def save(step, seed):
    shutil.rmtree(model, ignore_errors=True)
    params = make_params(config, seed)
    with native.checkpoint_manager(model) as manager:
      native.save(manager, native.Checkpoint(step, params, config))

  save(3, seed=0)
  with pytest.raises(RuntimeError):
    run(str(model), task, out, Stopping(1))
  save(3, seed=1)
  with pytest.raises(FileExistsError, match="params is '.*' there and '.*' he"):
    run(str(model), task, out, Stopping(never=True))
  save(3, seed=0)
  run(str(model), task, out, Stopping(never=True))
  save(4, seed=0)
  with pytest.raises(FileExistsError, match='step is 3 there and 4 here'):
    run(str(model), task, out, Stopping(never=True))


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
  assert record.pop('evaluation')['split'] == ['test', 'validation']
  assert record == {'checkpoint': checkpoint, 'step': 3, **written}
  assert len(written) == 6
  # One split alone is another evaluation than two.
  with pytest.raises(FileExistsError, match='split is .* here'):
    run(checkpoint, task, tmp_path)


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
