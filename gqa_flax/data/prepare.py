"""Fetches a data set and writes it as TFDS reads it."""

import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec

import tensorflow_datasets as tfds
from etils import epath

from gqa_flax.data import caching, catalogue, on_disk
from gqa_flax.runtime import interrupts


def prepare(
  tfds_name: str,
  *,
  manual_dir: str | os.PathLike | None = None,
  pipeline_options: Sequence[str] = (),
) -> on_disk.OnDisk:
  """Fetches a data set and writes it below the data folder, unless it is there.

  TFDS writes under another name until all is there.

  Args:
    tfds_name: builder, configuration and version.
    manual_dir: where files that were fetched by hand lie; see
      `on_disk.manual_dir`.
    pipeline_options: Beam's, for builders that need it, such as
      '--runner=DataflowRunner'; by default Beam's local runner.

  Returns:
    What is on disk now.

  Raises:
    MissingDataError: what must be fetched by hand has not been, or what was
      prepared is not whole any more.
    ModuleNotFoundError: a package is needed and not installed, such as Beam.
    ConnectionError: it cannot be downloaded.
  """
  found = on_disk.find(tfds_name)
  if found.missing_files:
    raise on_disk.incomplete(found)  # TFDS would leave it as it is
  if found.is_whole:
    return found
  manual = epath.Path(manual_dir or on_disk.manual_dir()).expanduser()
  on_disk.require_manual_files(tfds_name, manual)
  config = tfds.download.DownloadConfig(manual_dir=manual)
  data_set = catalogue.of_any_version(tfds_name)
  if data_set:
    _check_packages(data_set)
  if pipeline_options or (data_set and data_set.beam):
    config = config.replace(beam_options=caching.beam_options(pipeline_options))
  try:
    builder = tfds.builder(tfds_name, data_dir=on_disk.data_dir())
  except (tfds.core.DatasetNotFoundError, AssertionError, ValueError) as error:
    raise on_disk.MissingDataError(
      f'TFDS has no data set {tfds_name}; check the name, the config and the '
      'version in TFDS_NAME.'
    ) from error
  try:
    with interrupts.cleanup(_remover_of_unfinished(found.folder)):
      builder.download_and_prepare(download_config=config)
  except (OSError, tfds.download.DownloadError) as error:
    if isinstance(error, FileNotFoundError | PermissionError):
      raise
    raise ConnectionError(
      f'{tfds_name} could not be downloaded ({_first_line(error)}); check the '
      'network and the space on disk, and give the command again: what was '
      'downloaded whole is kept.'
    ) from error
  return on_disk.find(tfds_name)


def _remover_of_unfinished(folder: epath.Path) -> Callable[[], None]:
  """Returns what removes the temporary folder that TFDS is about to make."""
  # Its name: a prefix, something random, and the version.
  pattern = f'incomplete.*_{folder.name}'
  earlier = {*folder.parent.glob(pattern)}

  def remove():
    for path in {*folder.parent.glob(pattern)} - earlier:
      path.rmtree()

  return remove


def _check_packages(data_set: catalogue.DataSet):
  missing = [p for p in data_set.packages if not find_spec(p)]
  if missing:
    raise ModuleNotFoundError(
      f'{data_set.tfds_name} is made with packages that are not installed: '
      f'run `pip install {" ".join(missing)}`, on the workers of '
      '--pipeline_options too.'
    )


def _first_line(error: Exception) -> str:
  text = str(error).strip() or repr(error)
  return text.splitlines()[0]
