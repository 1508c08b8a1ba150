"""What tells two evaluations apart."""

import gin
import pytest

from gqa_flax.evaluation import identity

TEXT = """\
from gqa_flax.evaluation import evaluate

# Macros:
# ==============================================================================
SPLIT = 'test'
TASK_FEATURE_LENGTHS = {'inputs': 512, 'targets': 114}

# Parameters for evaluate.evaluate:
# ==============================================================================
evaluate.evaluate.checkpoint = \\
    '/a/long/folder'
a/b.name.of = @decode()
"""


def test_settings_are_read_as_gin_writes_them():
  assert identity.parse_settings(TEXT) == {
    'SPLIT': "'test'",
    'TASK_FEATURE_LENGTHS': "{'inputs': 512, 'targets': 114}",
    'evaluate.evaluate.checkpoint': "'/a/long/folder'",
    'a/b.name.of': '@decode()',
  }
  assert identity.parse_settings('') == {}


def test_every_macro_that_gin_holds_is_read():
  gin.clear_config()
  long = [f'file_{i}' for i in range(40)]
  gin.parse_config(f"SPLIT = 'test'\nFILES = {long!r}\nSIZE = 3")
  found = identity.parse_settings(gin.config_str())
  gin.clear_config()
  assert found['SPLIT'] == "'test'" and found['SIZE'] == '3'
  assert found['FILES'].endswith("'file_39']")


def test_what_differs_is_named_with_both_values():
  found = {'step': 3, 'task': 'a', 'settings': {'X': '1', 'Y': '2'}}
  identity.check_same(found, dict(found), '/out')
  # What either does not say is no difference.
  identity.check_same({'step': 3, 'old': 1}, {**found, 'new': 2}, '/out')
  with pytest.raises(FileExistsError) as error:
    identity.check_same(found, {**found, 'step': 4, 'task': 'b'}, '/out')
  assert str(error.value) == (
    "/out holds another evaluation (step is 3 there and 4 here; task is 'a' "
    "there and 'b' here), which would be lost; give another OUTPUT_DIR."
  )
  # What was set says why.
  wanted = {**found, 'step': 4, 'settings': {'Y': '3', 'Z': "'0'"}}
  with pytest.raises(FileExistsError) as error:
    identity.check_same(found, wanted, '/out')
  assert str(error.value) == (
    '/out holds another evaluation (X is 1 there and not set here; Y is 2 '
    "there and 3 here; Z is not set there and '0' here), which would be lost; "
    'give another OUTPUT_DIR.'
  )
