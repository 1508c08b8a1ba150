"""report.md and the plot, from the records alone."""

import pathlib
import statistics
from collections.abc import Sequence

from experiments.input_pipeline import plots, summary
from experiments.input_pipeline.summary import STAGES, Task
from gqa_flax.reporting import records
from gqa_flax.reporting.tables import markdown_table, paragraph

# The paper's batch and lengths; `corpus`, which has them, loads TensorFlow.
PAPER = {
  'cnn_dailymail': (128, '512/256'),
  'arxiv': (128, '2048/512'),
  'wmt14_en_de': (128, '512/256'),
  'trivia_qa': (128, '2048/32'),
  'c4_span_corruption': (2048, '512/114, packed'),
}


def write(folder: pathlib.Path):
  """Writes report.md and stages.png.

  Raises:
    SystemExit: there are no records of any task to report on.
  """
  path = folder / 'records.jsonl'
  found = records.read(path)
  tasks = summary.tasks(summary.last_run(found)) if found else []
  if not tasks:
    raise SystemExit(
      f'{path} has no task with records of every kind: run `python -m '
      'experiments.input_pipeline`.'
    )
  plots.stage_bars(folder / 'stages.png', tasks)
  sections = (_head, _rates, _stages, _tokenizer, _feeding, _position)
  text = '\n'.join(section(tasks) for section in sections)
  (folder / 'report.md').write_text(text, encoding='utf-8')


def _head(tasks: Sequence[Task]) -> str:
  first = tasks[0].data
  every = [r for t in tasks for rates in t.rates.values() for r in rates]
  loads = [record['load'] for record in every]
  digest = first['vocabulary_sha256']
  vocabulary = (
    f'the SentencePiece model of SHA-256 {digest[:16]}…'
    if digest
    else 'the embedded one of 4,000 pieces'
  )
  return '# The input pipeline\n\n' + paragraph(f"""
    How many examples a second the pipeline makes, where its time goes, what it
    can feed, and how it resumes. Documents are introductions of Wikipedia
    joined to the lengths of the published data sets, as TFDS writes them (for
    WMT, English stands in for the German, too); the vocabulary is {vocabulary}.
    Every number is the median, with the lowest and the highest, of
    {len(tasks[0].rates['one'])} repeats ({len(tasks[0].positions)} for
    positions) that took turns, on {first['provenance']['cpus']} cores of a
    shared machine ({first['processor']}; load {min(loads):.1f} to
    {max(loads):.1f}, its own included). Made by experiments/input_pipeline.""")


def _rates(tasks: Sequence[Task]) -> str:
  header = (
    *('task', 'words an example', 'tokens in/out', 'examples/s, one core'),
    *('examples/s, all cores', 'tokens fed/s, one core'),
    *('cached: examples/s, one core', 'cached is faster'),
  )
  rows = []
  for task in tasks:
    data = task.data
    one, cached = task.seconds('batches'), task.seconds('cached')
    rows.append(
      (
        task.name,
        round(data['text_words'] / data['examples']),
        PAPER[task.name][1],
        str(one.per_second(data['examples'])),
        str(task.seconds('batches', 'all').per_second(data['examples'])),
        str(one.per_second(data['fed_tokens'])),
        str(cached.per_second(data['examples'])),
        f'{one.median / cached.median:.1f} times',
      )
    )
  waiting = [ratio for task in tasks for ratio in task.waiting()]
  text = f"""
    Whole epochs of `train_batches`, shuffled, from the records on disk (in the
    page cache) to NumPy arrays. One core: the process was bound to it, and a
    second is one of the core's own; on the clock an epoch took
    {statistics.median(waiting):.2f} times as long ({min(waiting):.2f} to
    {max(waiting):.2f}), for what else ran on the machine. All cores: seconds on
    the clock, slower by what else ran. {_documents_and_rows(tasks)} Tokens fed
    are those of the batches that are not padding. The cached form is that of
    `gqa-flax data prepare --cache`."""
  return f'## Rates\n\n{paragraph(text)}\n{markdown_table(header, rows)}'


def _documents_and_rows(tasks: Sequence[Task]) -> str:
  """Says how examples and rows differ where they do."""
  return ' '.join(
    f'An example of {task.name} is a document, of which '
    f'{task.data["examples"]:,} make {task.data["rows"]:,} rows.'
    for task in tasks
    if task.data['examples'] != task.data['rows']
  )


