"""Evaluates a checkpoint, or infers with it."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import seqio
from etils import epath

from gqa_flax import partitioning
from gqa_flax.checkpoints import hub, native, restoring
from gqa_flax.checkpoints.architecture import abstract_params
from gqa_flax.data.vocabulary import check_ids
from gqa_flax.evaluation import decoding, identity, predictions
from gqa_flax.evaluation.partial import NAME as PARTIAL
from gqa_flax.evaluation.partial import Partial
from gqa_flax.evaluation.task_score import TaskScore
from gqa_flax.inference import EOS_ID, precision
from gqa_flax.inference.decode import greedy_decode
from gqa_flax.model.network import Transformer
from gqa_flax.partitioning import hosts
from gqa_flax.runtime import status
from gqa_flax.runtime.owner import Owner
from gqa_flax.training import checks, progress

__all__ = ['TaskScore', 'evaluate', 'infer']


def evaluate(
  *,
  checkpoint: str,
  evaluators: Sequence[Callable],
  output_dir: str,
  settings: str = '',
  best_by: str | None = None,
  mesh: partitioning.MeshShape | None = None,
  cache_sharding: str = 'auto',
  param_dtype: str = 'float32',
  cache_dtype: str = 'auto',
) -> dict[str, float]:
  """Evaluates one checkpoint, and writes what came of it.

  Batches are kept in predictions.partial.jsonl as they are decoded: after a
  stop the same call continues from there, to the same files. Where several
  processes evaluate, the first one writes, and a stop starts over. The folder
  of another evaluation is refused; the same one may be repeated.

  Args:
    checkpoint: of any format, as in `checkpoints.formats.open_checkpoint`.
    evaluators: `TaskScore`, `training.validation.ValidationLoss`, or anything
      that maps (model, params) to named numbers.
    output_dir: gets scores.json and, from a `TaskScore`, predictions.jsonl (see
      `evaluation.predictions`). Several of them write into a folder each,
      named after the split.
    settings: what else decides the scores: the configuration, as gin writes
      it.
    best_by: a metric that the run in `checkpoint` logged, such as
      'validation/rouge1': of its checkpoints the one with the highest (of
      a loss the lowest) is evaluated, instead of the latest.
    mesh: the axes over which batch, parameters and heads are divided.
    cache_sharding: see `T5Config`.
    param_dtype: see `inference.precision.prepare`.
    cache_dtype: see `T5Config`.

  Returns:
    The scores of all evaluators.

  Raises:
    FileExistsError: output_dir holds another evaluation, or part of one.
    FolderInUseError: another process writes to output_dir.
    ValueError: several evaluators decode the same split, a dtype is unknown, no
      checkpoint has a score of `best_by`, or the model has fewer token ids than
      a vocabulary.
  """
  precision.check_param_dtype(param_dtype)
  if best_by is not None:
    checkpoint = _best(checkpoint, best_by)
  decoders = [e for e in evaluators if isinstance(e, TaskScore)]
  _check_splits([evaluator.split for evaluator in decoders])
  found = restoring.find(checkpoint)
  config = dataclasses.replace(
    found.config,
    cache_sharding=cache_sharding,
    cache_dtype=cache_dtype,
  )
  checks.check_vocabularies(evaluators, config)
  device_mesh = partitioning.make_mesh(
    mesh or partitioning.MeshShape(), config=config
  )
  with (
    Owner(output_dir, 'OUTPUT_DIR', owns=hosts.is_primary()),
    jax.set_mesh(device_mesh),
  ):
    return _evaluate(
      checkpoint, found, config, evaluators, output_dir, settings, param_dtype
    )


def _evaluate(
  checkpoint, found, config, evaluators, output_dir, settings, param_dtype
):
  """Evaluates on every process of a job; the first one writes."""
  output = epath.Path(output_dir)
  decoders = [e for e in evaluators if isinstance(e, TaskScore)]
  several = len(decoders) > 1
  folders = {e: output / e.split if several else output for e in decoders}
  dtypes = {'param_dtype': param_dtype, 'cache_dtype': config.cache_dtype}
  step = {} if found.step is None else {'step': found.step}
  name = hub.name_of(found.folder) or str(checkpoint)
  origin = {'checkpoint': name, **step, **_unusual(dtypes)}
  about = {
    **origin,
    **dtypes,
    'settings': identity.parse_settings(settings),
  }

  def identities():
    """Returns what is evaluated, by the folder that gets it."""
    whole = {output: about | {'split': [e.split for e in decoders]}}
    return whole | {folders[e]: about | e.identity for e in decoders}

  # Before the parameters are read, and again when they are known, too.
  _refuse_others(identities())
  shardings = partitioning.param_shardings(
    abstract_params(config), config, partitioning.current_mesh()
  )
  with status.phase(f'restoring {found}'):
    params = restoring.restore(found, shardings).params
    params = _prepare(params, config, param_dtype)
  partials: dict[TaskScore, Partial] = {}
  if jax.process_count() == 1:
    about['params'] = decoding.fingerprint(params)
    _refuse_others(identities())
    for decoder, folder in folders.items():
      folder.mkdir(parents=True, exist_ok=True)
      partials[decoder] = Partial(folder / PARTIAL, identities()[folder])
  model = Transformer(config)
  scores: dict[str, float] = {}
  for evaluator in evaluators:
    if evaluator not in folders:
      scores.update(evaluator(model, precision.weights(params)))
      continue
    own = evaluator(model, params, partials.get(evaluator))
    scores.update(own)
    if several:
      record = {**origin, **own, **evaluator.record}
      _write(folders[evaluator], record, identities(), evaluator.predictions)
  record, examples = {**origin, **scores}, []
  if len(decoders) == 1:
    record |= decoders[0].record
    examples = decoders[0].predictions
  _write(output, record, identities(), examples)
  for partial in partials.values():
    partial.remove()
  return scores


def _refuse_others(identities: Mapping[epath.Path, Mapping[str, Any]]):
  """Raises FileExistsError if a folder holds another evaluation."""
  for folder, wanted in identities.items():
    if not (folder / predictions.SCORES).exists():
      continue
    try:
      found = predictions.read_scores(folder)
    except ValueError as error:
      raise FileExistsError(
        f'{folder / predictions.SCORES} is not of an evaluation, and would be '
        'lost; give another OUTPUT_DIR.'
      ) from error
    # Earlier versions wrote less.
    identity.check_same(found.get('evaluation', found), wanted, folder)


def _best(model_dir: str, metric: str) -> str:
  """Returns the path of the checkpoint that a run's log calls the best."""
  model = hub.parse(model_dir)
  if model and model.is_url:
    raise ValueError(
      f'BEST_BY is {metric!r}, but {model_dir} is no folder of a run that '
      'logged scores; leave BEST_BY None.'
    )
  logged = progress.records(model_dir)
  scores = {int(r['step']): r[metric] for r in logged if metric in r}
  folders = epath.Path(model_dir).glob(f'{native.PREFIX}_*')
  kept = [native.step_of(folder) for folder in folders]
  step = native.best_step(scores, checks.best_mode(metric), among=kept)
  if step is None:
    restoring.find(model_dir)  # raises where there is no checkpoint
    known = sorted({name for record in logged for name in record} - {'step'})
    raise ValueError(
      f'No checkpoint of {model_dir} has a score {metric!r}; choose a BEST_BY '
      f'among what it logged ({", ".join(known) or "nothing"}), or leave it '
      'None for the latest.'
    )
  return f'{model_dir}/{native.PREFIX}_{step}'


