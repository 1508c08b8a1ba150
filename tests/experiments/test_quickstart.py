"""The quickstart: its report, and all of it on a checkpoint of no size."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest
from flax import traverse_util

from experiments.quickstart import plan, report, run
from experiments.real_checkpoint import checkpoint, sentencepiece_file
from gqa_flax import config
from gqa_flax.checkpoints import formats
from gqa_flax.checkpoints.architecture import parameter_shapes
from gqa_flax.reporting import records

SETTINGS = plan.Settings(
  FINETUNE_STEPS=2,
  BATCH_SIZE=8,
  LEARNING_RATE=1e-3,
  TASK_FEATURE_LENGTHS={'inputs': 16, 'targets': 8},
  CALIBRATION_TOKENS=100,
  NUM_EXAMPLES=40,
  RANDOM_SEED=0,
)
MADE_UP = {
  'MHA': (12.0, 46.0),
  'GQA-2 subspace': (8.0, 44.0),
  'GQA-2 mean': (4.0, 41.0),
  'MQA subspace': (8.0, 45.0),
  'MQA mean': (1.5, 28.0),
}


def made_up_records():
  provenance = {'cpus': 2}
  yield {
    'stage': 'checkpoint',
    'input': run.TRANSLATION,
    'output': 'Das Haus ist wunderbar.',
    'parameters': 76_961_152,
    'settings': dataclasses.asdict(SETTINGS),
    'seconds': 30.0,
    'provenance': provenance,
  }
  yield {
    'stage': 'baselines',
    'first_words/words': 13,
    'first_words/rouge1': 31.6,
    'common_words/words': 4,
    'common_words/rouge1': 17.1,
    'after_is_a/words': 12,
    'after_is_a/rouge1': 44.5,
    'seconds': 30.0,
  }
  for i, kind in enumerate(('converted', 'finetuned')):
    for model in plan.MODELS:
      score = MADE_UP[model.name][i]
      yield {
        'stage': f'{kind}/{model.slug}',
        **dataclasses.asdict(model),
        'test/rouge1': score,
        'interval': [score - 1, score + 1],
        # The same for every article but two: differences have no spread.
        'rouge1_of_examples': [score - 1, score + 1],
        'seconds': 30.0,
      }


def made_up_predictions():
  # A line of the file does not end at a line separator.
  example = {'inputs': 'summarize: i\u2028i', 'target': 'a|b'}
  models = {name: [{**example, 'prediction': name}] * 8 for name in MADE_UP}
  return {'converted': models, 'finetuned': dict(models)}


def test_the_report_says_what_the_records_hold(tmp_path):
  report.write(tmp_path, list(made_up_records()), made_up_predictions())
  text = (tmp_path / 'report.md').read_text()
  assert '> Das Haus ist wunderbar.' in text
  assert '| MQA mean | 1 | 1.5 (0.5 to 2.5) | 28.0 (27.0 to 29.0) |' in text
  words = ' '.join(text.split())
  assert 'It took 6.0 minutes on 2 CPU cores' in words
  assert (
    'the 4 most common words (+28.9), the first 13 words (+14.4), a rule '
    'written by hand (+1.5)'
  ) in words
  assert (
    'MQA mean minus MHA: -18.0 (-18.0 to -18.0); it keeps 61% of the score.'
  ) in text
  assert 'MQA subspace minus MQA mean: +17.0 (+17.0 to +17.0).' in text
  # 8 layers, keys and values, heads of 64, 2 bytes.
  assert '| MHA | 6 | 77.0 M | 12 KiB | 288 MiB | 100% |' in text
  assert '| MQA | 1 | 71.7 M | 2 KiB | 48 MiB | 17% |' in text
  assert text.count('a\\|b**') == 6
  assert (tmp_path / 'rouge.png').stat().st_size > 10_000


def test_derived_files_come_from_the_records_alone(tmp_path):
  report.write(tmp_path, list(made_up_records()), made_up_predictions())
  files = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
  for name in ('report.md', 'rouge.png', 'rouge.svg'):
    (tmp_path / name).unlink()
  report.redraw(tmp_path)
  assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == files


def test_a_model_may_be_converted_and_not_fine_tuned(tmp_path):
  kept = [
    r for r in made_up_records() if r['stage'] != 'finetuned/gqa_2_subspace'
  ]
  predictions = made_up_predictions()
  del predictions['finetuned']['GQA-2 subspace']
  report.write(tmp_path, kept, predictions)
  text = (tmp_path / 'report.md').read_text()
  assert '| GQA-2 subspace | 2 | 8.0 (7.0 to 9.0) |  |' in text
  assert 'GQA-2 subspace minus' not in text


def test_missing_packages_are_named_with_the_remedy(monkeypatch):
  monkeypatch.setattr(run, 'PACKAGES', ('json', 'no_such_package'))
  with pytest.raises(
    ModuleNotFoundError, match=r"no_such_package; run: pip .*\[quickstart\]'"
  ):
    run._check_packages()


def test_the_vocabulary_is_t5s_own(tmp_path):
  """Pieces, and the ids of texts with every trouble of normalization."""
  from sentencepiece import SentencePieceProcessor

  t5 = pathlib.Path(__file__).parents[3] / 'shared/fixtures/t5_spiece.model'
  if not t5.exists():
    pytest.skip('needs ../shared/fixtures/t5_spiece.model')
  made = tmp_path / 'made.model'
  sentencepiece_file.write(checkpoint.source() / 'tokenizer.json', made)
  a, b = (SentencePieceProcessor(model_file=str(p)) for p in (made, t5))
  for model in (a, b):
    assert model.get_piece_size() == 32_000
  for i in range(32_000):
    assert a.id_to_piece(i) == b.id_to_piece(i)
    assert a.get_score(i) == b.get_score(i)
    assert a.is_control(i) == b.is_control(i)
  texts = ['  two  spaces', 'ﬁne Ⅷ ½ e\u0301', '日本 {~} \t\n', '', 'Füße—"…"']
  assert a.encode(texts) == b.encode(texts)
  ids = b.encode(texts)
  assert a.decode(ids) == b.decode(ids)


def test_a_tokenizer_of_another_kind_is_refused():
  vocab = [['<s>', 0.0], ['<pad>', 0.0], ['</s>', 0.0]] + [['x', 0.0]] * 100
  with pytest.raises(ValueError, match=r"begins with \['<s>'.*give one of T5"):
    sentencepiece_file.convert({'model': {'type': 'Unigram', 'vocab': vocab}})


@pytest.fixture
def small(monkeypatch):
  """A checkpoint of no size with the real one's heads, and two models."""
  architecture = config.T5Config(
    vocab_size=32_128,
    emb_dim=8,
    num_heads=6,
    head_dim=4,
    mlp_dim=8,
    num_encoder_layers=1,
    num_decoder_layers=1,
    dropout_rate=0.0,
  )

  rng = np.random.default_rng(0)
  params = traverse_util.unflatten_dict(
    {
      name: rng.normal(0.0, 0.05, shape).astype(np.float32)
      for name, shape in parameter_shapes(architecture).items()
    },
    sep='/',
  )

  def load():
    return params, architecture

  monkeypatch.setattr(checkpoint, 'load', load)
  monkeypatch.setattr(run, 'share_compiled', lambda work: None)
  models = (plan.MHA, plan.Model('MQA subspace', 1, 'subspace'))
  monkeypatch.setattr(plan, 'MODELS', models)
  monkeypatch.setattr(plan, 'FINETUNED', models)


