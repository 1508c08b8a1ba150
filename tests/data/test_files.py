"""Tasks from files of one's own: exact texts, whole splits, clear errors."""

import functools
import itertools
import json

import pyarrow as pa
import pytest
import seqio
from pyarrow import parquet

from gqa_flax.data import batches, file_rows, files, tasks
from gqa_flax.data.examples import read_examples
from gqa_flax.data.files import FilesError, files_task
from gqa_flax.evaluation import metrics

VOCABULARY = seqio.ByteVocabulary()
LENGTHS = {'inputs': 64, 'targets': 32}
FILES = {'train': '/nowhere/a.jsonl'}
EVERY_NUMBER = [f'{n:02}' for n in range(17)]


@pytest.fixture(autouse=True)
def clean_registry():
  yield
  seqio.TaskRegistry.remove('own')


@pytest.fixture
def number_task(tmp_path):
  """Makes a task of 17 rows in two files; the target is the row's number."""
  write_jsonl(tmp_path / 'n_0.jsonl', [{'n': n} for n in EVERY_NUMBER[:10]])
  write_jsonl(tmp_path / 'n_1.jsonl', [{'n': n} for n in EVERY_NUMBER[10:]])
  splits = {'train': f'{tmp_path}/n_*.jsonl', 'test': '/nowhere.jsonl'}
  return lambda: make_task(splits, '{n}', 'n {n}')


def write_jsonl(path, rows):
  lines = [json.dumps(row, ensure_ascii=False) + '\n' for row in rows]
  path.write_text(''.join(lines), encoding='utf-8')


def write_csv(path, rows):
  lines = [rows[0], *(row.values() for row in rows)]
  path.write_text(''.join(','.join(map(str, x)) + '\n' for x in lines))


def write_parquet(path, rows):
  parquet.write_table(pa.Table.from_pylist(rows), path)


WRITERS = {'jsonl': write_jsonl, 'csv': write_csv, 'parquet': write_parquet}


def make_task(*args, **kwargs):
  return tasks.get_task('own', VOCABULARY, files_task(*args, **kwargs))


def examples(task):
  return read_examples(task, 'train', 1000)


def texts(task, name='targets'):
  return [e[f'{name}_pretokenized'].decode() for e in examples(task)]


def read_line(folder, line, *args, **kwargs):
  """Returns the texts of a task on one line of JSON."""
  (folder / 'line.jsonl').write_text(line)
  (text,) = texts(make_task({'train': f'{folder}/*.jsonl'}, *args, **kwargs))
  return text


def decode(batch):
  ids = batch['decoder_target_tokens'].ravel()
  return VOCABULARY.decode([int(i) for i in ids if i > 1])


@pytest.mark.parametrize('name', WRITERS)
def test_every_format_gives_the_same_strings_and_tokens(tmp_path, name):
  rows = [
    {'question': 'Größe?', 'year': 1999, 'answer': '二', 'unused': 'x'},
    {'question': '{year}', 'year': -7, 'answer': ' b ', 'unused': 'y'},
  ]
  WRITERS[name](tmp_path / f'data.{name}', rows)
  task = make_task(
    {'train': f'{tmp_path}/data.{name}'},
    '{answer}',
    '{question} in {{{year}}}',
    prefix='say {this}: ',
  )
  assert texts(task, 'inputs') == [
    'say {this}: Größe? in {1999}',
    'say {this}: {year} in {-7}',
  ]
  assert texts(task) == ['二', ' b ']
  # ByteVocabulary: a byte is its value plus three; EOS is 1.
  first = examples(task)[0]
  assert first['targets'].tolist() == [*(b + 3 for b in '二'.encode()), 1]
  assert first['inputs'][:2].tolist() == [ord('s') + 3, ord('a') + 3]


def test_a_template_repeats_and_reorders_columns(tmp_path):
  read = functools.partial(read_line, tmp_path, '{"a": "x", "b": "y"}')
  assert read('{b}{a}{b}', '{a}') == 'yxy'
  assert read('{b}', '{a}') == 'y'
  assert read('{{a}} {a}', '{a}') == '{a} x'


