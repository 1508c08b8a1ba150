"""The report of experiments/training_knobs on records made up here."""

import dataclasses
import pathlib

import pytest

from experiments.training_knobs import (
  cells,
  compiled,
  measured,
  pages,
  report,
  startup,
  summary,
)
from gqa_flax.reporting import records
from gqa_flax.timing import tpu_compile
from gqa_flax.timing.cost import Cost

GIB = 2**30


def program(remat, microbatches, dtype, temporary, seconds):
  cost = Cost(
    slice=cells.SLICE,
    mesh=cells.MESH,
    fits=True,
    compile_seconds=1.0,
    compile_peak_bytes=1,
    argument_bytes=GIB,
    output_bytes=GIB,
    alias_bytes=GIB,
    temporary_bytes=temporary,
    flops=1.2e9,
    cycles=seconds * 1.05e9,
  )
  return {
    'what': 'program',
    'key': {
      'remat': remat,
      'microbatches': microbatches,
      'dtype': dtype,
      'rows': cells.ROWS,
    },
    'model_flops': 1e9,
    'cost': dataclasses.asdict(cost),
  }


def program_plan(record):
  planned = {'gradients': GIB, 'activations': 2 * GIB, 'recomputed': GIB}
  return {'what': 'program_plan', 'key': record['key'], 'planned': planned}


def plan(job, size, remat, gib):
  return {
    'what': 'plan',
    'key': {'job': job, 'size': size, 'remat': remat},
    'mesh': {'data': 1},
    'planned': {'activations': gib * GIB},
  }


