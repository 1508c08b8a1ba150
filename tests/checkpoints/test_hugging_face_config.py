"""What config.json may say: other models, other ids, and nonsense."""

import dataclasses
import json

import jax
import numpy as np
import pytest

pytest.importorskip('torch', reason='needs torch: the extra hf')

import torch
import transformers
from flax import traverse_util

from gqa_flax.checkpoints import formats, hugging_face_config
from gqa_flax.conversion.convert import convert_checkpoint
from gqa_flax.model.network import Transformer

INTEGERS = (
  *('vocab_size', 'd_model', 'd_kv', 'd_ff', 'num_layers', 'num_heads'),
  'num_decoder_layers',
)


@pytest.fixture
def folder(tiny_config, tiny_params, tmp_path):
  formats.save_params(
    tmp_path / 'm', tiny_params, tiny_config, 'hugging_face', step=0
  )
  return tmp_path / 'm'


def edit(folder, file='config.json', **fields):
  path = folder / file
  path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def remove(folder, *names, file='config.json'):
  fields = json.loads((folder / file).read_text())
  kept = {name: x for name, x in fields.items() if name not in names}
  (folder / file).write_text(json.dumps(kept))


# Special tokens


@pytest.mark.parametrize('file', ['config.json', 'generation_config.json'])
@pytest.mark.parametrize(
  'name, value',
  [
    ('eos_token_id', 2),  # CodeT5, MADLAD
    ('pad_token_id', 1),  # MADLAD
    ('decoder_start_token_id', 2),
    ('eos_token_id', [1, 2]),
    ('eos_token_id', []),
    ('eos_token_id', None),
    ('pad_token_id', None),
    ('decoder_start_token_id', None),
    ('eos_token_id', True),
    ('pad_token_id', False),
    ('eos_token_id', '1'),
    ('eos_token_id', 1.0),
    ('pad_token_id', -1),
  ],
)
def test_other_special_tokens_are_refused(folder, tmp_path, file, name, value):
  edit(folder, file, **{name: value})
  with pytest.raises(ValueError) as caught:
    convert_checkpoint(
      input=str(folder), output=str(tmp_path / 'out'), num_kv_heads=2
    )
  message = str(caught.value)
  assert f'{folder / file} says {name} {value!r}, where gqa_flax' in message
  assert f'uses {int(name == "eos_token_id")} alone' in message
  assert not (tmp_path / 'out').exists()


def test_the_ids_of_t5_in_other_words(folder):
  edit(folder, eos_token_id=[1])
  remove(folder, 'pad_token_id', 'decoder_start_token_id')
  formats.open_checkpoint(folder)
  remove(folder, 'eos_token_id', file='generation_config.json')
  formats.open_checkpoint(folder)
  (folder / 'generation_config.json').unlink()
  formats.open_checkpoint(folder)


def test_an_export_says_the_ids_that_decoding_uses(folder):
  for file in ('config.json', 'generation_config.json'):
    fields = json.loads((folder / file).read_text())
    ids = [fields[f'{x}_token_id'] for x in ('pad', 'eos', 'decoder_start')]
    assert ids == [0, 1, 0]


# Model types


def mt5(folder, config):
  """Writes an mT5 by transformers alone; returns the model."""
  torch.manual_seed(0)
  model = transformers.MT5ForConditionalGeneration(
    transformers.MT5Config(
      vocab_size=config.vocab_size,
      d_model=config.emb_dim,
      d_kv=config.head_dim,
      d_ff=config.mlp_dim,
      num_layers=config.num_encoder_layers,
      num_decoder_layers=config.num_decoder_layers,
      num_heads=config.num_heads,
    )
  )
  model.save_pretrained(folder)
  arrays = {
    name: x if 'norm' in name else 0.5 * torch.randn(x.shape)
    for name, x in model.state_dict().items()
    if 'embed_tokens' not in name
  }
  # As the public ones are: a head of its own.
  transformers.modeling_utils.safe_save_file(
    arrays, folder / 'model.safetensors', metadata={'format': 'pt'}
  )
  edit(folder, tie_word_embeddings=False)
  return transformers.MT5ForConditionalGeneration.from_pretrained(folder)


