"""TFDS's own builders on raw files, without a network."""

import contextlib
import pathlib
from collections.abc import Iterator
from unittest import mock

import tensorflow as tf
import tensorflow_datasets as tfds

from gqa_flax.data import caching

from . import c4
from .prose import RawFiles


def prepare(raw: RawFiles, data_dir: pathlib.Path) -> None:
  """Makes a data set in TFDS's folder from its raw files."""
  builder = tfds.builder(raw.name, data_dir=data_dir)
  if raw.name == c4.NAME:
    _write(builder, raw)
    return
  config = tfds.download.DownloadConfig(
    manual_dir=raw.manual_dir,
    num_shards=raw.num_shards,
    try_download_gcs=False,
    beam_options=caching.beam_options([]),
  )
  with offline(raw):
    builder.download_and_prepare(download_config=config)


@contextlib.contextmanager
def offline(raw: RawFiles) -> Iterator[None]:
  """Lets builders find their downloads among the raw files, or fail."""

  def find(self, addresses):
    del self
    return tf.nest.map_structure(raw.downloads.__getitem__, addresses)

  def refuse(self, resource):
    raise AssertionError(f'{raw.name} asks the network for {resource.url}.')

  with mock.patch.multiple(
    tfds.download.DownloadManager, download_and_extract=find, _download=refuse
  ):
    yield


def _write(builder: tfds.core.DatasetBuilder, raw: RawFiles) -> None:
  """Writes the examples themselves, in their order, by the builder's info."""
  builder.data_path.mkdir(parents=True)
  writer = tfds.core.SequentialWriter(
    builder.info,
    max_examples_per_shard=-(-len(raw.examples['train']) // raw.num_shards),
  )
  writer.initialize_splits(list(raw.examples))
  writer.add_examples(raw.examples)
  writer.close_all()
