"""Tables as Markdown and as CSV, and paragraphs."""

import csv
import io
from collections.abc import Sequence


def markdown_table(
  header: Sequence[str], rows: Sequence[Sequence[str | float | int]]
) -> str:
  """Returns a Markdown table; numbers align right, floats have two decimals.

  Args:
    header: column names.
    rows: one value a column each.

  Raises:
    ValueError: if a row has more or fewer values than the header.
  """
  for row in rows:
    if len(row) != len(header):
      raise ValueError(
        f'The row {list(row)} has {len(row)} values for {len(header)} columns; '
        'give one value a column.'
      )
  numeric = [
    bool(rows) and all(isinstance(row[i], int | float) for row in rows)
    for i in range(len(header))
  ]
  rule = ['---:' if right else '---' for right in numeric]
  lines = [header, rule, *([_cell(x) for x in row] for row in rows)]
  return ''.join(f'| {" | ".join(line)} |\n' for line in lines)


def csv_table(
  header: Sequence[str], rows: Sequence[Sequence[str | float | int]]
) -> str:
  """Returns the same as CSV, numbers in full."""
  file = io.StringIO()
  csv.writer(file, lineterminator='\n').writerows([header, *rows])
  return file.getvalue()


def paragraph(text: str) -> str:
  """Returns a text of several lines as one, with a new line at its end."""
  return ' '.join(text.split()) + '\n'


def _cell(value) -> str:
  if isinstance(value, float):
    return f'{value:,.2f}'
  return f'{value:,}' if isinstance(value, int) else str(value)