def test_numbers_are_as_written_and_booleans_lower_case(tmp_path):
  line = '{"n": 1.50, "t": true, "f": false, "e": ""}'
  text = read_line(tmp_path, line, '{n} {t} {f} {e}.', '{n}')
  assert text == '1.50 true false .'
  write_parquet(tmp_path / 'a.parquet', [{'n': 1.5, 'i': 3, 't': True}])
  task = make_task({'train': f'{tmp_path}/a.parquet'}, '{n} {i} {t}', '{n}')
  assert texts(task) == ['1.5 3 true']


def test_a_split_is_read_when_it_is_used_and_once(number_task, monkeypatch):
  paths = []
  read = file_rows.read

  def spy(patterns, *args):
    paths.extend(patterns)
    return read(patterns, *args)

  monkeypatch.setattr(file_rows, 'read', spy)
  task = number_task()
  assert paths == []
  next(batches.train_batches(task, LENGTHS, 2, seed=0))
  assert texts(task) == EVERY_NUMBER
  assert len(paths) == 1 and paths[0].endswith('n_*.jsonl')


@pytest.mark.parametrize('number', [2, 3])
def test_processes_read_disjoint_and_complete_parts(
  number_task, number, as_processes
):
  task = number_task()

  def train():
    return batches.train_batches(
      task, LENGTHS, number, seed=0, pack=False, num_epochs=1
    )

  shards = [
    [decode(batch) for batch in process]
    for process in as_processes(train, number)
  ]
  assert sorted(itertools.chain(*shards)) == EVERY_NUMBER
  sizes = [len(shard) for shard in shards]
  assert max(sizes) - min(sizes) <= 1


def test_batches_go_on_with_the_next_example_after_a_restart(
  number_task, tmp_path
):
  def train():
    return batches.train_batches(
      number_task(), LENGTHS, 1, seed=3, pack=False, num_epochs=1
    )

  first = train()
  seen = [decode(next(first)) for _ in range(8)]
  first.save(tmp_path / 'saved')
  rest = [decode(batch) for batch in first]
  again = train()
  again.restore(tmp_path / 'saved')
  assert [decode(batch) for batch in again] == rest
  # None was lost, and none came twice, in an order that is not the files'.
  assert sorted(seen + rest) == EVERY_NUMBER
  assert seen != EVERY_NUMBER[:8]


def test_a_saved_iterator_does_not_hold_the_texts(tmp_path):
  write_jsonl(tmp_path / 'a.jsonl', [{'a': 'x' * 10_000}] * 1000)
  task = make_task({'train': f'{tmp_path}/a.jsonl'}, '{a}', '{a}')
  iterator = batches.train_batches(
    task, LENGTHS, 1, seed=0, pack=False, shuffle=False
  )
  next(iterator)
  iterator.save(tmp_path / 'saved')
  saved = [p for p in (tmp_path / 'saved').rglob('*') if p.is_file()]
  # The texts are 20 MB, of which a few are under way.
  assert saved and sum(p.stat().st_size for p in saved) < 5_000_000


def test_without_inputs_the_targets_spans_are_corrupted(tmp_path):
  write_jsonl(tmp_path / 'a.jsonl', [{'text': 'abcdefghij' * 20}])
  vocabulary = seqio.ByteVocabulary(extra_ids=100)
  spec = files_task({'train': f'{tmp_path}/a.jsonl'}, '{text}')
  task = tasks.get_task('own', vocabulary, spec)
  assert tasks.metric_name('own') is None
  lengths = {'inputs': 100, 'targets': 40}
  (example,) = task.get_dataset(lengths, shuffle=False, num_epochs=1).take(1)
  assert len(example['inputs']) == 100
  # A byte's id is at most 258: above are the sentinels.
  assert (example['inputs'].numpy() > 258).sum() > 1
  assert example['targets'][0] > 258


