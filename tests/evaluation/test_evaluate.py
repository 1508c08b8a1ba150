"""What an evaluation writes, and inference."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gqa_flax import Transformer
from gqa_flax.checkpoints import formats, native
from gqa_flax.checkpoints.architecture import abstract_params
from gqa_flax.config import T5Config
from gqa_flax.data import embedded, tasks
from gqa_flax.evaluation import predictions
from gqa_flax.evaluation.evaluate import TaskScore, evaluate, infer
from gqa_flax.inference import precision
from gqa_flax.inference.decode import greedy_decode
from gqa_flax.runtime.owner import FolderInUseError, Owner
from gqa_flax.training.validation import ValidationLoss

LENGTHS = {'inputs': 24, 'targets': 12}


def test_evaluate_writes_scores_and_predictions(checkpoint, task, tmp_path):
  score = TaskScore(task, 'test', LENGTHS, batch_size=4, num_examples=5)
  scores = evaluate(
    checkpoint=checkpoint,
    evaluators=[score, lambda model, params: {'heads': 2.0}],
    output_dir=str(tmp_path / 'out'),
  )
  written = predictions.read(tmp_path / 'out')
  assert written.predictions == score.predictions
  assert len(written.predictions) == 5
  intervals = written.record['intervals']
  about = written.record['evaluation']
  assert about['split'] == 'test' and about['sequence_length'] == LENGTHS
  assert written.record == {
    'checkpoint': checkpoint,
    'step': 3,
    **scores,
    'task': 'wikipedia_summarization',
    'split': 'test',
    'metric': 'rouge',
    'num_examples': 5,
    'intervals': intervals,
    'bootstrap': {'confidence': 0.95, 'num_resamples': 1000, 'seed': 0},
    'lengths': score.lengths,
    'evaluation': about,
  }
  assert predictions.score_keys(written.record) == list(scores)
  assert list(scores) == [*intervals, 'heads']
  names = {path.name for path in (tmp_path / 'out').iterdir()}
  assert names == {'predictions.jsonl', 'scores.json'}


def test_other_formats_are_evaluated_as_they_are(checkpoint, task, tmp_path):
  params, config = formats.load_params(checkpoint)
  exported = formats.save_params(
    tmp_path / 'exported', params, config, 'hugging_face', step=3
  )
  snapshot = tmp_path / 'models--a--b' / 'snapshots' / '0123abc'
  snapshot.parent.mkdir(parents=True)
  config_file = json.loads((tmp_path / 'exported/config.json').read_text())
  shutil.copytree(exported, snapshot)
  del config_file['gqa_flax']['step']
  (snapshot / 'config.json').write_text(json.dumps(config_file))
  found = []
  for path in (checkpoint, exported, str(snapshot)):
    output = tmp_path / 'out' / str(len(found))
    score = TaskScore(task, 'test', LENGTHS, batch_size=4, num_examples=5)
    evaluate(checkpoint=path, evaluators=[score], output_dir=str(output))
    found.append(predictions.read(output))
  ours, theirs, unknown = found
  assert ours.predictions == theirs.predictions == unknown.predictions
  assert (
    ours.record['evaluation']['params']
    == (theirs.record['evaluation']['params'])
  )
  assert theirs.record['step'] == 3
  # Such as of the Hub: it can be found again, and does not say its step.
  assert unknown.record['checkpoint'] == 'hf://a/b@0123abc'
  assert 'step' not in unknown.record


@pytest.fixture
def run(tmp_path, tiny_config):
  """Three checkpoints, whose norm's scale is their step, and a log."""
  shapes = abstract_params(tiny_config)
  folder = tmp_path / 'run'
  with native.checkpoint_manager(folder) as manager:
    for step in (2, 4, 6):
      params = jax.tree.map(
        lambda x, n=step: jnp.full(x.shape, n, x.dtype), shapes
      )
      native.save(manager, native.Checkpoint(step, params, tiny_config))
  scores = {2: 1.0, 4: 3.0, 6: 2.0, 8: 9.0}  # step 8 was not kept
  lines = [{'step': 4, 'loss': 5.0}]
  lines += [{'step': s, 'validation/rouge1': x} for s, x in scores.items()]
  log = ''.join(json.dumps(line) + '\n' for line in lines)
  (folder / 'metrics.jsonl').write_text(log)
  return folder


def scale(model, params):
  return {'scale': float(params['encoder']['encoder_norm']['scale'].mean())}


@pytest.mark.parametrize('best_by, step', [(None, 6), ('validation/rouge1', 4)])
def test_the_best_checkpoint_is_evaluated_where_asked(
  run, tmp_path, best_by, step
):
  scores = evaluate(
    checkpoint=str(run),
    evaluators=[scale],
    output_dir=str(tmp_path / 'out'),
    best_by=best_by,
  )
  assert scores == {'scale': step}
  assert predictions.read_scores(tmp_path / 'out')['step'] == step


def test_the_best_checkpoint_by_a_loss_has_the_lowest(run, tmp_path):
  with (run / 'metrics.jsonl').open('a') as log:
    for step, loss in ((2, 3.0), (4, 1.0), (6, 2.0)):
      record = {'step': step, 'validation/cross_entropy': loss}
      log.write(json.dumps(record) + '\n')
  scores = evaluate(
    checkpoint=str(run),
    evaluators=[scale],
    output_dir=str(tmp_path / 'out'),
    best_by='validation/cross_entropy',
  )
  assert scores == {'scale': 4}


def test_a_score_that_nothing_logged_is_named(run, tmp_path):
  with pytest.raises(
    ValueError, match=r"'rouge1'; choose a BEST_BY .*\(loss, validation/rouge1"
  ):
    evaluate(
      checkpoint=str(run),
      evaluators=[scale],
      output_dir=str(tmp_path / 'out'),
      best_by='rouge1',
    )
  assert not (tmp_path / 'out').exists()


