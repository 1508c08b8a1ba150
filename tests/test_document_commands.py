"""Commands in the documents: all of them parse, and the quick ones run.

Blocks marked `bash` and `python` run as they stand, those of the README first,
whose runs the guides use. Blocks marked `sh` need a network, another machine or
more than a minute, and are only parsed.
"""

import os
import pathlib
import re
import shlex
import subprocess
import sys
import tomllib

import pytest

from gqa_flax import cli
from gqa_flax.cli import flags, gin_config

ROOT = pathlib.Path(__file__).parents[1]
DOCUMENTS = [
  'README.md',
  *sorted(
    path.relative_to(ROOT).as_posix() for path in ROOT.glob('docs/**/*.md')
  ),
]
_FENCE = re.compile(r'^```(\w*)\n(.*?)^```', re.MULTILINE | re.DOTALL)
_GIN_COMMANDS = ('train', 'convert', 'evaluate', 'infer', 'time')


def blocks(document: str, *languages: str) -> list[tuple[str, str]]:
  """Returns (language, text) of the code in a document."""
  found = _FENCE.findall((ROOT / document).read_text(encoding='utf-8'))
  return [block for block in found if block[0] in languages]


def commands(document: str) -> list[list[str]]:
  """Returns the words of each command, without what it is piped into."""
  found: list[list[str]] = []
  for _, text in blocks(document, 'bash', 'sh'):
    for line in text.replace('\\\n', ' ').splitlines():
      words = shlex.shlex(line, posix=True, punctuation_chars='|>&;')
      words.whitespace_split = True
      found.append([])
      for word in words:
        if set(word) <= set('|>&;'):
          found.append([])
        else:
          found[-1].append(word)
  return [command for command in found if command]


GQA_FLAX = [
  (document, command[1:])
  for document in DOCUMENTS
  for command in commands(document)
  if command[0] == 'gqa-flax'
]


@pytest.mark.parametrize(
  ('document', 'argv'), GQA_FLAX, ids=lambda x: str(x)[:60]
)
def test_a_command_parses(document, argv, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  if argv == ['--help']:
    return
  args = cli._parser().parse_args(
    flags.rewrite(word for word in argv if word != '...')
  )
  if argv[0] not in _GIN_COMMANDS or '...' in argv:
    return
  if args.dry_run:
    gin_config.read(args)
  else:
    assert cli.main([*argv, '--dry_run', '--debug']) == 0
    assert 'gin.REQUIRED' not in capsys.readouterr().out


def test_targets_extras_and_modules_exist():
  targets = re.findall(r'^([a-z-]+):', (ROOT / 'Makefile').read_text(), re.M)
  project = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
  for document in DOCUMENTS:
    for words in commands(document):
      if words[0] == 'make':
        assert words[1] in targets
      if words[0] == 'pip':
        extras = re.findall(r'\[([\w,-]+)\]', words[-1])
        assert {*','.join(extras).split(',')} - {''} <= {
          *project['optional-dependencies']
        }
      if words[:2] == ['python', '-m'] and words[2].startswith('experiments'):
        module = ROOT / words[2].replace('.', '/')
        assert module.is_dir() or module.with_suffix('.py').exists()


@pytest.mark.parametrize('document', DOCUMENTS)
def test_paths_in_the_text_exist(document):
  text = (ROOT / document).read_text(encoding='utf-8')
  pattern = r'`((?:gin_configs|experiments|gqa_flax|tests)/[\w./]+)`'
  assert not [x for x in re.findall(pattern, text) if not (ROOT / x).exists()]


@pytest.fixture(scope='module')
def shell(tmp_path_factory):
  """Runs text in a fresh shell, in a folder that looks like the repository."""
  folder = tmp_path_factory.mktemp('repository')
  for path in ROOT.iterdir():
    if path.name not in ('runs', '.git'):
      (folder / path.name).symlink_to(path)
  (folder / 'bin').mkdir()
  script = folder / 'bin' / 'gqa-flax'
  script.write_text(f'#!/bin/sh\nexec {sys.executable} -m gqa_flax.cli "$@"\n')
  script.chmod(0o755)
  env = {
    **os.environ,
    # One device, as users have it; compiling is what takes the time.
    'XLA_FLAGS': '--xla_backend_optimization_level=0',
    'PYTHONPATH': str(ROOT),
  }
  env['PATH'] = f'{folder}/bin:{env["PATH"]}'

  def run(language, text):
    command = [sys.executable, '-'] if language == 'python' else ['bash', '-e']
    done = subprocess.run(
      command, input=text, text=True, cwd=folder, env=env, capture_output=True
    )
    assert done.returncode == 0, f'{text}\n{done.stdout}\n{done.stderr}'
    return done.stdout

  run.folder, run.env = folder, env
  return run


@pytest.fixture(scope='module')
def after_readme(shell):
  """The shell after the README's commands, and what they printed."""
  printed = [shell(*block) for block in blocks('README.md', 'bash')]
  return shell, ''.join(printed)


@pytest.mark.slow
def test_the_commands_of_the_readme_run_in_turn(after_readme):
  shell, printed = after_readme
  names = ('gqa_2', 'uptrained', 'finetuned')
  steps = [
    next((shell.folder / 'runs' / n).glob('checkpoint_*')).name for n in names
  ]
  assert steps == ['checkpoint_12000', 'checkpoint_12020', 'checkpoint_12100']
  assert (shell.folder / 'runs/scores/scores.json').exists()
  assert 'rouge1' in printed


@pytest.mark.slow
@pytest.mark.parametrize(
  'document', [d for d in DOCUMENTS[1:] if blocks(d, 'bash', 'python')]
)
def test_the_commands_of_a_page_run_in_turn(document, after_readme):
  shell, _ = after_readme
  for block in blocks(document, 'bash', 'python'):
    shell(*block)