def test_an_interrupted_quickstart_continues_where_it_stopped(
  small, monkeypatch, tmp_path, capsys
):
  arguments = {
    'settings': SETTINGS,
    'work_dir': str(tmp_path / 'work'),
    'results_dir': str(tmp_path / 'results'),
  }
  train = run.loop.train

  def interrupted(*, model_dir, **kwargs):
    if model_dir.endswith('mqa_subspace'):
      raise KeyboardInterrupt
    return train(model_dir=model_dir, **kwargs)

  monkeypatch.setattr(run.loop, 'train', interrupted)
  with pytest.raises(KeyboardInterrupt):
    run.quickstart(**arguments)
  assert not (tmp_path / 'results').exists()
  first = {
    path: path.read_bytes() for path in (tmp_path / 'work').rglob('record.json')
  }
  assert len(first) == 7
  monkeypatch.setattr(run.loop, 'train', train)
  capsys.readouterr()
  run.quickstart(**arguments)
  shown = capsys.readouterr()
  assert shown.out.endswith(f'The report is {tmp_path}/results/report.md\n')
  # Nothing but progress: no line of the training loop's, no table.
  assert all(' left: ' in line for line in shown.err.splitlines())
  assert 'steps kept' not in shown.out
  assert {path: path.read_bytes() for path in first} == first
  done = records.read(tmp_path / 'results' / 'records.jsonl')
  assert [r['stage'] for r in done] == [s.name for s in plan.stages()]
  assert all(r['provenance']['versions']['jax'] for r in done)
  tuned = done[-1]
  assert len(tuned['rouge1_of_examples']) == SETTINGS.NUM_EXAMPLES
  assert np.mean(tuned['rouge1_of_examples']) == pytest.approx(
    tuned['test/rouge1'], abs=0.01
  )
  # Training went on from the conversion: the query of each head is another's.
  folder = tmp_path / 'work/finetune/mqa_subspace'
  assert formats.open_checkpoint(folder).step == checkpoint.STEP + 2
  assert formats.open_checkpoint(folder).config.num_kv_heads == 1
  predictions = records.read(tmp_path / 'results' / 'predictions.jsonl')
  assert len(predictions) == SETTINGS.NUM_EXAMPLES
  assert json.dumps(predictions[0])
  assert jax.device_count() > 1
