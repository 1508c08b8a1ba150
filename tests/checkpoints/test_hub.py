"""Models of the Hugging Face Hub: from its cache, offline, and from a server.

The cache is laid out as huggingface_hub lays it out: files are links in
snapshots/<commit>/ to blobs/, and refs/main holds the commit.
"""

import hashlib
import http.server
import json
import os
import pathlib
import socket
import subprocess
import sys
import threading

import huggingface_hub.constants
import numpy as np
import pytest

import gqa_flax
from gqa_flax import cli
from gqa_flax.checkpoints import folders, formats, hub, restoring

ID = 'google/t5-v1_1-small'
COMMIT = '0123456789abcdef0123456789abcdef01234567'
OTHER_COMMIT = 'fedcba9876543210fedcba9876543210fedcba98'
TOKENIZER = {
  'spiece.model': b'pieces',
  'tokenizer.json': b'{}',
  'tokenizer_config.json': b'{"model_max_length": 512}',
  'special_tokens_map.json': b'{"eos_token": "</s>"}',
  'generation_config.json': b'{"decoder_start_token_id": 0}',
}


@pytest.fixture(scope='module')
def model(tiny_config, tiny_params, tmp_path_factory):
  """A folder as others publish it: it does not say its step."""
  folder = tmp_path_factory.mktemp('published') / 'model'
  formats.save_params(folder, tiny_params, tiny_config, 'hugging_face', step=0)
  config = json.loads((folder / 'config.json').read_text())
  del config['gqa_flax']
  (folder / 'config.json').write_text(json.dumps(config))
  (folder / 'README.md').unlink()
  for name, content in TOKENIZER.items():
    (folder / name).write_bytes(content)
  return folder


def put(cache, model, id=ID, commit=COMMIT, ref='main'):
  """Puts a model into a cache; returns its snapshot."""
  root = cache / f'models--{id.replace("/", "--")}'
  snapshot = root / 'snapshots' / commit
  for folder in (root / 'blobs', root / 'refs', snapshot):
    folder.mkdir(parents=True, exist_ok=True)
  (root / 'refs' / ref).write_text(commit)
  for file in model.iterdir():
    blob = hashlib.sha256(file.read_bytes()).hexdigest()
    (root / 'blobs' / blob).write_bytes(file.read_bytes())
    (snapshot / file.name).symlink_to(f'../../blobs/{blob}')
  return snapshot


@pytest.fixture
def cache(tmp_path, monkeypatch):
  """An empty cache, in a working directory without folders."""
  monkeypatch.setattr(
    huggingface_hub.constants, 'HF_HUB_CACHE', str(tmp_path / 'hub')
  )
  (tmp_path / 'work').mkdir()
  monkeypatch.chdir(tmp_path / 'work')
  return tmp_path / 'hub'


@pytest.fixture(params=['offline', 'without a network'])
def unreachable(request, monkeypatch):
  """Lets nothing be reached, by a wish of the user's or for real."""

  def fail(*_, **__):
    raise OSError(101, 'Network is unreachable')

  monkeypatch.setattr(socket.socket, 'connect', fail)
  monkeypatch.setattr(socket, 'getaddrinfo', fail)
  monkeypatch.setattr(
    huggingface_hub.constants, 'HF_HUB_OFFLINE', request.param == 'offline'
  )


@pytest.mark.parametrize(
  ('path', 'id', 'revision'),
  [
    (ID, ID, None),
    (f'{ID}/', ID, None),
    (f'hf://{ID}', ID, None),
    (f'https://huggingface.co/{ID}', ID, None),
    ('hf://t5-small', 't5-small', None),
    (f'hf://{ID}@main', ID, 'main'),
    (f'{ID}@refs/pr/2', ID, 'refs/pr/2'),
    (pathlib.Path(ID), ID, None),
  ],
)
def test_ids(path, id, revision):
  assert hub.parse(path)[:2] == (id, revision)


@pytest.mark.parametrize(
  'path',
  [
    *('t5-small', 20240101, '', '/tmp/model', './a/b', '../a/b', 'a/b/c'),
    *('gs://t5-data/x', 'hf://a/b/c', '~/model', 'a/b@', None),
  ],
)
def test_what_is_no_id(path):
  assert hub.parse(path) is None


