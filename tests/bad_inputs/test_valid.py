"""The command lines are valid before a case breaks them."""

import pytest

from gqa_flax.cli import main

VALID = (
  'train',
  'finetune',
  'convert',
  'calibrate',
  'evaluate',
  'infer',
  'time',
  'estimate',
  'data list',
  'data check',
  'data prepare',
  'compare',
  'average',
  'cost',
  'cost decoder',
  'report',
)


@pytest.mark.parametrize('base', VALID)
def test_commands_are_valid(run, base):
  done = run(base)
  assert done.status == 0, done.err


@pytest.mark.parametrize('format', ['hugging_face', 't5x', 't5x_legacy'])
def test_checkpoints_are_valid(run, format):
  done = run('convert', f'--gin.INPUT=${format}')
  assert done.status == 0, done.err


@pytest.mark.parametrize(
  ('command', 'setting'),
  [
    ('finetune', 'INITIAL_CHECKPOINT_PATH'),
    ('evaluate', 'CHECKPOINT'),
    ('infer', 'CHECKPOINT'),
  ],
)
def test_checkpoints_of_other_formats_are_valid(run, command, setting):
  done = run(command, f'--gin.{setting}=$hugging_face')
  assert done.status == 0, done.err


def test_accepted_input_is_reported(run, refused):
  with pytest.raises(pytest.fail.Exception, match='accepted'):
    refused('cost', '--batch_size=64')
  assert main(['cost', 'mini']) == 0


def test_leftover_files_are_reported(refused, tmp_path, monkeypatch):
  def writes(*_):
    (tmp_path / 'half').touch()
    raise ValueError('--batch_size is 0.')

  monkeypatch.setattr('gqa_flax.cli.cost_request.read', writes)
  with pytest.raises(pytest.fail.Exception, match='left behind: half'):
    refused('cost', '--batch_size=0', '--batch_size is 0')


@pytest.mark.parametrize(
  'error',
  [
    KeyError('fsdp'),
    TypeError("unsupported operand type(s) for %: 'int' and 'NoneType'"),
    OSError(28, 'No space left on device'),
    UnicodeDecodeError('utf-8', b'\xff', 0, 1, 'invalid start byte'),
    IndexError('tuple index out of range'),
    RecursionError('maximum recursion depth exceeded'),
  ],
)
def test_internals_are_reported(refused, monkeypatch, error):
  def fails(*_):
    raise error

  monkeypatch.setattr('gqa_flax.cli.cost_request.read', fails)
  with pytest.raises(pytest.fail.Exception, match='internals'):
    refused('cost', ())


def test_missing_fragments_are_reported(refused):
  with pytest.raises(pytest.fail.Exception, match="does not say .'--chip'"):
    refused('cost', '--batch_size=0', '--batch_size is 0', '--chip')