@pytest.mark.parametrize('name', ['jsonl', 'parquet'])
def test_a_column_of_answers_is_kept_as_lists(tmp_path, name):
  rows = [
    {'q': 'one', 'a': 'x', 'all': ['x', 'é']},
    {'q': 'two', 'a': 'y', 'all': ['y']},
  ]
  WRITERS[name](tmp_path / f'a.{name}', rows)
  task = make_task(
    {'train': f'{tmp_path}/a.{name}'},
    '{a}',
    '{q}',
    metric='trivia_qa',
    answers='all',
  )
  assert tasks.metric_name('own') == 'trivia_qa'
  answers = [[a.decode() for a in e['answers']] for e in examples(task)]
  assert answers == [['x', 'é'], ['y']]
  (batch,) = batches.train_batches(
    task, LENGTHS, 2, seed=0, pack=False, num_epochs=1
  )
  assert sorted(decode(batch)) == ['x', 'y']


def test_without_a_column_of_answers_the_target_is_the_only_one(tmp_path):
  write_csv(tmp_path / 'a.csv', [{'q': 'one', 'a': 'x'}])
  task = make_task(
    {'train': f'{tmp_path}/a.csv'}, '{a}', '{q}', metric='trivia_qa'
  )
  (example,) = examples(task)
  assert example['answers'].tolist() == [b'x']


@pytest.mark.parametrize('name', WRITERS)
def test_a_split_without_rows_is_left_to_the_batches(tmp_path, name):
  path = tmp_path / f'a.{name}'
  if name == 'parquet':
    parquet.write_table(pa.table({'n': pa.array([], pa.string())}), path)
  else:
    path.write_text('n\n' if name == 'csv' else '')
  for metric in (None, 'trivia_qa'):
    task = make_task({'train': str(path)}, '{n}', '{n}', metric=metric)
    with pytest.raises(ValueError, match="no examples in its split 'train'"):
      examples(task)


def test_the_metrics_are_those_that_evaluation_has():
  assert sorted(files.METRICS) == sorted(metrics.METRICS)


def fails(*args, **kwargs):
  with pytest.raises(FilesError) as error:
    files_task(*args, **kwargs)
  return str(error.value)


@pytest.mark.parametrize('value', ['data/a.jsonl', {}])
def test_files_are_given_by_split(value):
  assert fails(value, '{a}', '{a}') == (
    f'files is {value!r}: give paths by split, such as {{'
    "'train': 'data/train-*.jsonl', 'validation': 'data/dev.jsonl'}."
  )


@pytest.mark.parametrize(
  ('template', 'message'),
  [
    ('summary', 'which has no column'),
    ('{summary', "which is no template (expected '}' before end of string)"),
    ('a } b', "which is no template (Single '}' encountered in format string)"),
    *(
      (t, 'with more or less than the name of a column between braces')
      for t in ('{}', '{a:.2f}', '{a!r}')
    ),
  ],
)
def test_a_bad_template_is_one_sentence(template, message):
  for name, error in {
    'targets': fails(FILES, template, '{a}'),
    'inputs': fails(FILES, '{a}', template),
  }.items():
    assert error == (
      f'{name} is {template!r}, {message}: write a column as {{column}}, and a '
      'brace itself twice.'
    )


def test_what_is_unknown_is_named_with_the_nearest():
  assert fails(FILES, '{a}', '{a}', metric='rogue') == (
    "There is no metric 'rogue': did you mean rouge? There are rouge, bleu, "
    'chrf, trivia_qa.'
  )
  assert fails(FILES, '{a}', '{a}', format='json') == (
    "There is no format 'json': did you mean jsonl? There are jsonl, csv, "
    'parquet.'
  )


def test_arguments_that_do_not_go_together_are_refused():
  assert fails(FILES, '{a}', '{a}', metric='bleu', answers='b') == (
    "The answers 'b' are of no use to the metric bleu, which takes the target: "
    'leave answers out, or choose trivia_qa.'
  )
  assert fails(FILES, '{a}', prefix='summarize: ') == (
    "There are no inputs for the prefix 'summarize: ': give their template, or "
    'leave the prefix out.'
  )


