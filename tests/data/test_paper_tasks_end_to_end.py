"""Each of the paper's tasks on the command line, from raw files to scores."""

import json

import pytest
import sentencepiece

from gqa_flax import cli
from gqa_flax.data import catalogue
from gqa_flax.evaluation import metrics

MODEL = [
  '--gin_file=gin_configs/models/mini.gin',
  '--gin_file=gin_configs/attention/gqa_2.gin',
  '--gin.config.T5Config.emb_dim=32',
  '--gin.config.T5Config.head_dim=4',
  '--gin.config.T5Config.mlp_dim=32',
  '--gin.config.T5Config.num_encoder_layers=1',
  '--gin.config.T5Config.num_decoder_layers=1',
  '--gin.VOCAB_SIZE=512',
]
# Shapes that all tasks share, so that one compilation serves all.
SHAPES = [
  "--gin.TASK_FEATURE_LENGTHS={'inputs': 32, 'targets': 12}",
  '--gin.BATCH_SIZE=8',
]
SUPERVISED = [n for n in catalogue.DATA_SETS if n != 'c4_span_corruption']


@pytest.fixture(scope='module')
def vocabulary_file(raw_files, tmp_path_factory):
  """A small vocabulary of the invented text."""
  path = tmp_path_factory.mktemp('vocabulary') / 'pieces.model'
  examples = raw_files('cnn_dailymail:3.4.0').examples['train']
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter([e['article'] for e in examples]),
    model_prefix=str(path.with_suffix('')),
    vocab_size=200,
    pad_id=0,
    eos_id=1,
    unk_id=2,
    bos_id=-1,
    minloglevel=2,
  )
  return path


@pytest.fixture
def run(use_tfds, vocabulary_file, monkeypatch):
  """Runs a command on a task."""

  def run_command(command, name, *argv):
    use_tfds(catalogue.DATA_SETS[name].tfds_name)
    task = f'--gin_file=gin_configs/tasks/{name}.gin'
    file = f'--gin.VOCABULARY_FILE={vocabulary_file}'
    assert cli.main([command, '--debug', task, *argv, *SHAPES, file]) == 0

  return run_command


@pytest.mark.slow
@pytest.mark.parametrize('name', SUPERVISED)
def test_train_decode_and_score(name, run, tmp_path, capsys, raw_files):
  tuned, scores = str(tmp_path / 'tuned'), tmp_path / 'scores'
  run(
    'train',
    name,
    *MODEL,
    '--gin_file=gin_configs/runs/finetune.gin',
    '--gin.INITIAL_CHECKPOINT_PATH=None',
    f'--gin.MODEL_DIR={tuned}',
    '--gin.TRAIN_STEPS=2',
    '--gin.PACK=True',
  )
  log = (tmp_path / 'tuned' / 'metrics.jsonl').read_text().splitlines()
  logged = {key: x for line in log for key, x in json.loads(line).items()}
  # Untrained, and no further: about log(512) nats a token.
  assert 5 < logged['cross_entropy'] < 8
  assert logged['target_tokens'] > 0

  capsys.readouterr()
  run(
    'evaluate',
    name,
    '--gin_file=gin_configs/runs/evaluate.gin',
    f'--gin.CHECKPOINT={tuned}',
    f'--gin.OUTPUT_DIR={scores}',
    '--json',
  )
  printed = json.loads(capsys.readouterr().out)
  lines = (scores / 'predictions.jsonl').read_text().splitlines()
  predictions = [json.loads(line) for line in lines]
  split = 'val' if name == 'media_sum' else 'validation'
  examples = raw_files(catalogue.DATA_SETS[name].tfds_name).examples
  assert len(predictions) == len(examples[split])
  metric = json.loads((scores / 'scores.json').read_text())['metric']
  expected = metrics.compute(
    metric,
    [p['target'] for p in predictions],
    [p['prediction'] for p in predictions],
  )
  for key, value in expected.items():
    assert printed[f'validation/{key}'] == pytest.approx(value)
    # The same model in the same state, when training ended.
    assert logged[f'validation/{key}'] == pytest.approx(value)


@pytest.mark.slow
def test_pretrain_on_c4(run, tmp_path):
  run(
    'train',
    'c4_span_corruption',
    *MODEL,
    '--gin_file=gin_configs/runs/pretrain.gin',
    f'--gin.MODEL_DIR={tmp_path}',
    '--gin.TRAIN_STEPS=2',
  )
  log = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  logged = {key: x for line in log for key, x in json.loads(line).items()}
  assert 5 < logged['cross_entropy'] < 8
  assert 5 < logged['validation/cross_entropy'] < 8
