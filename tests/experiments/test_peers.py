"""Both libraries on a small model, and the report of made-up records."""

import json
import os
import sys

import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip('torch', reason='needs torch: the extra hf')

import torch

from experiments.peers import __main__ as experiment
from experiments.peers import (
  decoding,
  machine,
  measure,
  models,
  report,
  summary,
  training,
)
from experiments.training_knobs.cells import PAGES

CELL = models.Cell('mini', 2, 12, 6)


@pytest.fixture
def one_thread(monkeypatch):
  """Threads that wait for each other take long where tests share a machine."""
  monkeypatch.setattr(measure, '_REST_SECONDS', 0)
  before = torch.get_num_threads()
  torch.set_num_threads(1)
  yield
  torch.set_num_threads(before)


@pytest.mark.slow
def test_both_decode_the_same_tokens(one_thread):
  found = decoding.run(CELL, 1, ['sdpa'])
  agreement = found['agreement']['transformers, sdpa']
  assert agreement['equal_tokens'] == 1 and not agreement['first_difference']
  # Were all tokens one and the same, equal ones would say little.
  assert agreement['different_tokens_decoded'] >= 6
  difference = agreement['largest_logit_difference']
  assert difference < min(1e-5, agreement['smallest_margin'])
  ours = ['gqa_flax MHA', 'gqa_flax GQA-2', 'gqa_flax MQA']
  heads = [found['contestants'][name]['num_kv_heads'] for name in ours]
  assert heads == [8, 2, 1]
  seconds = found['seconds']
  assert list(seconds['decode']) == ['transformers, sdpa', *ours]
  assert list(seconds['encode']) == ['transformers, sdpa', 'gqa_flax MHA']
  for part in seconds.values():
    assert all(len(times) == 1 and times[0] > 0 for times in part.values())


def test_eos_ends_nothing_in_either(one_thread):
  config, batch = CELL.config, CELL.batch()
  params = models.random_params(config)
  source = jnp.asarray(batch['encoder_input_tokens'])

  def ours():
    model, same = models.grouped(params, config, config.num_heads)
    return decoding.decode_ours(model, same, source, CELL.target_length)

  first = int(ours()[0, 0])
  # The token that the first row begins with changes places with EOS.
  head = params['decoder']['logits_dense']
  kernel = head['kernel']
  columns = jnp.array([first, 1])
  head['kernel'] = kernel.at[:, columns].set(kernel[:, columns[::-1]])
  tokens = ours()
  assert tokens[0, 0] == 1 and np.all(tokens[0, 1:] > 0)
  theirs = models.in_transformers(params, config, ['eager'])['eager']
  expected = decoding.decode_theirs(theirs, batch, CELL.target_length)
  np.testing.assert_array_equal(tokens, expected)


@pytest.mark.slow
def test_both_train_with_the_same_losses(one_thread):
  found = training.run(CELL, 1, ['sdpa'])
  theirs, ours = found['losses'].values()
  assert list(found['losses']) == ['transformers, sdpa', 'gqa_flax MHA']
  np.testing.assert_allclose(theirs[0], ours[0], rtol=1e-5)
  # After updates by two implementations of Adafactor; theirs factors small
  # matrices as well.
  np.testing.assert_allclose(theirs, ours, rtol=1e-3)
  assert ours[0] - ours[-1] > 0.1
  assert list(found['seconds']) == ['step', 'gradients']


def test_another_model_is_not_timed():
  models.check_same(1e-5, 'it')
  training.check_first(10.0, 10.0005, 'it')
  for difference in (0.1, float('nan')):
    with pytest.raises(RuntimeError, match='not the same model'):
      models.check_same(difference, 'it')
  for loss in (10.01, float('nan')):
    with pytest.raises(RuntimeError, match='first loss of it is'):
      training.check_first(loss, 10.0, 'it')


def test_tokens_are_compared_by_position():
  expected = np.array([[5, 6, 7, 8], [5, 6, 7, 8]])
  found = np.array([[5, 6, 7, 9], [5, 1, 1, 8]])
  assert decoding.compare_tokens(expected, found) == {
    'equal_tokens': 5 / 8,
    'first_difference': {'position': 1, 'row': 1},
    'different_tokens_decoded': 4,
  }
  with pytest.raises(ValueError, match='decode both to one length'):
    decoding.compare_tokens(expected, found[:, :3])


def test_contestants_take_turns_and_each_begins_a_round(monkeypatch):
  monkeypatch.setattr(measure, '_REST_SECONDS', 0)
  calls = []

  def call(name):
    return lambda: calls.append(name) or len(calls)

  contestants = {
    'all': {'a': call('a'), 'b': call('b')},
    'part': {'a': call('c')},
  }
  first, results = measure.warm_up(contestants)
  assert list(first['all']) == ['a', 'b'] and first['part']['a'] >= 0
  assert results['part'] == {'a': [5, 6]}
  found = measure.take_turns(contestants, 3)
  assert ''.join(calls) == 'aabbcc' + 'abc' + 'bca' + 'cab'
  assert {part: list(x) for part, x in found['seconds'].items()} == {
    'all': ['a', 'b'],
    'part': ['a'],
  }
  assert all(len(found['seconds']['all'][name]) == 3 for name in 'ab')


