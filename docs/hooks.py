"""What mkdocs builds besides the pages in docs/: settings, tutorial, results.

Nothing here is kept in git: the settings come from gqa_flax/cli/settings.py and
the gin files, the tutorial from its notebook, the results from results/.
"""

import base64
import json
import pathlib
import re

from gqa_flax.cli import gin_config, setting_help

ROOT = pathlib.Path(__file__).parents[1]
_COMMANDS = ('train', 'convert', 'evaluate', 'infer', 'time')
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
  """Returns a table of the settings of each command, and of its files."""
  folders = gin_config.search_paths()
  parts = []
  for command in _COMMANDS:
    _, entries = next(iter(setting_help.sections(command, folders).items()))
    parts += [f'## gqa-flax {command}', _table(entries)]
  _, models, tasks = setting_help.sections('train', folders).values()
  parts += ['## Files in gin_configs/models', _table(models)]
  parts += ['## Files in gin_configs/tasks', _table(tasks)]
  return '\n\n'.join(parts)


def _table(entries) -> str:
  lines = ['| setting | default | meaning |', '|---|---|---|']
  for name, default, found in entries:
    kind = str(found.type)
    cells = default, f'{found.meaning} {kind[0].upper()}{kind[1:]}.'
    default, meaning = (x.replace('|', '&#124;') for x in cells)
    lines.append(f'| `{name}` | {default} | {meaning} |')
  return '\n'.join(lines)