def _stages(tasks: Sequence[Task]) -> str:
  labels = [plots.LABELS[stage] for stage in STAGES]
  shares, rates = [], []
  for task in tasks:
    examples = task.data['examples']
    total = 1e6 * task.seconds('batches').median / examples
    parts = [f'{share:.0%}' for share in task.shares().values()]
    shares.append((task.name, round(total), *parts))
    for cores in ('one', 'all'):
      each = [task.seconds(s, cores).per_second(examples) for s in STAGES]
      rates.append((task.name, cores, *map(str, each)))
  text = """
    The pipeline cut off after each stage, on one core; a stage's share is what
    it adds to the stage before, by the medians. (Where noise made a part slower
    than the whole, it counts as the whole.)"""
  header = ('task', 'µs an example', *labels)
  cumulative = ('task', 'cores', *(f'… {label}' for label in labels))
  return (
    f'## Where the time goes\n\n{paragraph(text)}\n'
    f'{markdown_table(header, shares)}\n![Shares of the time](stages.png)\n\n'
    'Examples a second of the pipeline up to and with each stage:\n\n'
    f'{markdown_table(cumulative, rates)}'
  )


def _tokenizer(tasks: Sequence[Task]) -> str:
  header = (
    *('task', 'SentencePiece alone, MB/s', 'TensorFlow operation, MB/s'),
    *('stage of the pipeline, MB/s', 'tokens made, an example'),
    'tokens fed, an example',
  )
  rows = []
  for task in tasks:
    data = task.data
    megabytes = data['text_bytes'] / 1e6
    rows.append(
      (
        task.name,
        str(task.encoding('sentencepiece').per_second(megabytes)),
        str(task.encoding('operation').per_second(megabytes)),
        megabytes / task.stage_seconds()['tokenize'],
        round(data['text_tokens'] / data['examples']),
        round(data['fed_tokens'] / data['examples']),
      )
    )
  text = """
    The texts of the epoch in one call, on one core: by the library (C++, with
    Python's lists as its result) and by the operation that the pipeline calls
    once a text. SentencePiece alone bounds what tokenization on the fly can
    reach. What is made beyond the paper's lengths is thrown away: a task is
    tokenized before it is cut, as its cache requires."""
  return f'## The tokenizer\n\n{paragraph(text)}\n' + markdown_table(
    header, rows
  )


def _feeding(tasks: Sequence[Task]) -> str:
  header = (
    *('task', 'batch', 'µs a row, one core', 'cores at 1 step/s'),
    *('µs a row, cached', 'cores at 1 step/s, cached'),
  )
  rows = []
  for task in tasks:
    batch = PAPER[task.name][0]
    needed = []
    for stage in ('batches', 'cached'):
      microseconds = round(1e6 * task.cores_needed(1, stage))
      needed += [microseconds, task.cores_needed(batch, stage)]
    rows.append((task.name, batch, *needed))
  most = max(rows, key=lambda row: row[3])
  text = """
    Cores = rows of the paper's batch x seconds a row on one core x steps a
    second. This is for the whole batch: of H hosts, each reads its own part of
    the examples and needs a part in H. At S steps a second, multiply by S."""
  return (
    f'## What it feeds\n\n{paragraph(text)}\n{markdown_table(header, rows)}\n'
    f'The dearest is {most[0]}: {most[3]:.2f} cores in all at a step a '
    'second.\n'
  )


def _position(tasks: Sequence[Task]) -> str:
  header = (
    *('task', 'step', 'MB on disk', 'to save, ms', 'to restore, ms'),
    *('then to the next batch, ms', 'from the beginning, s'),
  )
  rows, growth = [], []
  for task in tasks:
    early, late = task.steps()
    restoring = [
      task.position(step, 'restore_seconds').median for step in (early, late)
    ]
    growth.append(restoring[1] / restoring[0])
    for step in (early, late):
      milliseconds = [
        str(task.position(step, f'{what}_seconds').times(1e3))
        for what in ('save', 'restore', 'first_batch')
      ]
      rows.append(
        (
          *(task.name, int(step)),
          str(task.position(step, 'bytes').times(1e-6)),
          *milliseconds,
          str(task.position(step, 'replay_seconds')),
        )
      )
  text = f"""
    `BatchIterator.save` and `restore`, in batches of 8 rows (a sixteenth of
    128), on all cores, in epochs without end; at the later step more than half
    of the first epoch has been read. "From the beginning" is the time to make
    the iterator and to take all batches up to the step. Restoring late takes
    {min(growth):.1f} to {max(growth):.1f} times as long as restoring early:
    nothing is replayed. The run fails if the first batch after a restore is
    not, value for value, the one that came after the save."""
  held = """
    A position holds what is drawn and not yet given out: the shuffle buffer of
    1,000 examples cut to their lengths, up to 256 examples in the tokenizer,
    which are not cut yet, and the rows that packing has begun. Saving waits for
    those 256."""
  table = markdown_table(header, rows)
  return (
    f'## The saved position\n\n{paragraph(text)}\n{table}\n{paragraph(held)}'
  )
