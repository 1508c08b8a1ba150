"""What mkdocs builds besides the pages in docs/: settings, tutorial, results.

Nothing here is kept in git: the settings come from gqa_flax/cli/settings.py and
the gin files, the tutorial from its notebook, the results from results/.
"""

import base64
import json
import pathlib
import re

from gqa_flax.cli import gin_config, gin_text
from gqa_flax.cli.settings import SETTINGS, setting

ROOT = pathlib.Path(__file__).parents[1]
# The run files of each command, whose macros are its settings.
COMMANDS = {
  'train': ('pretrain', 'uptrain', 'finetune'),
  'convert': ('convert',),
  'evaluate': ('evaluate',),
  'infer': ('infer',),
  'time': ('time',),
}
_RESULTS = ('**/*.md', '**/*.png')


def on_files(files, config):
  """Adds the tutorial and the results to the pages of the site."""
  from mkdocs.structure.files import File

  def add(path, **source):
    files.append(File.generated(config, path, **source))

  add('tutorial.md', content=tutorial_page(ROOT / 'docs/tutorial.ipynb'))
  for pattern in _RESULTS:
    for path in sorted((ROOT / 'results').glob(pattern)):
      name = path.relative_to(ROOT).as_posix()
      add(name, abs_src_path=str(path))
  return files


def on_page_markdown(markdown, **_):
  """Fills in the settings, and points links at the pages of the site."""
  if '<!-- settings -->' in markdown:
    markdown = markdown.replace('<!-- settings -->', settings_page())
  # In the repository results/ is beside docs/, on the site below it.
  markdown = re.sub(r'(\]\((?:\.\./)*)\.\./results/', r'\1results/', markdown)
  return markdown.replace('tutorial.ipynb)', 'tutorial.md)')


def tutorial_page(path) -> str:
  """Returns a notebook as Markdown, with its texts and pictures."""
  parts = []
  for cell in json.loads(pathlib.Path(path).read_text())['cells']:
    source = ''.join(cell['source'])
    if cell['cell_type'] == 'markdown':
      parts.append(source)
      continue
    parts.append(f'```python\n{source}\n```')
    for output in cell['outputs']:
      parts.append(_output(output))
  return '\n\n'.join(parts)


def _output(output) -> str:
  data = output.get('data', {})
  if 'image/png' in data:
    # Checked and decoded, so that a damaged notebook fails here.
    image = base64.b64encode(base64.b64decode(data['image/png'])).decode()
    return f'![](data:image/png;base64,{image})'
  text = ''.join(output.get('text') or data.get('text/plain', ''))
  return f'```text\n{text.rstrip()}\n```'


def settings_page() -> str:
  """Returns a table of the settings of each command, and of the tasks."""
  parts = [_command_section(name, runs) for name, runs in COMMANDS.items()]
  shown = {n for runs in COMMANDS.values() for n in _defaults('runs', runs)}
  rest = {name: s for name, s in SETTINGS.items() if name not in shown}
  parts.append(_files_section(rest))
  return '\n\n'.join(parts)


def _command_section(command, runs) -> str:
  lines = [
    f'## gqa-flax {command}',
    '',
    'Defaults are those of '
    + ', '.join(f'`gin_configs/runs/{run}.gin`' for run in runs)
    + '.',
    '',
    '| setting | default | meaning |',
    '|---|---|---|',
  ]
  for name, by_run in _defaults('runs', runs).items():
    if found := setting(name, command):
      default = _join_defaults(by_run, len(runs))
      lines.append(f'| `{name}` | {default} | {_meaning(found)} |')
  return '\n'.join(lines)


def _files_section(rest) -> str:
  folders = {
    folder: sorted(p.stem for p in (ROOT / 'gin_configs' / folder).glob('*'))
    for folder in ('models', 'tasks')
  }
  lines = [
    '## Models and tasks',
    '',
    'These are set by the files in `gin_configs/models`, '
    '`gin_configs/attention` and `gin_configs/tasks`.',
    '',
    '| setting | set in | meaning |',
    '|---|---|---|',
  ]
  found = {k: _defaults(k, names) for k, names in folders.items()}
  for name, entry in rest.items():
    places = [
      f'`{folder}/{file}`'
      for folder, defaults in found.items()
      for file in defaults.get(name, ())
    ]
    where = ', '.join(places) if len(places) < 4 else f'{len(places)} files'
    lines.append(f'| `{name}` | {where} | {_meaning(entry)} |')
  return '\n'.join(lines)


def _meaning(found) -> str:
  kind = str(found.type)
  text = f'{found.meaning} {kind[0].upper()}{kind[1:]}.'
  return text.replace('|', '\\|').replace('<', '&lt;')


def _defaults(folder, names) -> dict[str, dict[str, str]]:
  """Returns the values of macros as gin text, by macro and file."""
  found: dict[str, dict[str, str]] = {}
  for name in names:
    file = f'gin_configs/{folder}/{name}.gin'
    text = gin_text.read([file], [], gin_config.search_paths())
    for macro, binding in text.macros.items():
      found.setdefault(macro, {})[name] = _as_text(binding.value)
  return found


def _as_text(value) -> str:
  if value == gin_text.REQUIRED:
    return 'required'
  if isinstance(value, gin_text.Reference):
    return f'`{value}`'
  if isinstance(value, gin_text.MacroReference):
    return f'`%{value}`'
  return f'`{value!r}`'


def _join_defaults(by_run, num_runs) -> str:
  if len(by_run) == num_runs and len(set(by_run.values())) == 1:
    return next(iter(by_run.values()))
  return '<br>'.join(f'{run}: {value}' for run, value in by_run.items())