def test_two_evaluators_of_a_split_are_refused(checkpoint, task, tmp_path):
  score = TaskScore(task, 'test', LENGTHS, 4, num_examples=1)
  with pytest.raises(ValueError, match="decode the split 'test', and would"):
    evaluate(
      checkpoint=checkpoint,
      evaluators=[score, score],
      output_dir=str(tmp_path / 'out'),
    )
  assert not (tmp_path / 'out').exists()


def test_infer_is_evaluation_without_a_task(checkpoint, task, vocabulary):
  score = TaskScore(task, 'test', LENGTHS, batch_size=4, num_examples=5)
  restored = native.restore(checkpoint)
  score(Transformer(restored.config), restored.params)
  texts_to_texts = infer(
    checkpoint=checkpoint,
    vocabulary=vocabulary,
    sequence_length=LENGTHS,
    batch_size=4,
  )
  assert texts_to_texts([p['inputs'] for p in score.predictions]) == [
    p['prediction'] for p in score.predictions
  ]


@pytest.fixture(scope='module')
def smaller(checkpoint):
  """The checkpoint with int8 kernels and caches, as a model and parameters."""
  restored = native.restore(checkpoint)
  config = dataclasses.replace(restored.config, cache_dtype='int8')
  return Transformer(config), precision.prepare(restored.params, 'int8')


def test_smaller_parameters_and_caches_are_evaluated(
  checkpoint, task, tmp_path, smaller
):
  cache_dtypes = []

  def decode(model, *args):
    cache_dtypes.append(model.config.cache_dtype)
    return greedy_decode(model, *args)

  score = TaskScore(
    task, 'test', LENGTHS, batch_size=4, decode=decode, num_examples=5
  )
  score(*smaller)
  expected = [p['prediction'] for p in score.predictions]

  def other(model, params):
    """An evaluator that knows arrays alone."""
    assert model == smaller[0]
    for found, array in zip(
      jax.tree.leaves(params),
      jax.tree.leaves(precision.weights(smaller[1])),
      strict=True,
    ):
      np.testing.assert_allclose(
        np.asarray(found, np.float32), np.asarray(array, np.float32), rtol=1e-6
      )
    return {'seen': 1.0}

  scores = evaluate(
    checkpoint=checkpoint,
    evaluators=[score, other],
    output_dir=str(tmp_path / 'out'),
    param_dtype='int8',
    cache_dtype='int8',
  )
  assert scores['seen'] == 1.0
  written = predictions.read(tmp_path / 'out')
  assert [p['prediction'] for p in written.predictions] == expected
  assert written.record['param_dtype'] == 'int8'
  assert written.record['cache_dtype'] == 'int8'
  texts_to_texts = infer(
    checkpoint=checkpoint,
    vocabulary=score._vocabulary,
    sequence_length=LENGTHS,
    batch_size=4,
    decode=decode,
    param_dtype='int8',
    cache_dtype='int8',
  )
  inputs = [p['inputs'] for p in written.predictions]
  assert texts_to_texts(inputs) == expected
  assert cache_dtypes == ['int8'] * 6


def test_two_evaluations_into_one_folder_do_not_meet(checkpoint, tmp_path):
  """Nothing is decoded, and what the first has decoded stays."""
  partial = tmp_path / 'out' / 'predictions.partial.jsonl'

  def never(model, params):
    raise AssertionError('evaluated')

  with Owner(tmp_path / 'out', 'OUTPUT_DIR'):
    partial.write_text('{}\n')
    with pytest.raises(FolderInUseError, match='OUTPUT_DIR .*out is in use by'):
      evaluate(
        checkpoint=checkpoint,
        evaluators=[never],
        output_dir=str(tmp_path / 'out'),
      )
    assert partial.read_text() == '{}\n'
    partial.unlink()
  evaluate(
    checkpoint=checkpoint,
    evaluators=[lambda model, params: {'heads': 2.0}],
    output_dir=str(tmp_path / 'out'),
  )
  assert predictions.read_scores(tmp_path / 'out')['heads'] == 2.0


def test_unknown_dtypes_are_refused_before_anything_is_read(tmp_path):
  kwargs = {'checkpoint': str(tmp_path / 'none'), 'param_dtype': 'int4'}
  with pytest.raises(ValueError, match="param_dtype is 'int4'; .*PARAM_DTYPE"):
    evaluate(evaluators=[], output_dir=str(tmp_path / 'out'), **kwargs)
  with pytest.raises(ValueError, match="param_dtype is 'int4'; .*PARAM_DTYPE"):
    infer(vocabulary=None, sequence_length=LENGTHS, **kwargs)


@pytest.mark.slow
def test_another_vocabulary_is_refused_before_parameters_are_read(
  checkpoint, tmp_path, make_batch, monkeypatch
):
  monkeypatch.setattr(native, 'restore', None)
  larger = embedded.vocabulary(800, cache_dir=tmp_path)
  with pytest.raises(ValueError, match='The data needs 900 token ids'):
    infer(checkpoint=checkpoint, vocabulary=larger, sequence_length=LENGTHS)
  task = tasks.get_task('wikipedia_summarization', larger)
  score = TaskScore(task, 'test', LENGTHS, batch_size=4, num_examples=1)
  batch = make_batch(T5Config(vocab_size=9000))
  for evaluator in (score, ValidationLoss([batch])):
    with pytest.raises(
      ValueError,
      match=r'The data needs \d+ token ids, .* has only 704; set',
    ):
      evaluate(
        checkpoint=checkpoint, evaluators=[evaluator], output_dir=str(tmp_path)
      )
