"""Data sets and examples as text for a terminal."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

from gqa_flax.data import catalogue, on_disk

# Of what is shown of a text: more would not help to see what the model sees.
_MAX_TOKENS = 160
_MAX_CHARACTERS = 20

_COLORS = ('\x1b[36m', '\x1b[33m')
_SPECIAL = '\x1b[1;35m'
_RESET = '\x1b[0m'


def overview(data_dir: str | None = None) -> str:
  """Returns a table of the paper's data sets."""
  rows = [('task', 'data set', 'state', 'size', 'cached', 'examples')]
  for task, data_set in catalogue.DATA_SETS.items():
    found = on_disk.find(data_set.tfds_name, data_dir)
    sizes = found.examples or data_set.examples
    rows.append(
      (
        task,
        data_set.tfds_name,
        _state(found, data_set),
        _bytes(found.num_bytes) if found.examples else _to_fetch(data_set),
        'yes' if on_disk.is_cached(task, data_dir) else 'no',
        ' / '.join(f'{size:,}' for size in sizes.values()),
      )
    )
  return f'In {on_disk.data_dir(data_dir)}:\n{_table(rows)}'


def on_disk_table(found: on_disk.OnDisk) -> str:
  """Returns where a data set is, and its splits beside the published ones."""
  published = catalogue.published(found.tfds_name)
  expected = published.examples if published else {}
  lines = [
    f'data set  {found.tfds_name}',
    f'folder    {found.folder}',
    f'state     {_state(found, published)}',
    f'size      {_bytes(found.num_bytes) if found.examples else "-"}',
  ]
  rows: list[Sequence[str]] = [('split', 'examples', 'published')]
  for split in {**found.examples, **expected}:
    sizes = (found.examples.get(split), expected.get(split))
    rows.append((split, *('-' if n is None else f'{n:,}' for n in sizes)))
  return '\n'.join([*lines, _table(rows, right=(1, 2))])


def cache_table(folder, statistics: Mapping[str, Mapping[str, int]]) -> str:
  """Returns where a cache is, and what its splits hold."""
  names = sorted({name for counts in statistics.values() for name in counts})
  rows = [('split', *names)]
  for split, counts in statistics.items():
    rows.append((split, *(f'{counts.get(name, 0):,}' for name in names)))
  right = range(1, len(rows[0]))
  return f'cache     {folder}\n{_table(rows, right=right)}'


def survey_table(surveys: Sequence[Any], lengths: Mapping[str, int]) -> str:
  """Returns what whole splits hold, and which examples of them are skipped.

  Args:
    surveys: from `examples.survey`.
    lengths: to how many tokens inputs and targets are cut.
  """
  header = ['split', 'examples', 'skipped']
  for name in ('inputs', 'targets'):
    header += [f'longest {name}', f'over {lengths[name]:,}']
  rows = [header]
  notes = []
  for survey in surveys:
    sizes = [survey.num_examples, len(survey.skipped)]
    for name in ('inputs', 'targets'):
      found = survey.lengths[name]
      sizes += [max(found, default=0), sum(n > lengths[name] for n in found)]
    rows.append([survey.split, *(f'{size:,}' for size in sizes)])
    for lacking in dict.fromkeys(survey.skipped.values()):
      ids = [where for where, name in survey.skipped.items() if name == lacking]
      more = f' and {len(ids) - 3:,} more' if len(ids) > 3 else ''
      notes.append(
        f'{survey.split}: {len(ids):,} skipped that have no {lacking}: '
        f'{", ".join(ids[:3])}{more}'
      )
  return '\n'.join([_table(rows, right=range(1, len(header))), *notes])


def example(
  task, tokens: Mapping[str, Any], lengths: Mapping[str, int], in_color: bool
) -> str:
  """Returns an example as the model sees it, token by token.

  Args:
    task: a seqio task.
    tokens: from `examples.read_example`.
    lengths: to how many tokens inputs and targets are cut.
    in_color: whether neighboring tokens have different colors; otherwise a
      bar stands between them.
  """
  parts = []
  for name in ('inputs', 'targets'):
    feature = task.output_features[name]
    uncut = tokens[f'uncut_{name}_length']
    cut = f', cut to {lengths[name]:,}' if uncut > lengths[name] else ''
    parts.append(f'{name}: {uncut:,} tokens{cut} (limit {lengths[name]:,})')
    ids = tokens[name].tolist()
    parts.append(_tokens(ids, feature.vocabulary, in_color))
    parts += _unreadable(ids, tokens.get(f'{name}_pretokenized'), feature)
  if 'answers' in tokens:
    answers = [answer.decode() for answer in tokens['answers']]
    parts.append(f'accepted answers: {" | ".join(answers)}')
  return '\n'.join(parts)