@pytest.mark.usefixtures('unreachable')
@pytest.mark.parametrize('path', [ID, f'hf://{ID}', f'hf://{ID}@{COMMIT}'])
def test_a_cached_model_is_read_without_a_network(
  cache, model, path, tiny_config
):
  put(cache, model)
  params, config = gqa_flax.load_params(path)
  wanted, _ = gqa_flax.load_params(model)
  assert config.architecture() == tiny_config.architecture()
  np.testing.assert_array_equal(
    params['token_embedder']['embedding'], wanted['token_embedder']['embedding']
  )
  stored = formats.open_checkpoint(path)
  # It can be found again, on any machine, and is at the step of its publisher.
  assert stored.path == f'hf://{ID}@{COMMIT}'
  assert stored.step == 1_000_000


@pytest.mark.usefixtures('unreachable')
def test_training_and_decoding_begin_with_a_cached_model(cache, model):
  snapshot = put(cache, model)
  found = restoring.find(ID)
  assert (str(found.folder), found.step) == (str(snapshot), 1_000_000)
  assert str(found) == f'hf://{ID}@{COMMIT}'
  params, config = gqa_flax.load_params(model)
  assert found.config == config
  np.testing.assert_array_equal(
    restoring.restore(found).params['token_embedder']['embedding'],
    params['token_embedder']['embedding'],
  )


@pytest.mark.usefixtures('unreachable')
def test_a_revision_is_that_revision(cache, model, tmp_path):
  put(cache, model)
  snapshot = put(cache, model, commit=OTHER_COMMIT, ref='v2')
  found = folders.checkpoints_at(f'{ID}@v2')
  assert [str(path) for path in found] == [str(snapshot)]
  with pytest.raises(FileNotFoundError, match=f'the model {ID} could not be'):
    folders.checkpoints_at(f'{ID}@v3')


@pytest.mark.usefixtures('unreachable')
def test_only_publishers_say_the_step(cache, model):
  put(cache, model, id='somebody/t5-v1_1-small')
  assert formats.open_checkpoint('somebody/t5-v1_1-small').step is None
  put(cache, model, id='google/t5-v1_1-small-tuned')
  assert formats.open_checkpoint('hf://google/t5-v1_1-small-tuned').step is None


@pytest.mark.usefixtures('unreachable')
def test_pickles_are_looked_for_where_there_is_nothing_else(
  cache, model, monkeypatch
):
  pytest.importorskip('torch')
  snapshot = put(cache, model)
  (snapshot / 'model.safetensors').rename(snapshot / 'pytorch_model.bin')
  assert folders.checkpoints_at(ID)[0] == snapshot
  find_spec = hub.importlib.util.find_spec
  monkeypatch.setattr(
    hub.importlib.util,
    'find_spec',
    lambda name: None if name == 'torch' else find_spec(name),
  )
  with pytest.raises(ImportError, match='only be read with torch, which is'):
    folders.checkpoints_at(ID)


@pytest.mark.usefixtures('unreachable')
def test_what_is_nowhere_is_one_sentence(cache, capsys, tmp_path, request):
  argv = ['convert', ID, str(tmp_path / 'out'), '--num_kv_heads=2']
  assert cli.main(argv) == 1
  error = capsys.readouterr().err
  offline = huggingface_hub.constants.HF_HUB_OFFLINE
  why = 'HF_HUB_OFFLINE is set' if offline else 'no connection'
  assert error == (
    f'gqa-flax convert: There is no folder {ID}, and the model {ID} could not '
    f'be downloaded from the Hugging Face Hub ({why}), and the cache {cache} '
    'does not hold all of it; connect to the network and try again, or give '
    f'DIR after `hf download {ID} --local-dir DIR` on a machine that is '
    'connected.\n'
  )
  assert not (tmp_path / 'out').exists()


@pytest.mark.usefixtures('unreachable')
def test_an_incomplete_cache_is_not_taken_for_the_model(cache, model):
  pytest.importorskip('torch')
  snapshot = put(cache, model)
  (snapshot / 'model.safetensors').unlink()
  with pytest.raises(FileNotFoundError, match='has none of model.safetensors'):
    formats.open_checkpoint(ID)
  # As huggingface_hub notes what is to be there.
  trees = snapshot.parents[1] / 'trees'
  trees.mkdir()
  names = ['config.json', 'model.safetensors']
  entry = {'size': 1, 'blob_id': '0' * 40}
  (trees / f'{COMMIT}.json').write_text(
    json.dumps({'format_version': 1, 'files': {name: entry for name in names}})
  )
  with pytest.raises(FileNotFoundError, match='does not hold all of it'):
    formats.open_checkpoint(ID)


