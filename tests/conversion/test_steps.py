"""The step of checkpoints whose files do not say it."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from flax import serialization

from gqa_flax.checkpoints import formats
from gqa_flax.checkpoints.published import PUBLISHED
from gqa_flax.conversion import steps
from gqa_flax.conversion.convert import convert_checkpoint
from gqa_flax.training.optimizer import rsqrt_schedule

ROOT = pathlib.Path(__file__).parents[2]
LEGACY = ROOT / 'tests/fixtures/t5x_tiny/legacy'


def convert(source, output, **options):
  return convert_checkpoint(
    input=str(source), output=str(output), num_kv_heads=2, **options
  )


def published(folder):
  """Writes the fixture as others publish it, without a step."""
  params, config = formats.load_params(LEGACY)
  formats.save_params(folder, params, config, 'hugging_face', step=3)
  path = folder / 'config.json'
  fields = json.loads(path.read_text())
  del fields['gqa_flax']
  path.write_text(json.dumps(fields))
  return folder


def without_step(folder):
  """Copies the fixture in T5X's format, and removes the step."""
  shutil.copytree(LEGACY / 'checkpoint_3', folder)
  path = folder / 'checkpoint'
  index = serialization.msgpack_restore(path.read_bytes())
  del index['optimizer']['state']['step']
  path.write_bytes(serialization.msgpack_serialize(index, in_place=True))
  return folder


def test_a_published_checkpoint_is_uptrained_at_the_papers_rate(tmp_path):
  source = published(tmp_path / 't5-v1_1-small')
  with pytest.raises(ValueError, match='give it as STEP: 1000000 if it is the'):
    convert(source, tmp_path / 'out')
  assert not (tmp_path / 'out').exists()
  path = convert(source, tmp_path / 'out', step=1_000_000)
  assert path == str(tmp_path / 'out/checkpoint_1000000')
  stored = formats.open_checkpoint(path)
  assert stored.step == 1_000_000
  assert float(rsqrt_schedule()(np.int32(stored.step))) == pytest.approx(0.001)
  record = json.loads((tmp_path / 'out/conversion.json').read_text())
  assert record['step'] == 1_000_000


@pytest.mark.parametrize('output_format', ['native', 't5x_legacy'])
def test_a_t5x_folder_without_a_step_is_asked_for_it(tmp_path, output_format):
  source = without_step(tmp_path / 'source')
  options = {'optimizer_state': 'carry', 'output_format': output_format}
  with pytest.raises(ValueError, match='give it as STEP: .* or 0 if it was'):
    convert(source, tmp_path / 'out', **options)
  convert(source, tmp_path / 'out', step=500, **options)
  stored = formats.open_checkpoint(tmp_path / 'out')
  # T5X has one number for the step and Adafactor's count.
  assert (stored.step, stored.count) == (500, 500)


def test_a_checkpoint_that_says_its_step_is_believed(tmp_path):
  with pytest.raises(
    ValueError, match='STEP is 4, but .* at step 3; leave out'
  ):
    convert(LEGACY, tmp_path / 'out', step=4)
  assert not (tmp_path / 'out').exists()
  convert(LEGACY, tmp_path / 'same', step=3)
  convert(LEGACY, tmp_path / 'left_out')
  for name in ('same', 'left_out'):
    assert formats.open_checkpoint(tmp_path / name).step == 3


def test_what_we_export_says_its_step(tmp_path):
  convert(LEGACY, tmp_path / 'hf', output_format='hugging_face')
  convert(tmp_path / 'hf', tmp_path / 'back')
  assert formats.open_checkpoint(tmp_path / 'back').step == 3


@pytest.mark.parametrize('step', [-1, True, 1.5, 1e6, '1000000', 2**31])
def test_what_is_no_number_of_steps(tmp_path, step):
  with pytest.raises(ValueError, match='STEP is .*; give an integer from 0 to'):
    convert(LEGACY, tmp_path / 'out', step=step)
  assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
  'path, step',
  [
    ('/models/google/T5-v1_1-xxl', 1_000_000),
    ('t5-xl-lm-adapt/', 1_100_000),
    ('flan-t5-large', 1_164_000),
    ('hub/models--google--flan-t5-base/snapshots/0a1b', 1_184_000),
    ('gs://bucket/mt5-small', 1_000_000),
    ('t5-base', 999_900),
    # Trained further, by however many steps.
    ('my-flan-t5-base-finetuned', None),
    ('flan-t5-base-samsum', None),
    ('t5-v1_1-base-squad', None),
    ('/tmp/mt5-base/', 1_000_000),
  ],
)
def test_the_name_of_a_published_checkpoint_suggests_its_step(
  tmp_path, path, step
):
  stored = formats.open_checkpoint(without_step(tmp_path / 'source'))
  object.__setattr__(stored, 'path', path)
  with pytest.raises(ValueError) as error:
    steps.settle(stored, None)
  assert ('if it is the published' in str(error.value)) == (step is not None)
  assert step is None or f'STEP: {step} if' in str(error.value)


def test_the_gin_file_lists_the_published_steps():
  text = (ROOT / 'gin_configs/runs/convert.gin').read_text()
  for name, step in PUBLISHED.items():
    assert f'{step:_}' in text, name
