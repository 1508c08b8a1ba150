"""The paper's data sets in small, made offline by TFDS's own builders."""

import functools
import re

import numpy as np
import pytest
import seqio

from .raw_files import preparing, registry


def to_plain(value):
  """Returns what TFDS yields in plain Python, as raw examples are."""
  if isinstance(value, dict):
    return {name: to_plain(item) for name, item in value.items()}
  if isinstance(value, np.ndarray):
    return [to_plain(item) for item in value.tolist()]
  if isinstance(value, bytes):
    return value.decode()
  return value


def split_rows(number, num_rows, process):
  """The rows of a process where all have about as many, one after another."""
  return np.array_split(np.arange(num_rows), number)[process]


@pytest.fixture(scope='session')
def as_processes():
  """From what makes an iterator to those of a number of processes."""

  def make_all(make, number, rows=split_rows):
    iterators = [make() for _ in range(number)]
    for process, iterator in enumerate(iterators):
      iterator.assign(functools.partial(rows, number), number, process)
    return iterators

  return make_all


@pytest.fixture(scope='session')
def plain():
  return to_plain


@pytest.fixture(scope='session')
def data_set_names():
  return list(registry.WRITERS)


@pytest.fixture(scope='session')
def raw_files(tmp_path_factory):
  """From the name of a data set to its `RawFiles`, written once."""
  folder = tmp_path_factory.mktemp('raw_files')

  @functools.cache
  def write(name):
    return registry.WRITERS[name](folder / re.sub(r'\W', '_', name))

  return write


@pytest.fixture(scope='session')
def prepare(raw_files, tmp_path_factory):
  """From the name of a data set, prepared once, to TFDS's folder.

  All of them are in one folder, which is not in force by this: `use_tfds` is
  for that.
  """
  data_dir = tmp_path_factory.mktemp('tensorflow_datasets')

  @functools.cache
  def prepare_once(name):
    preparing.prepare(raw_files(name), data_dir)
    return data_dir

  return prepare_once


@pytest.fixture
def use_tfds(prepare, raw_files, monkeypatch):
  """Prepares a data set by name and lets the test find it; returns `RawFiles`.

  The folder is in force for seqio in this process, and for TFDS in those that
  the test starts, until the test ends.
  """

  def use(name):
    data_dir = str(prepare(name))
    monkeypatch.setenv('TFDS_DATA_DIR', data_dir)
    monkeypatch.setattr(seqio.utils, '_TFDS_DATA_DIR_OVERRIDE', data_dir)
    return raw_files(name)

  return use


@pytest.fixture
def tfds_data_dir(use_tfds, prepare, data_set_names):
  """TFDS's folder with all data sets in it, in force as by `use_tfds`."""
  for name in data_set_names:
    use_tfds(name)
  return prepare(name)