@pytest.mark.parametrize(
  ('value', 'message'),
  [
    ('null', 'null: fill it in, or leave the row out.'),
    ('NaN', 'null: fill it in, or leave the row out.'),
    ('Infinity', 'inf: fill in a number, or leave the row out.'),
    ('-Infinity', '-inf: fill in a number, or leave the row out.'),
    ('["x"]', 'a list: make it a text or a number.'),
    ('{"x": 1}', 'a dict: make it a text or a number.'),
  ],
)
def test_what_is_no_text_is_named_by_file_line_and_column(
  tmp_path, value, message
):
  with pytest.raises(FilesError) as error:
    read_line(tmp_path, f'\n{{"n": {value}}}', '{n}', '{n}')
  assert str(error.value) == f"{tmp_path}/line.jsonl, line 2: 'n' is {message}"


@pytest.mark.parametrize('value', ['"x"', '[]', 'null'])
def test_answers_are_a_list(tmp_path, value):
  line = f'{{"n": 1, "all": {value}}}'
  with pytest.raises(FilesError, match="line 1: 'all' is .*: make it a list"):
    read_line(tmp_path, line, '{n}', '{n}', metric='trivia_qa', answers='all')


@pytest.mark.slow
def test_the_gin_file_trains_and_scores_what_its_macros_name(tmp_path, capsys):
  from gqa_flax import cli

  rows = [{'q': f'{i}', 'a': f'{i}', 'all': [f'{i}', 'x']} for i in range(9)]
  write_jsonl(tmp_path / 'train-0.jsonl', rows)
  write_parquet(tmp_path / 'dev.parquet', rows[:3])
  where = {
    'train': f'{tmp_path}/train-*.jsonl',
    'validation': f'{tmp_path}/dev.parquet',
  }
  own = [
    '--debug',
    '--gin_file=gin_configs/tasks/own_files.gin',
    f'--gin.FILES={where}',
    "--gin.INPUTS='say {q}'",
    "--gin.TARGETS='{a}'",
    '--gin.PREFIX=please: ',
    '--gin.METRIC=trivia_qa',
    '--gin.ANSWERS=all',
    '--gin.KEEP_BEST=validation/f1',
    '--gin.VOCABULARY=@seqio.ByteVocabulary()',
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 16, 'targets': 4}",
    '--gin.BATCH_SIZE=8',
  ]
  train = [
    'train',
    *own,
    '--gin_file=gin_configs/models/mini.gin',
    '--gin.VOCAB_SIZE=384',
    '--gin.config.T5Config.emb_dim=16',
    '--gin.config.T5Config.head_dim=2',
    '--gin.config.T5Config.mlp_dim=16',
    '--gin.config.T5Config.num_encoder_layers=1',
    '--gin.config.T5Config.num_decoder_layers=1',
    '--gin_file=gin_configs/runs/finetune.gin',
    '--gin.TRAIN_STEPS=1',
    '--gin.INITIAL_CHECKPOINT_PATH=None',
    f'--gin.MODEL_DIR={tmp_path}/model',
  ]
  assert cli.main(train) == 0
  log = (tmp_path / 'model' / 'metrics.jsonl').read_text().splitlines()
  assert any('validation/f1' in json.loads(line) for line in log)

  capsys.readouterr()
  evaluate = [
    'evaluate',
    *own,
    '--gin_file=gin_configs/runs/evaluate.gin',
    f'--gin.CHECKPOINT={tmp_path}/model',
    f'--gin.OUTPUT_DIR={tmp_path}/scores',
    '--json',
  ]
  assert cli.main(evaluate) == 0
  assert 'validation/exact_match' in json.loads(capsys.readouterr().out)
  lines = (tmp_path / 'scores' / 'predictions.jsonl').read_text().splitlines()
  predictions = [json.loads(line) for line in lines]
  assert [(p['inputs'], p['target']) for p in predictions] == [
    (f'please: say {i}', [f'{i}', 'x']) for i in range(3)
  ]