def test_the_share_of_other_programs(monkeypatch):
  ticks = iter([(1000, 5000), (1300, 6000), (1300, 6000)])
  own = iter([1.0, 2.0])
  monkeypatch.setattr(machine, '_ticks', lambda: next(ticks))
  monkeypatch.setattr(machine.time, 'process_time', lambda: next(own))
  per_second = os.sysconf('SC_CLK_TCK')
  expected = (300 - per_second) / 1000
  assert machine.Others().share() == pytest.approx(expected)


def test_more_threads_than_processors_are_refused():
  with pytest.raises(SystemExit, match='give --threads='):
    machine.pin(10_000)


def record(what, seconds, **fields):
  """A made-up record; the first two names are of transformers."""
  names = list(next(iter(seconds.values())))
  libraries = ['transformers'] * 2 + ['gqa_flax'] * (len(names) - 2)
  return {
    'experiment': 'peers',
    'what': what,
    **{'size': 'small', 'batch_size': 8, 'source_length': 512},
    'target_length': 128 if what == 'decoding' else 114,
    **{'dropout_rate': 0.0, 'threads': 2, 'repeats': 3},
    'contestants': {
      name: {'library': library} for name, library in zip(names, libraries)
    },
    'seconds': seconds,
    'first_call_seconds': {part: dict.fromkeys(names, 9) for part in seconds},
    **{'load_before': 0.25, 'load_after': 1.75, 'others_share': 0.02},
    'machine': {'processor': 'A CPU', 'versions': {'torch': '1.2'}},
    'provenance': {
      'time': '2026-01-02T03:04:05Z',
      'git_revision': '0123456789abcdef-dirty',
      **{'versions': {'jax': '3.4'}, 'cpus': 2},
    },
    **fields,
  }


SLOW, FAST = 'transformers, eager', 'transformers, sdpa'
MHA, GQA, MQA = 'gqa_flax MHA', 'gqa_flax GQA-2', 'gqa_flax MQA'


def decoding_record(**fields):
  agreement = {
    'equal_tokens': 0.75,
    'first_difference': {'position': 3, 'row': 5},
    'largest_logit_difference': 2e-5,
    'smallest_margin': 1e-6,
  }
  seconds = {
    'decode': {
      SLOW: [20.0, 20.0, 20.0],
      FAST: [12.0, 10.0, 14.0],
      MHA: [6.0, 10.0, 7.0],
      GQA: [7.0, 7.0, 7.0],
      MQA: [4.0, 4.0, 4.0],
    },
    'encode': {SLOW: [2.0] * 3, FAST: [1.0] * 3, MHA: [0.6] * 3},
  }
  return record(
    'decoding', seconds, **{'agreement': {FAST: agreement}, **fields}
  )


def training_record(**fields):
  seconds = {
    'step': {SLOW: [4.0] * 3, FAST: [3.0] * 3, MHA: [2.0] * 3},
    'gradients': {SLOW: [3.0] * 3, FAST: [2.0] * 3, MHA: [1.75] * 3},
  }
  losses = {FAST: [10.5, 10.25], MHA: [10.5, 10.125]}
  return record('training', seconds, losses=losses, **fields)


def test_ratios_by_hand():
  run = summary.Run(decoding_record())
  assert run.fastest_of_theirs() == FAST
  # 12 / 7; within rounds 2, 1 and 2.
  ratio = run.ratio(MHA)
  assert ratio == summary.Ratio(pytest.approx(12 / 7), 2.0, 1.0, 2.0)
  assert run.seconds(FAST) == summary.Spread(12.0, 11.0, 13.0)
  # The grouped models have the encoder of the multi-head one.
  assert run.rest_seconds(MQA) == pytest.approx(4 - 0.6)
  assert run.rest_seconds(FAST) == 11.0


def reported(folder, *found):
  path = folder / 'records.jsonl'
  path.write_text(''.join(json.dumps(r) + '\n' for r in found))
  report.write(folder)
  return (folder / 'report.md').read_text()


