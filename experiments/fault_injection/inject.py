"""The undisturbed run, the kills, and the comparison."""

import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import time

from experiments.fault_injection import job, schedule
from gqa_flax.reporting import records

SURVIVOR_SECONDS = 60.0
_ATTEMPT_SECONDS = 600.0  # for a startup or for steps that never come
_POLL_SECONDS = 0.02
_MOST_FAILURES = 3


class FaultInjectionError(RuntimeError):
  """A run that was not killed did not come to its end."""


def run(
  work_dir: pathlib.Path,
  results: pathlib.Path,
  num_kills: int,
  seed: int = 0,
  minutes: float | None = None,
) -> bool:
  """Trains undisturbed, trains again with kills, compares, and records both.

  Args:
    work_dir: gets the runs; what is there is gone on with.
    results: gets records.jsonl, and kills.jsonl with a line for each kill and
      for each attempt that ended by itself before its kill, which the next
      attempt then gets.
    num_kills: how many.
    seed: of the moments.
    minutes: after which no more kills are begun; None waits for all.

  Returns:
    Whether all is equal.

  Raises:
    FaultInjectionError: if the undisturbed or the last attempt fails.
  """
  begin = time.time()
  kills = schedule.draw(num_kills, job.CHECKPOINT_EVERY, seed)
  steps = schedule.train_steps(kills, job.CHECKPOINT_EVERY)
  injector = _Injector(work_dir, results / 'kills.jsonl', steps, seed)
  startup_seconds = injector.finish('reference')
  deadline = None if minutes is None else begin + 60 * minutes
  injector.kill_all(kills, startup_seconds, deadline)
  injector.finish('killed')

  # Only now: it loads JAX, and two processes want the memory before.
  from experiments.fault_injection import compare

  done = [k for k in records.read(injector.kills) if k['seed'] == seed]
  found = compare.runs(work_dir / 'reference', work_dir / 'killed', steps, done)
  record = {
    'experiment': 'fault_injection',
    'kills_planned': num_kills,
    'seed': seed,
    'train_steps': steps,
    'checkpoint_every': job.CHECKPOINT_EVERY,
    'heartbeat_seconds': job.HEARTBEAT_SECONDS,
    'bindings': job.BINDINGS,
    **found,
    'equal': all(found['checks'].values()),
    'attempts': injector.attempts(),
    'wall_seconds': round(time.time() - begin, 1),
    'load': round(os.getloadavg()[0], 2),
    'provenance': records.provenance('cpu', 8),
  }
  records.append(results / 'records.jsonl', record)
  for check, holds in found['checks'].items():
    print('yes' if holds else 'NO ', check, flush=True)
  return record['equal']