def _unreadable(ids: Sequence[int], text: bytes | None, feature) -> list[str]:
  """Returns a line on what a vocabulary of pieces has no piece for, if any.

  Args:
    ids: the tokens, cut.
    text: that they are of, whole; None if the task does not keep it.
    feature: of the task.
  """
  vocabulary = feature.vocabulary
  pieces = getattr(vocabulary, 'tokenizer', None)
  if pieces is None or not hasattr(pieces, 'IsByte'):
    return []
  size = pieces.GetPieceSize()
  num_bytes = sum(i < size and pieces.IsByte(i) for i in ids)
  num_unknown = sum(i < size and pieces.IsUnknown(i) for i in ids)
  if not num_bytes + num_unknown:
    return []
  kinds = []
  if num_bytes:
    kinds.append(f'{num_bytes:,} tokens are single bytes')
  if num_unknown:
    kinds.append(f'{num_unknown:,} tokens are unknown (<unk>)')
  line = f'{" and ".join(kinds)}, for the vocabulary has no piece for'
  counts = collections.Counter(text.decode() if text else '')
  strange = {c: n for c, n in counts.items() if _lacks_piece(c, pieces)}
  shown = [
    f'{char!r} ({n:,})'
    for char, n in sorted(strange.items(), key=lambda item: -item[1])
  ]
  if len(shown) > _MAX_CHARACTERS:
    hidden = len(shown) - _MAX_CHARACTERS
    shown = [*shown[:_MAX_CHARACTERS], f'{hidden:,} more']
  return [f'{line} {", ".join(shown) or "some characters"} of the text']


def _lacks_piece(char: str, pieces) -> bool:
  """Whether a character alone becomes bytes, or unknown."""
  ids = pieces.EncodeAsIds(char)
  return any(pieces.IsByte(i) or pieces.IsUnknown(i) for i in ids)


def _tokens(ids: Sequence[int], vocabulary, in_color: bool) -> str:
  tail = 20
  hidden = len(ids) - _MAX_TOKENS
  if hidden > 0:
    head = _tokens(ids[: _MAX_TOKENS - tail], vocabulary, in_color)
    rest = _tokens(ids[-tail:], vocabulary, in_color)
    return f'{head}\n... {hidden:,} more ...\n{rest}'
  pieces = [_piece(i, vocabulary) for i in ids]
  if not in_color:
    return '|'.join(pieces)
  first_sentinel = vocabulary.vocab_size - getattr(vocabulary, 'extra_ids', 0)
  colored = []
  for position, (i, piece) in enumerate(zip(ids, pieces)):
    special = i <= 1 or i >= first_sentinel
    color = _SPECIAL if special else _COLORS[position % 2]
    colored.append(f'{color}{piece}{_RESET}')
  return ''.join(colored)


def _piece(token: int, vocabulary) -> str:
  """Returns a token's text; SentencePiece would drop its leading space."""
  pieces = getattr(vocabulary, 'tokenizer', None)
  if pieces is None:
    return vocabulary.decode([token])
  return pieces.IdToPiece(token).replace('▁', ' ')


def _state(found: on_disk.OnDisk, published: catalogue.DataSet | None) -> str:
  if found.missing_files:
    return f'{len(found.missing_files)} files missing'
  if not found.examples:
    others = ', '.join(found.other_versions)
    return f'missing (there is {others})' if others else 'missing'
  if published and dict(found.examples) != dict(published.examples):
    return 'other sizes than published'
  return 'whole'


def _to_fetch(data_set: catalogue.DataSet) -> str:
  if data_set.download_bytes:
    return f'{_bytes(data_set.download_bytes)} to fetch'
  return 'by hand' if data_set.by_hand else 'Beam job'


def _bytes(number: float) -> str:
  for unit in ('B', 'kB', 'MB', 'GB'):
    if number < 1000:
      return f'{number:.{0 if unit == "B" else 1}f} {unit}'
    number /= 1000
  return f'{number:.1f} TB'


def _table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
  widths = [max(map(len, column)) for column in zip(*rows)]
  lines = []
  for row in rows:
    cells = [
      cell.rjust(width) if i in right else cell.ljust(width)
      for i, (cell, width) in enumerate(zip(row, widths))
    ]
    lines.append('  '.join(cells).rstrip())
  return '\n'.join(lines)