def test_the_report_says_what_the_records_say(tmp_path):
  old = decoding_record(size='mini')
  text = reported(tmp_path, old, decoding_record(), training_record())
  assert 'A CPU; the machine has 2 processors): torch 1.2, jax 3.4.' in text
  for name, verb, times, slower, tokens, target in (
    (MHA, 'decodes', '1.71', '2.86', 128, '1.5 times, is met'),
    (GQA, 'decodes', '1.71', '2.86', 128, '2 times, is **not met**'),
    (MQA, 'decodes', '3.00', '5.00', 128, '2 times, is met'),
    (MHA, 'takes a training step', '1.50', '2.00', 114, '1 times, is met'),
  ):
    assert (
      f'- {name} {verb} {times} times as fast as {FAST}, the fastest of '
      f'theirs; {slower} times as fast as {SLOW} (small, batch 8, '
      f'512 / {tokens} tokens, 2 threads). The target, at least {target}.\n'
    ) in text
  # Seconds with quartiles; the decoder's milliseconds a token, 6.4 s / 128.
  assert (
    f'| {MHA} | 7.00 (6.50 to 8.50) | 1.71 | 2.00 (1.00 to 2.00) | '
    '0.6 (0.6 to 0.6) | 50.0 | 9.00 |'
  ) in text
  assert 'decodes 75.00%, the first other one at position 3 of row 5' in text
  assert f'{MHA} 10.5000, 10.1250.' in text
  assert 'other programs took 2% of these processors' in text
  # All runs are told of, of whatever size.
  assert text.count('| 2026-01-02T03:04:05Z | 0123456789-dirty |') == 3
  assert '### mini, batch 8' in text
  assert text.index('### small') < text.index('### mini')
  plot = tmp_path / 'seconds.png'
  assert plot.stat().st_size > 10_000
  again = text, plot.read_bytes()
  report.write(tmp_path)
  assert again == ((tmp_path / 'report.md').read_text(), plot.read_bytes())


def test_the_report_says_which_pages_both_had(tmp_path):
  plain, huge, other = (decoding_record() for _ in range(3))
  for record, tunables in (
    (huge, PAGES['huge']['GLIBC_TUNABLES']),
    (other, 'glibc.malloc.check=1'),
  ):
    record['machine'] = {**record['machine'], 'glibc_tunables': tunables}
  assert 'Both had' not in reported(tmp_path, huge, plain)
  assert 'Both had' not in reported(tmp_path, other)
  text = reported(tmp_path, plain, other, huge)
  assert 'meanwhile. Both had huge pages of memory, given back' in text
  pages = [
    line.split(' | ')[4] for line in text.splitlines() if '| 2026-' in line
  ]
  assert pages == ['small', 'other', 'huge']


@pytest.mark.parametrize('kind', PAGES)
def test_it_begins_again_with_the_pages_that_are_wanted(kind, monkeypatch):
  begun = []
  monkeypatch.setattr(os, 'execve', lambda *given: begun.append(given))
  monkeypatch.setattr(sys, 'argv', ['peers', '--what', 'decoding'])
  monkeypatch.setenv('GLIBC_TUNABLES', 'glibc.malloc.check=1')
  experiment.set_pages(kind)
  program, command, environment = begun.pop()
  assert program == command[0] == sys.executable
  assert command[2:] == ['experiments.peers', '--what', 'decoding']
  tunables = PAGES[kind].get('GLIBC_TUNABLES')
  assert environment.get('GLIBC_TUNABLES') == tunables
  assert environment['PATH'] == os.environ['PATH']
  monkeypatch.setattr(os, 'environ', environment)
  experiment.set_pages(kind)
  assert not begun


def test_a_disturbed_run_decides_nothing_and_the_last_run_counts(tmp_path):
  text = reported(tmp_path, decoding_record(others_share=0.25))
  assert text.count('is undecided: other programs took 25%') == 3
  assert (
    f'- {MHA}, training (small, batch 8, 512 / 114 tokens, 2 threads): not'
    in text
  )
  text = reported(
    tmp_path, decoding_record(others_share=0.25), decoding_record()
  )
  assert 'is undecided' not in text


def test_nothing_to_report_is_said(tmp_path):
  with pytest.raises(SystemExit, match='has no records: run `python -m'):
    report.write(tmp_path)


def test_a_run_leaves_a_record_of_each_measurement(tmp_path, monkeypatch):
  monkeypatch.setattr(machine, 'pin', lambda threads: [0, 1][:threads])
  monkeypatch.setattr(machine, 'limit_torch', lambda threads: None)
  cells = []
  for module in (decoding, training):
    monkeypatch.setattr(
      module,
      'run',
      lambda cell, repeats, variants: (
        cells.append(cell) or {'seconds': [repeats, *variants]}
      ),
    )
  path = tmp_path / 'records.jsonl'
  experiment.run(path, experiment.parse(['--repeats=5', '--size=base']))
  found = [json.loads(line) for line in path.read_text().splitlines()]
  assert [r['what'] for r in found] == ['decoding', 'training', 'training']
  assert [summary.key(r)[1:] for r in found] == [
    ('base', 8, 512, 128, 0.0, 2),
    ('base', 8, 512, 114, 0.0, 2),
    ('base', 8, 512, 114, 0.1, 2),
  ]
  assert [cell.size for cell in cells] == ['base'] * 3
  assert found[0]['seconds'] == [5, 'sdpa', 'eager', 'compiled']
  assert found[0]['num_heads'] == 12
  assert found[0]['machine']['versions']['torch'] == torch.__version__
  assert found[0]['provenance']['versions']['jax']


def test_no_rounds_are_refused(capsys):
  with pytest.raises(SystemExit):
    experiment.parse(['--repeats=0'])
  assert 'give 1 or more' in capsys.readouterr().err