PROGRAMS = [
  program('none', 1, 'bfloat16', 8 * GIB, 0.4),
  program('dots', 1, 'bfloat16', 4 * GIB, 0.5),
  program('full', 1, 'bfloat16', 2 * GIB, 0.6),
  program('full', 2, 'bfloat16', 1 * GIB, 0.66),
  program('full', 4, 'bfloat16', GIB // 2, 0.7),
  program('full', 1, 'float32', 4 * GIB, 0.8),
  program('none', 4, 'bfloat16', 2 * GIB, 0.44),
]
RECORDS = [
  *PROGRAMS,
  *map(program_plan, PROGRAMS),
  plan('uptraining', 'base', 'none', 10),
  plan('uptraining', 'base', 'dots', 5),
  plan('uptraining', 'base', 'full', 2),
  plan('uptraining', 'xxl', 'none', 90),
  plan('uptraining', 'xxl', 'dots', 40),
  plan('uptraining', 'xxl', 'full', 20),
]


@pytest.fixture
def text(tmp_path):
  for record in RECORDS:
    records.append(tmp_path / 'records.jsonl', record)
  report.write(tmp_path)
  assert (tmp_path / 'memory_and_time.png').stat().st_size > 1000
  return (tmp_path / 'report.md').read_text()


def test_defaults_follow_from_the_records(text):
  assert "'dots' 25% more time for 50% of the memory" in text
  assert "'full' 50% more time for 25% of the memory" in text
  assert "need another on TPU v4: uptraining xxl on 64 chips 'full'." in text
  assert '2 parts 1.0 GiB of temporaries and 0.660 s' in text
  assert (
    "'none' in 4 parts takes 3.0 GiB and 0.440 s, 'full' in one 3.0" in text
  )
  assert 'bfloat16 takes 75% of the time and 50% of the temporaries' in text
  assert 'donated: that saves 1.00 GiB a chip.' in text


def test_the_plan_is_compared_with_the_compiler(text):
  # 8 GiB of temporaries where 1 + 3 were planned, and half a GiB likewise.
  assert '0.12 to 2.00 times as much' in text
  assert '| none | bfloat16 | 9.0 | 8.0 | 0.400 | 20% | 4.0 | 2.00 |' in text
  assert '| uptraining | xxl | 64 | 90.0 | 40.0 | 20.0 | full |' in text


def test_what_was_not_measured_is_not_reported(text):
  assert 'CPU' not in text and 'COMPILATION_CACHE' not in text


def test_a_size_that_nothing_fits_says_so():
  found = summary.plans([plan('fine-tuning', 'xl', 'full', 99)])
  assert report._policies(found) == {('fine-tuning', 'xl'): 'none of them'}


def test_steps_and_starts_of_the_last_run(tmp_path):
  key = dataclasses.asdict(cells.Knobs('none', 1, 'float32'))
  for run, seconds in ((1, 9.0), (2, 1.0)):
    for dtype, factor in (('float32', 1), ('bfloat16', 3)):
      records.append(
        tmp_path / 'records.jsonl',
        {
          'what': 'step',
          'run': run,
          'key': {**key, 'dtype': dtype, 'repeat': 0},
          'seconds': [seconds * factor] * 3,
        },
      )
    for cache, factor in (('off', 3), ('cold', 4), ('warm', 1)):
      records.append(
        tmp_path / 'records.jsonl',
        {
          'what': 'startup',
          'run': run,
          'key': {'cache': cache, 'repeat': 0},
          'seconds': {
            'startup': seconds,
            'compilation': seconds * factor,
            'evaluation': 0.0,
          },
          'cache_bytes': 2**20,
        },
      )
    for kind, factor in (('small', 30), ('huge', 20), ('kept', 15)):
      records.append(
        tmp_path / 'records.jsonl',
        {
          'what': 'pages',
          'run': run,
          'key': {'pages': kind, 'repeat': 0},
          'steps': 100,
          'seconds': {'startup': 5.0, 'step': seconds * factor},
        },
      )
  report.write(tmp_path)
  text = (tmp_path / 'report.md').read_text()
  assert 'on this CPU bfloat16 takes 300% of the time of float32' in text
  assert '4.0 s without a cache, 5.0 s while one is filled, 2.0 s' in text
  assert '200 (200 to 200) ms with huge pages of memory and' in text
  assert '300 (300 to 300) ms without, 67%.' in text
  assert '150 (150 to 150) ms, 75%; what they do' in text


def test_without_records_it_says_how_to_make_them(tmp_path):
  with pytest.raises(
    SystemExit, match=r'python -m experiments\.training_knobs'
  ):
    report.write(tmp_path)


def test_what_fails_to_compile_is_tried_again_and_what_is_done_is_not(
  tmp_path, monkeypatch, capsys
):
  path, calls, broken = tmp_path / 'records.jsonl', [], {'dots'}

  def compile_train_step(step, where, mesh, log):
    remat = step.config.remat_policy
    calls.append((remat, step.microbatches))
    if remat in broken:
      raise RuntimeError('Compiling ended with status 1')
    return Cost(**program(remat, 1, 'bfloat16', GIB, 0.5)['cost'])

  monkeypatch.setattr(tpu_compile, 'compile_train_step', compile_train_step)
  monkeypatch.setattr(tpu_compile, 'version', lambda: '0.0')
  todo = [
    cells.Knobs(remat, parts, 'bfloat16')
    for remat, parts in (('none', 1), ('dots', 1), ('none', 2))
  ]

  def run(rows):
    compiled.compile_programs(path, cells.tpu_model(), rows, todo, None)

  run(16)
  assert 'ended with status 1' in capsys.readouterr().err
  broken.clear()
  run(16)
  assert calls == [('none', 1), ('dots', 1), ('none', 2), ('dots', 1)]
  run(32)  # another batch is another program
  assert len(calls) == 7
  found = records.read(path)
  assert [r['key']['rows'] for r in found] == [16] * 3 + [32] * 3
  assert (
    found[0]['step']['packed'] and found[0]['provenance']['libtpu'] == '0.0'
  )


def test_a_plan_is_recorded_where_it_is_news(tmp_path, monkeypatch):
  path, found = tmp_path / 'records.jsonl', {'activations': 1}
  monkeypatch.setattr(tpu_compile, 'version', lambda: '0.0')
  monkeypatch.setattr(
    compiled, 'plan', lambda **_: {'bytes': dict(found), 'mesh': {'data': 1}}
  )
  programs = [cells.Knobs('full', 1, 'bfloat16')]
  jobs = [cells.PlanCell('uptraining', 'base', 'full')]

  def run():
    compiled.plan_programs(path, cells.tpu_model(), 16, programs)
    compiled.plan_jobs(path, jobs)
    return [
      (r['what'], r['planned']['activations']) for r in records.read(path)
    ]

  first = [('program_plan', 1), ('plan', 1)]
  assert run() == first
  assert run() == first
  found['activations'] = 2
  assert run() == [*first, ('program_plan', 2), ('plan', 2)]
  assert summary.plans(records.read(path))[0].planned == {'activations': 2}


def test_a_run_of_the_other_part_goes_on_with_what_is_missing(
  tmp_path, monkeypatch
):
  path, caches = tmp_path / 'records.jsonl', []

  def start(cache):
    caches.append(None if cache is None else cache.exists())
    if cache is not None:
      cache.mkdir(exist_ok=True)
    return {'seconds': {'startup': 1.0}, 'loss': 1.0}

  monkeypatch.setattr(startup, '_start', start)
  startup.time_startups(path, ['off', 'cold'], 1, 1)
  assert caches == [None, False]
  # The cold start was of an earlier call: one more run fills the folder again.
  startup.time_startups(path, cells.CACHES, 1, 1)
  assert caches[2:] == [False, True]
  startup.time_startups(path, cells.CACHES, 2, 1)
  assert caches[4:] == [None, False, True]
  keys = [tuple(record['key'].values()) for record in records.read(path)]
  assert keys == [(cache, n) for n in (0, 1) for cache in cells.CACHES]
  startup.time_startups(path, ['off'], 1, 2)  # another run begins anew
  assert records.read(path)[-1]['run'] == 2


def test_the_kinds_of_pages_take_turns(tmp_path, monkeypatch):
  path, tunables = tmp_path / 'records.jsonl', []

  def train(command, model_dir, **variables):
    tunables.append(variables.get('GLIBC_TUNABLES'))
    return {'startup': 5.0, 'step': 30.0}

  monkeypatch.setattr(startup, 'train', train)
  pages.time_pages(path, 1, 1)
  pages.time_pages(path, 2, 1)
  huge, kept = (
    cells.PAGES[kind]['GLIBC_TUNABLES'] for kind in ('huge', 'kept')
  )
  assert tunables == 2 * [None, huge, kept]
  keys = [tuple(record['key'].values()) for record in records.read(path)]
  assert keys == [(kind, n) for n in (0, 1) for kind in cells.PAGES]


def test_make_takes_the_same_pages():
  makefile = pathlib.Path(__file__).parents[2] / 'Makefile'
  for name, value in cells.PAGES['huge'].items():
    assert f'export {name} ?= {value}\n' in makefile.read_text()


def test_the_environment_that_is_measured_is_not_the_caller_s():
  variables = {
    'GLIBC_TUNABLES': 'x',
    'JAX_COMPILATION_CACHE_DIR': 'y',
    'A': 'z',
  }
  assert startup._environment(variables) == {'A': 'z', 'JAX_PLATFORMS': 'cpu'}


@pytest.mark.slow
def test_steps_take_turns_and_only_missing_ones_run(tmp_path, tiny_config):
  path = tmp_path / 'records.jsonl'
  model = dataclasses.replace(tiny_config, num_decoder_layers=1)
  donated, kept = (
    cells.Knobs('none', 1, 'float32', donated=d) for d in (True, False)
  )
  measured.time_steps(path, model, 4, [donated], 1, 1)
  measured.time_steps(path, model, 4, [donated, kept], 2, 1)
  found = records.read(path)
  told = [(r['key']['donated'], r['key']['repeat']) for r in found]
  assert told == [(True, 0), (False, 0), (True, 1), (False, 1)]
  for record in found:
    assert len(record['seconds']) == measured.STEPS
    assert (record['alias_bytes'] > 0) == record['key']['donated']
  measured.time_steps(path, model, 4, [donated, kept], 2, 1)
  assert records.read(path) == found