def _prepare(params, config, param_dtype):
  """Returns `precision.prepare`'s parameters, divided as the others were."""
  if param_dtype == precision.FLOAT32:
    return params
  prepare = functools.partial(precision.prepare, dtype=param_dtype)
  shardings = partitioning.param_shardings(
    jax.eval_shape(prepare, params), config, partitioning.current_mesh()
  )
  return jax.jit(prepare, out_shardings=shardings)(params)


def _unusual(dtypes: Mapping[str, str]) -> dict[str, str]:
  """Returns what a record says of dtypes: what is not the default."""
  return {
    k: x for k, x in dtypes.items() if x not in (precision.FLOAT32, 'auto')
  }


def _write(folder, record, identities, examples):
  if hosts.is_primary():
    folder.mkdir(parents=True, exist_ok=True)
    record = {**record, 'evaluation': identities[folder]}
    predictions.write(folder, record, examples)


def infer(
  *,
  checkpoint: str,
  vocabulary: seqio.Vocabulary,
  sequence_length: Mapping[str, int],
  batch_size: int = 32,
  decode: Callable = greedy_decode,
  prefix: str = '',
  param_dtype: str = 'float32',
  cache_dtype: str = 'auto',
) -> Callable[[Sequence[str]], list[str]]:
  """Loads a model, and returns a function from texts to texts.

  Args:
    checkpoint: of any format, as in `checkpoints.formats.open_checkpoint`.
    vocabulary: that the model was trained with.
    sequence_length: {'inputs': S, 'targets': T}: longer inputs are cut.
    batch_size: texts decoded together.
    decode: see `TaskScore`.
    prefix: put before every input, such as 'summarize: '.
    param_dtype: see `inference.precision.prepare`.
    cache_dtype: see `T5Config`.

  Raises:
    ValueError: a dtype is unknown, the model has fewer token ids than the
      vocabulary, or the vocabulary's special tokens are not T5's.
  """
  precision.check_param_dtype(param_dtype)
  check_ids(vocabulary, 'infer')
  found = restoring.find(checkpoint)
  checks.check_vocabularies([vocabulary], found.config)
  with status.phase(f'restoring {checkpoint}'):
    restored = restoring.restore(found)
    params = precision.prepare(restored.params, param_dtype)
  model = Transformer(
    dataclasses.replace(restored.config, cache_dtype=cache_dtype)
  )

  def texts_to_texts(texts: Sequence[str]) -> list[str]:
    length = sequence_length['inputs']
    examples = [
      {'inputs': [*vocabulary.encode(prefix + text)[: length - 1], EOS_ID]}
      for text in texts
    ]
    tokens = decoding.decode_tokens(
      model,
      params,
      examples,
      sequence_length,
      batch_size,
      decode,
      name='decoding',
    )
    return [decoding.to_text(row, vocabulary) for row in tokens]

  return texts_to_texts


def _check_splits(splits: Sequence[str]):
  for split in splits:
    if splits.count(split) > 1:
      raise ValueError(
        f'Several evaluators decode the split {split!r}, and would write over '
        "each other's predictions; evaluate them one by one, each with its own "
        'OUTPUT_DIR.'
      )
