"""What is on disk of a data set, and what is said of what is not."""

import json
import subprocess
import sys

import pytest

from gqa_flax.data import catalogue, on_disk

NAME = 'cnn_dailymail:3.4.0'


def write(data_dir, version='3.4.0', shards=(2, 1)):
  folder = data_dir / 'cnn_dailymail' / version
  folder.mkdir(parents=True)
  splits = [
    {
      'filepathTemplate': '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}',
      'name': 'train',
      'numBytes': '30',
      'shardLengths': [str(n) for n in shards],
    },
    # Old files have no template.
    {'name': 'test', 'numBytes': '7', 'shardLengths': ['1']},
  ]
  info = {'name': 'cnn_dailymail', 'fileFormat': 'tfrecord', 'splits': splits}
  (folder / 'dataset_info.json').write_text(json.dumps(info))
  # Each record has 16 bytes of length and checksums.
  for name, size in (
    ('train.tfrecord-00000-of-00002', 20 + 32),
    ('train.tfrecord-00001-of-00002', 10 + 16),
    ('test.tfrecord-00000-of-00001', 7 + 16),
  ):
    (folder / f'cnn_dailymail-{name}').write_bytes(bytes(size))
  return folder


def test_a_whole_data_set_is_described(tmp_path):
  folder = write(tmp_path)
  found = on_disk.require(NAME, 'cnn_dailymail', tmp_path)
  assert str(found.folder) == str(folder)
  assert found.examples == {'train': 3, 'test': 1}
  assert found.num_bytes == 37
  assert found.is_whole
  assert found.damaged_splits() == []


def test_what_tfds_wrote_is_whole(use_tfds, data_set_names, raw_files):
  for name in data_set_names:
    use_tfds(name)
    found = on_disk.require(name, 'any')
    assert found.damaged_splits() == []
    assert found.examples == {
      split: len(rows) for split, rows in raw_files(name).examples.items()
    }


def test_a_torn_file_is_seen(tmp_path):
  folder = write(tmp_path)
  with open(folder / 'cnn_dailymail-test.tfrecord-00000-of-00001', 'ab') as f:
    f.truncate(22)
  assert on_disk.find(NAME, tmp_path).damaged_splits() == ['test']


def test_a_missing_data_set_is_said_with_the_remedy(tmp_path):
  with pytest.raises(on_disk.MissingDataError) as error:
    on_disk.require(NAME, 'cnn_dailymail', tmp_path)
  assert str(error.value) == (
    "The data set cnn_dailymail:3.4.0 of task 'cnn_dailymail' is not in "
    f'{tmp_path}: fetch it with `gqa-flax data prepare cnn_dailymail`, or say '
    'with --tfds_data_dir where it is.'
  )


def test_another_version_is_named(tmp_path):
  write(tmp_path, '3.0.0')
  (tmp_path / 'cnn_dailymail' / '3.4.0.incomplete').mkdir()
  found = on_disk.find(NAME, tmp_path)
  assert not found.is_whole
  assert found.other_versions == ('3.0.0',)
  with pytest.raises(on_disk.MissingDataError, match=r'only version 3\.0\.0'):
    on_disk.require(NAME, 'cnn_dailymail', tmp_path)


def test_a_data_set_with_files_gone_is_not_whole(tmp_path):
  folder = write(tmp_path)
  (folder / 'cnn_dailymail-train.tfrecord-00001-of-00002').unlink()
  with pytest.raises(
    on_disk.MissingDataError,
    match=r'lacks 1 of its files in .*train\.tfrecord-00001-of-00002: remove',
  ):
    on_disk.require(NAME, 'cnn_dailymail', tmp_path)


def test_odd_descriptions_are_read_or_refused_in_a_sentence(tmp_path):
  folder = write(tmp_path)
  info = folder / 'dataset_info.json'
  described = json.loads(info.read_text())
  # JSON of protocol buffers leaves out what is empty.
  described['splits'].append({'name': 'empty'})
  info.write_text(json.dumps(described))
  assert on_disk.find(NAME, tmp_path).examples['empty'] == 0
  info.write_text('{"splits": [')
  with pytest.raises(
    on_disk.MissingDataError, match=f'{info} is not what TFDS'
  ):
    on_disk.find(NAME, tmp_path)


def test_what_must_be_fetched_by_hand_is_explained_by_check(tmp_path):
  with pytest.raises(on_disk.MissingDataError, match='gqa-flax data check med'):
    on_disk.require('media_sum:1.0.0', 'media_sum', tmp_path)


def test_a_name_needs_a_version():
  with pytest.raises(ValueError, match="'c4/en' has no version"):
    on_disk.find('c4/en')


def test_the_folder_is_tfds_own(monkeypatch, tmp_path):
  monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
  assert str(on_disk.data_dir()) == str(tmp_path)
  assert str(on_disk.data_dir('/elsewhere')) == '/elsewhere'
  monkeypatch.delenv('TFDS_DATA_DIR')
  monkeypatch.setenv('HOME', '/somebody')
  assert str(on_disk.data_dir()) == '/somebody/tensorflow_datasets'


def test_the_catalogue_names_what_the_tasks_read():
  from gqa_flax.data import tasks

  for name, data_set in catalogue.DATA_SETS.items():
    spec = tasks.TASKS[name]
    assert spec.choices['tfds_name'] == data_set.tfds_name
    assert catalogue.published(data_set.tfds_name) is data_set
  assert catalogue.published('cnn_dailymail:1.0.0') is None


def test_it_loads_no_tensorflow():
  code = (
    'import sys, gqa_flax.data.show, gqa_flax.data.on_disk, gqa_flax.cli\n'
    "heavy = {'tensorflow', 'jax', 'seqio', 'numpy', 'gin'} & {*sys.modules}\n"
    "assert heavy <= {'gin'}, heavy\n"
  )
  subprocess.run([sys.executable, '-c', code], check=True)