def test_an_mt5_computes_what_transformers_does(
  tiny_config, make_batch, logits_of, tmp_path
):
  theirs = mt5(tmp_path / 'm', tiny_config)
  params, config = formats.load_params(tmp_path / 'm')
  assert config.architecture() == tiny_config.architecture()
  batch = make_batch(config)
  ours = np.asarray(logits_of(Transformer(config), params, batch))
  source = torch.tensor(batch['encoder_input_tokens'], dtype=torch.long)
  with torch.no_grad():
    expected = theirs.eval()(
      input_ids=source,
      attention_mask=source > 0,
      decoder_input_ids=torch.tensor(
        batch['decoder_input_tokens'], dtype=torch.long
      ),
    ).logits.numpy()
  real = batch['decoder_target_tokens'] > 0
  assert np.std(expected[real]) > 0.5
  np.testing.assert_allclose(ours[real], expected[real], atol=1e-4, rtol=1e-4)


def test_an_mt5_s_record_says_so(tiny_config, tmp_path):
  mt5(tmp_path / 'm', tiny_config)
  for output_format in ('native', 'hugging_face'):
    output = tmp_path / output_format
    convert_checkpoint(
      input=str(tmp_path / 'm'),
      output=str(output),
      num_kv_heads=2,
      output_format=output_format,
      step=1_000_000,
    )
    record = json.loads((output / 'conversion.json').read_text())
    assert record['model_type'] == 'mt5'
  exported = json.loads((output / 'config.json').read_text())
  assert exported['model_type'] == 't5'


def test_the_defaults_of_mt5_are_its_own(folder):
  """A config.json that leaves out everything means google/mt5-small."""
  (folder / 'config.json').write_text('{"model_type": "mt5"}')
  fields = hugging_face_config.read_config(folder)
  theirs = transformers.MT5Config().to_dict()
  for name in (*INTEGERS, 'feed_forward_proj', 'layer_norm_epsilon'):
    assert fields[name] == theirs[name], name
  (folder / 'config.json').write_text('{}')
  fields = hugging_face_config.read_config(folder)
  theirs = transformers.T5Config().to_dict()
  for name in (*INTEGERS, 'feed_forward_proj', 'layer_norm_epsilon'):
    assert fields[name] == theirs[name], name


@pytest.mark.parametrize(
  'model_type, reason',
  [
    ('umt5', ', which has a relative position bias in every layer; give'),
    ('longt5', ', which attends locally in its encoder; give'),
    ('switch_transformers', ', which has experts in its MLPs; give'),
    ('bart', "'bart'; give a model of T5.1.1's architecture, of type 't5' or"),
    (None, 'model_type None; give'),
    (['t5'], r"model_type \['t5'\]; give"),
    ({}, 'model_type {}; give'),
  ],
)
def test_other_model_types_are_refused(folder, model_type, reason):
  edit(folder, model_type=model_type)
  with pytest.raises(ValueError, match=f'config.json says .*{reason}'):
    formats.open_checkpoint(folder)


# Nonsense


@pytest.mark.parametrize('name', INTEGERS)
@pytest.mark.parametrize(
  'value', ['eight', '8', True, 16.0, -8, 0, [8], {}, float('nan')]
)
def test_sizes_are_integers(folder, name, value):
  edit(folder, **{name: value})
  with pytest.raises(ValueError) as caught:
    formats.open_checkpoint(folder)
  assert str(caught.value).startswith(
    f'{folder}/config.json says {name} {value!r}, where an integer of 1 or '
    'more is expected; '
  )


@pytest.mark.parametrize(
  'fields, message',
  [
    ({'num_heads': None}, 'num_heads None, where an integer'),
    ({'num_heads': 10**30}, 'num_heads 10+ where the arrays have 8'),
    ({'vocab_size': 10**30}, 'vocab_size 10+; correct'),
    ({'num_layers': 10**9}, 'num_layers 10+ where the arrays have 1'),
    ({'tie_word_embeddings': 'false'}, "tie_word_embeddings 'false', where t"),
    ({'tie_word_embeddings': 0}, 'tie_word_embeddings 0, where true or false'),
    ({'scale_decoder_outputs': None}, 'scale_decoder_outputs None, where true'),
    ({'is_gated_act': 1}, 'is_gated_act 1, where true or false'),
    ({'feed_forward_proj': ['relu']}, r"proj \['relu'\], where a string"),
    ({'dense_act_fn': {}}, 'dense_act_fn {}, where a string'),
    ({'layer_norm_epsilon': '1e-6'}, "epsilon '1e-6', but gqa_flax computes"),
    ({'layer_norm_epsilon': None}, 'epsilon None, but gqa_flax computes'),
    ({'relative_attention_num_buckets': True}, 'buckets True, but gqa_flax'),
    ({'gqa_flax': {'num_kv_heads': '2'}}, "num_kv_heads '2', where an integer"),
    ({'gqa_flax': {'num_kv_heads': True}}, 'num_kv_heads True, where an'),
    ({'gqa_flax': {'num_kv_heads': 0}}, 'num_kv_heads 0, where an integer'),
    ({'gqa_flax': {'step': 1.5}}, 'step 1.5, where an integer of 0 or more'),
    ({'gqa_flax': {'step': -1}}, 'step -1, where an integer of 0 or more'),
    ({'gqa_flax': None}, 'gqa_flax None; give num_kv_heads and step'),
  ],
)
def test_what_makes_no_sense_is_named(folder, fields, message):
  edit(folder, **fields)
  with pytest.raises(ValueError, match=f'{folder}.* says .*{message}'):
    formats.open_checkpoint(folder)


