"""The documentation's site: complete, without broken links, and a tutorial."""

import ast
import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

import gqa_flax
from gqa_flax.cli.settings import SETTINGS

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope='module')
def hooks():
  spec = importlib.util.spec_from_file_location('hooks', ROOT / 'docs/hooks.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_every_setting_is_in_the_reference(hooks):
  page = hooks.settings_page()
  rows = re.findall(r'^\| `(\w+)` \| (.*?) \| (.*) \|$', page, re.M)
  assert {name for name, _, _ in rows} == {*SETTINGS}
  assert all(default and meaning for _, default, meaning in rows)
  train = page[: page.index('## gqa-flax convert')]
  assert '| `TRAIN_STEPS` | required | Last step, counted' in train
  assert '| `BATCH_SIZE` | 2048 (pretrain, uptrain); 128 (finetune)' in train


def test_every_public_name_is_in_the_reference():
  page = (ROOT / 'docs/reference/api.md').read_text()
  assert sorted(re.findall(r'^::: gqa_flax\.(\w+)$', page, re.M)) == sorted(
    gqa_flax.__all__
  )


def test_the_messages_that_the_faq_quotes_exist():
  page = (ROOT / 'docs/faq.md').read_text()
  quoted = re.findall(r'^### "(.*)"$', page, re.M)
  constants = {
    node.value
    for path in ROOT.glob('gqa_flax/**/*.py')
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.Constant) and isinstance(node.value, str)
  }
  assert len(quoted) >= 5
  for part in re.split(r' ?\.\.\. ?', ' ... '.join(quoted)):
    assert any(part in constant for constant in constants), part


@pytest.mark.slow
def test_the_site_builds_and_no_link_is_broken(tmp_path):
  pytest.importorskip('mkdocs')
  command = [sys.executable, '-m', 'mkdocs', 'build', '--strict']
  done = subprocess.run(
    [*command, f'--site-dir={tmp_path}'],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  settings = (tmp_path / 'reference/settings/index.html').read_text()
  assert 'CALIBRATION_TASK' in settings
  api = (tmp_path / 'reference/api/index.html').read_text()
  assert 'id="gqa_flax.convert_params"' in api
  assert (tmp_path / 'results/index.html').exists()


@pytest.mark.slow
def test_the_tutorial_runs_from_top_to_bottom(tmp_path):
  pytest.importorskip('nbclient')
  for path in ROOT.iterdir():
    if path.name not in ('docs', 'runs', '.git'):
      (tmp_path / path.name).symlink_to(path)
  (tmp_path / 'docs').mkdir()
  notebook = tmp_path / 'docs' / 'tutorial.ipynb'
  shutil.copy(ROOT / 'docs/tutorial.ipynb', notebook)
  # One device; compiling is what takes the time.
  flags = {'XLA_FLAGS': '--xla_backend_optimization_level=0'}
  subprocess.run(
    [
      *(sys.executable, '-c', 'from nbclient.cli import main; main()'),
      *('--inplace', str(notebook)),
    ],
    check=True,
    env={**os.environ, **flags, 'PYTHONPATH': str(ROOT)},
  )

  cells = json.loads(notebook.read_text())['cells']
  outputs = [x for cell in cells for x in cell.get('outputs', ())]
  assert sum('image/png' in x.get('data', {}) for x in outputs) == 2
  text = ''.join(''.join(x.get('text', '')) for x in outputs)
  losses = {
    (name, method): float(loss)
    for name, method, loss in re.findall(
      r'^(GQA-2|MQA) +(\w+) +([\d.]+)$', text, re.M
    )
  }
  assert len(losses) == 6
  for name in 'GQA-2', 'MQA':
    mean, aligned, subspace = (
      losses[name, method] for method in ('mean', 'aligned', 'subspace')
    )
    assert subspace < aligned < mean
