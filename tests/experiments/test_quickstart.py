"""The quick start's folder: stages that are done belong to their settings."""

import pytest

from experiments import quickstart

SETTINGS = {'UPTRAIN_STEPS': 36, 'UPTRAIN_LENGTHS': {'inputs': 64}}


def test_stages_of_other_settings_are_not_taken_for_done(tmp_path):
  work = tmp_path / 'work'
  quickstart.check_settings(work, SETTINGS)
  quickstart.check_settings(work, SETTINGS)
  other = SETTINGS | {'UPTRAIN_STEPS': 600}
  with pytest.raises(
    ValueError, match=r'\(UPTRAIN_STEPS is 36 there and 600 here\).*WORK_DIR'
  ):
    quickstart.check_settings(work, other)
  # What the message advises.
  quickstart.check_settings(tmp_path / 'another', other)
  quickstart.check_settings(work, SETTINGS)