@pytest.mark.parametrize(
  'content, message',
  [
    (b'[]', 'a JSON list, not an object'),
    (b'"t5"', 'a JSON str, not an object'),
    (b'', 'there is no JSON'),
    (b'{"a": ' * 100_000, 'nested too deeply'),
    (b'[' * 100_000, 'nested too deeply'),
    (b'{"model_type": "\xe9"}', 'the JSON is not UTF-8'),
    (b'{"num_heads": ' + b'9' * 5000 + b'}', 'there is no JSON'),
  ],
)
@pytest.mark.parametrize('file', ['config.json', 'generation_config.json'])
def test_what_is_no_json_is_named(folder, file, content, message):
  (folder / file).write_bytes(content)
  with pytest.raises(
    ValueError, match=f'{folder / file} cannot be read: .*{message}'
  ):
    formats.open_checkpoint(folder)


@pytest.mark.parametrize(
  'change, message',
  [
    (lambda m: m['config'].update(num_heads='eight'), "num_heads is 'eight'"),
    (lambda m: m['config'].update(num_heads=True), 'num_heads is True; set'),
    (lambda m: m['config'].update(emb_dim=16.0), 'emb_dim is 16.0; set'),
    (lambda m: m['config'].update(emb_dim=None), 'emb_dim is None; set'),
    (lambda m: m['config'].update(dropout_rate='x'), "dropout_rate is 'x'"),
    (lambda m: m['config'].update(logits_via_embedding='no'), 'True or False'),
    (lambda m: m['config'].update(mlp_activations=None), 'activations is None'),
    (lambda m: m['config'].update(dtype=[1]), r"dtype is '\[1\]'; choose"),
    (lambda m: m['config'].update(num_experts=8), "no field 'num_experts'; re"),
    (lambda m: m['config'].pop('vocab_size'), 'vocab_size is missing'),
    (lambda m: m.update(config=[1]), r'config is \[1\] instead of a dict'),
    (lambda m: m.pop('config'), 'config is None instead of a dict'),
    (lambda m: m.update(step='7'), "step is '7' instead of an integer"),
    (lambda m: m.update(step=True), 'step is True instead of an integer'),
    (lambda m: m.update(step=-1), 'step is -1 instead of an integer'),
    (lambda m: m.update(items='params'), "items is 'params' instead of a list"),
  ],
)
def test_our_own_json_is_checked_too(
  tiny_config, tiny_params, tmp_path, change, message
):
  # As convert writes it, without a checksum.
  path = formats.save_params(tmp_path / 'run', tiny_params, tiny_config, step=0)
  file = tmp_path / 'run' / 'checkpoint_0' / 'model' / 'metadata'
  model = json.loads(file.read_text())
  change(model)
  file.write_text(json.dumps(model))
  with pytest.raises(ValueError, match=f'[Ii]n {file}.*{message}'):
    formats.open_checkpoint(path)


@pytest.mark.parametrize(
  'content', [b'[]', b'[' * 100_000, b'\xff', b'', b'{"config": 1']
)
def test_our_own_json_may_be_no_json(
  tiny_config, tiny_params, tmp_path, content
):
  formats.save_params(tmp_path / 'run', tiny_params, tiny_config, step=0)
  file = tmp_path / 'run' / 'checkpoint_0' / 'model' / 'metadata'
  file.write_bytes(content)
  with pytest.raises(ValueError, match=f'is damaged: in {file}, the'):
    formats.open_checkpoint(tmp_path / 'run')


def test_params_that_were_written_are_read(folder, tiny_config, tiny_params):
  params, config = formats.load_params(folder)
  wanted = dataclasses.replace(tiny_config, dropout_rate=config.dropout_rate)
  assert config == wanted
  found = traverse_util.flatten_dict(params, sep='/')
  for name, x in traverse_util.flatten_dict(tiny_params, sep='/').items():
    np.testing.assert_array_equal(found[name], jax.device_get(x))