class _Injector:
  """Starts attempts, kills them, and writes what came of it."""

  def __init__(self, work_dir, kills, steps, seed):
    self.work_dir, self.kills = work_dir, kills
    self._steps, self._seed = steps, seed
    self._model_dir = work_dir / 'killed'
    self._pending = None

  def finish(self, name: str) -> float:
    """Runs to the end without a kill; returns the seconds to the first step.

    Raises:
      FaultInjectionError: if it ends otherwise.
    """
    print(f'{name}: to step {self._steps}', flush=True)
    attempt = self._start(name, 'last', job.PATIENT_HEARTBEAT_SECONDS)
    model_dir = self.work_dir / name
    startup = None
    while None in attempt.statuses():
      attempt.look()
      self._complete(attempt)
      if attempt.first_step != attempt.step and startup is None:
        startup = time.time() - attempt.start
      if any(attempt.statuses()):
        break
      time.sleep(_POLL_SECONDS)
    attempt.look()
    self._complete(attempt)
    ended = attempt.wait(SURVIVOR_SECONDS)
    statuses = attempt.statuses()
    attempt.kill([i for i, status in enumerate(statuses) if status is None])
    latest = job.listing(model_dir).latest
    if not ended or any(statuses) or latest != self._steps:
      raise FaultInjectionError(
        f'The attempt without a kill in {model_dir} ended with {statuses} at '
        f'checkpoint {latest} of {self._steps}; see {attempt.logs[0]} and '
        f'the other beside it. {attempt.tail()}'
      )
    return startup or 20.0

  def kill_all(self, kills, startup_seconds, deadline):
    """Kills as drawn, from where an earlier call has stopped."""
    from experiments.fault_injection import compare

    self._reference = compare.losses(self.work_dir / 'reference')
    done = [r for r in records.read(self.kills) if r['seed'] == self._seed]
    failures, struck = 0, len(schedule.struck(done))
    for count in itertools.count(len(done)):
      if struck == len(kills):
        return
      if deadline is not None and time.time() > deadline:
        print('no time for more kills', flush=True)
        return
      kill = kills[struck]
      attempt = self._start('killed', f'{count:03d}')
      before = self._until(attempt, kill, startup_seconds)
      if before is None and kill.phase == 'steps':
        startup_seconds = self._first_logged - attempt.start
      if before == [0, 0]:
        print('the run is at its end before the last kill', flush=True)
        return
      record = self._strike(struck, attempt, kill, before)
      self._pending = record
      struck += before is None  # or the next attempt is killed so
      failed = before is not None or record['survivor_in_time'] is False
      failures = failures + 1 if failed else 0
      if failures == _MOST_FAILURES:
        self._complete(None)
        raise FaultInjectionError(
          f'{failures} attempts in a row went wrong; see {self.kills} and '
          f'{attempt.logs[0]}. {attempt.tail()}'
        )

  def _start(self, name, number, heartbeat_seconds=job.HEARTBEAT_SECONDS):
    return job.Attempt(
      self.work_dir / name,
      self.work_dir / 'cache',
      self.work_dir / 'logs' / f'{name}_{number}',
      self._steps,
      heartbeat_seconds,
    )

  def _until(self, attempt, kill, startup_seconds):
    """Waits for the moment; returns the statuses if one ended before it."""
    self._first_logged = None
    while True:
      attempt.look()
      self._complete(attempt)
      now = time.time()
      if any(status is not None for status in attempt.statuses()):
        attempt.wait(SURVIVOR_SECONDS)
        attempt.look()
        return attempt.statuses()
      if attempt.step != attempt.first_step and self._first_logged is None:
        self._first_logged = now
      if now > attempt.start + _ATTEMPT_SECONDS:
        return attempt.statuses()
      if kill.phase == 'startup':
        if now >= attempt.start + kill.fraction * startup_seconds:
          return None
      elif attempt.step is not None:
        if attempt.step >= attempt.first_step + kill.steps:
          time.sleep(kill.seconds)
          return None
      time.sleep(_POLL_SECONDS)

  def _strike(self, number, attempt, kill, before):
    """Kills, waits for the survivor, and returns the record."""
    joined = attempt.joined()
    when = time.time()
    attempt.kill(kill.victims)
    at_kill = job.listing(self._model_dir)
    # Who has not been joined waits for the other to be started again.
    in_time = None
    seconds = None
    if len(kill.victims) == 1 and joined:
      in_time = attempt.wait(SURVIVOR_SECONDS)
      seconds = round(time.time() - when, 2)
    survivor = 1 - kill.victims[0] if len(kill.victims) == 1 else None
    status = None if survivor is None else attempt.statuses()[survivor]
    attempt.kill([0, 1])
    attempt.wait(SURVIVOR_SECONDS)
    attempt.look()
    self._complete(attempt)
    after = job.listing(self._model_dir)
    return {
      'experiment': 'fault_injection',
      'seed': self._seed,
      'kill': number,
      'victims': list(kill.victims),
      'drawn': dataclasses.asdict(kill),
      'time': round(when, 3),
      'seconds_after_start': round(when - attempt.start, 2),
      'joined': joined,
      'ended_before': before,
      'first_step': attempt.first_step,
      'step': attempt.step,
      'latest_checkpoint': at_kill.latest,
      'temporary': at_kill.temporary,
      'survivor_status': status,
      'survivor_seconds': seconds,
      'survivor_in_time': in_time,
      'latest_after': after.latest,
      'temporary_after': after.temporary,
      'corrupt': after.corrupt,
      'losses_equal': self._losses_equal(attempt.first_step),
    }

  def _losses_equal(self, first) -> bool:
    from experiments.fault_injection import compare

    if first is None:
      return True
    found = compare.losses(self._model_dir, first)
    return all(self._reference.get(s) == x for s, x in found.items())

  def _complete(self, attempt):
    """Writes the last kill, once it is known where the next attempt began."""
    if self._pending is None:
      return
    first = None if attempt is None else attempt.first_step
    ended = attempt is None or None not in attempt.statuses()
    if first is None and not ended:
      return
    record = {**self._pending, 'went_on_from': first}
    self._pending = None
    records.append(self.kills, record)
    print(
      f'kill {record["kill"]} of {record["victims"]} at step {record["step"]}'
      f' ({record["seconds_after_start"]} s, checkpoint'
      f' {record["latest_checkpoint"]}, writing {record["temporary"]}):'
      f' survivor {record["survivor_status"]} after'
      f' {record["survivor_seconds"]} s; went on from {first}',
      flush=True,
    )

  def attempts(self) -> list[list[float]]:
    """Returns (start, first line, first step, last line, last step) of each."""
    from gqa_flax.training import goodput

    lines: dict[str, list[dict]] = {}
    file = self._model_dir / goodput.GOODPUT_FILE
    for text in file.read_text().splitlines():
      with contextlib.suppress(json.JSONDecodeError):  # a kill has torn it
        line = json.loads(text)
        lines.setdefault(line['attempt'], []).append(line)
    return [
      [
        round(own[0]['start'], 2),
        round(own[0]['time'], 2),
        own[0]['steps'][0],
        round(own[-1]['time'], 2),
        own[-1]['steps'][1],
      ]
      for own in lines.values()
    ]