def test_a_folder_of_the_name_comes_first(cache, model, tmp_path):
  put(cache, model)
  formats.save_params(ID, *gqa_flax.load_params(model), 'hugging_face', step=5)
  assert formats.open_checkpoint(ID).step == 5
  (tmp_path / 'work' / ID).rename(tmp_path / 'work' / 'google' / 'other')
  with pytest.raises(FileNotFoundError, match=f'or hf://{ID} for a model on'):
    formats.open_checkpoint(ID)


def test_an_export_carries_the_tokenizer(model, tmp_path):
  output = tmp_path / 'out'
  argv = ['convert', str(model), str(output), '--num_kv_heads=2', '--step=7']
  assert cli.main([*argv, '--gin.OUTPUT_FORMAT=hugging_face']) == 0
  for name, content in TOKENIZER.items():
    assert (output / name).read_bytes() == content
  assert 'its files are copied' in (output / 'README.md').read_text()


class _Server(http.server.BaseHTTPRequestHandler):
  """The part of the Hub's interface that downloads need."""

  model: pathlib.Path
  asked: list[str]

  def do_GET(self):
    self.answer()

  def do_HEAD(self):
    self.answer()

  def answer(self):
    path = self.path.partition('?')[0].removeprefix(f'/api/models/{ID}')
    files = {file.name: file.read_bytes() for file in self.model.iterdir()}
    headers = {}
    if path == '/revision/main':
      body = json.dumps({'id': ID, 'modelId': ID, 'sha': COMMIT}).encode()
    elif path == f'/tree/{COMMIT}':
      body = json.dumps(
        [
          {
            'type': 'file',
            'path': name,
            'size': len(content),
            'oid': hashlib.sha1(content).hexdigest(),
          }
          for name, content in files.items()
        ]
      ).encode()
    elif path.startswith(f'/{ID}/resolve/{COMMIT}/'):
      name = path.rpartition('/')[2]
      self.asked.append(name)
      body = files[name]
      etag = hashlib.sha1(body).hexdigest()
      headers = {'ETag': f'"{etag}"', 'X-Repo-Commit': COMMIT}
    else:
      self.send_error(404)
      return
    self.send_response(200)
    for name, value in headers.items():
      self.send_header(name, value)
    self.send_header('Content-Length', str(len(body)))
    self.end_headers()
    if self.command == 'GET':
      self.wfile.write(body)

  def log_message(self, *_):
    pass


def test_what_is_read_is_downloaded_and_nothing_else(model, tmp_path):
  source = tmp_path / 'source'
  source.mkdir()
  for file in model.iterdir():
    (source / file.name).write_bytes(file.read_bytes())
  for name in ('pytorch_model.bin', 'tf_model.h5', 'flax_model.msgpack'):
    (source / name).write_bytes(b'large')
  handler = type('Handler', (_Server,), {'model': source, 'asked': []})
  server = http.server.ThreadingHTTPServer(('localhost', 0), handler)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  env = {
    **os.environ,
    'HF_ENDPOINT': f'http://localhost:{server.server_port}',
    'HF_HOME': str(tmp_path / 'home'),
    'HF_HUB_CACHE': str(tmp_path / 'hub'),
    'NO_PROXY': 'localhost',
  }
  code = (
    'import sys, gqa_flax\n'
    f'params, _ = gqa_flax.load_params({ID!r})\n'
    "print(params['token_embedder']['embedding'].sum())\n"
  )

  def load(**extra):
    return subprocess.run(
      [sys.executable, '-c', code],
      env={**env, **extra},
      stdout=subprocess.PIPE,
      text=True,
      check=True,
    )

  first = load()
  server.shutdown()
  server.server_close()
  assert {*handler.asked} == {'config.json', 'model.safetensors', *TOKENIZER}
  # From now on without a server.
  assert load(HF_HUB_OFFLINE='1').stdout == first.stdout
  assert load().stdout == first.stdout
