"""Arrays on disk that are read when they are asked for, some rows at a time."""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
from etils import epath

from gqa_flax.config import T5Config

# Rows are read together up to this many bytes, which is what T5X's own chunks
# hold at most.
SLAB_BYTES = 64 * 2**20
_SHOWN = 8
# What parameters are written in.
DTYPES = {'float32': np.float32, 'bfloat16': ml_dtypes.bfloat16}


@dataclasses.dataclass(frozen=True)
class LazyArray:
  """An array that lies elsewhere, of at least one axis.

  Attributes:
    shape: of the array.
    dtype: of what `read_rows` returns.
    read_rows: gives rows start..stop (axis 0) as a NumPy array in C order;
      raises ValueError, naming the array and its file, if they cannot be had.
    row_step: rows that are stored together; reading multiples of it from a
      multiple of it decodes nothing twice.
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  read_rows: Callable[[int, int], np.ndarray]
  row_step: int = 1

  @classmethod
  def of(cls, array) -> 'LazyArray':
    """Wraps an array in memory."""
    return cls(
      tuple(array.shape),
      np.dtype(array.dtype),
      lambda start, stop: np.asarray(array[start:stop]),
    )

  def read(self) -> np.ndarray:
    """Returns the whole array."""
    return self.read_rows(0, self.shape[0])

  def astype(self, dtype) -> 'LazyArray':
    """Returns the same array, cast as it is read."""
    dtype = np.dtype(dtype)
    if dtype == self.dtype:
      return self
    read_rows = self.read_rows
    return dataclasses.replace(
      self,
      dtype=dtype,
      read_rows=lambda start, stop: read_rows(start, stop).astype(dtype),
    )

  def slabs(self, max_bytes: int = SLAB_BYTES) -> Iterator[tuple[int, int]]:
    """Yields (start, stop) of the rows to read at a time, in order.

    Args:
      max_bytes: a slab is the most multiples of `row_step` that fit, and one
        multiple if none does.
    """
    row_bytes = self.dtype.itemsize * int(np.prod(self.shape[1:]))
    steps = max_bytes // max(1, row_bytes * self.row_step)
    rows = max(1, steps) * self.row_step
    for start in range(0, self.shape[0], rows):
      yield start, min(start + rows, self.shape[0])


@dataclasses.dataclass(frozen=True)
class StoredCheckpoint:
  """A checkpoint of any format, opened but not read.

  Attributes:
    format: 't5x', 't5x_legacy', 'hugging_face' or 'native'.
    path: of the very checkpoint, or hf://ID@COMMIT of a model on the Hub.
    step: steps since the very first of pre-training; None where the files do
      not say, as in Hugging Face's format.
    config: read from the shapes (and from a config file where there is one).
    params: float32, by T5X name: 'decoder/layers_0/self_attention/key/kernel'.
    slots: Adafactor's statistics, float32, by the parameter's name and
      '/v_row', '/v_col' or '/v', without T5X's placeholders of shape (1,);
      None where no optimizer state is stored.
    count: Adafactor's own count of steps, by which its memory lengthens; 0
      without slots, None where the files do not say.
    skipped: names in the file that are no parameter, each with the reason.
    model_type: as Hugging Face's config.json has it, None in other formats.
    companions: files of the tokenizer and of generation beside the arrays, by
      name; only Hugging Face's format has them.
  """

  format: str
  path: str
  step: int | None
  config: T5Config
  params: Mapping[str, LazyArray]
  slots: Mapping[str, LazyArray] | None = None
  count: int | None = 0
  skipped: Mapping[str, str] = dataclasses.field(default_factory=dict)
  model_type: str | None = None
  companions: Mapping[str, epath.Path] = dataclasses.field(default_factory=dict)


def check_finite(rows: np.ndarray, name: str, where, start: int | None = None):
  """Raises ValueError if not all values of some rows are numbers.

  Args:
    rows: of a parameter.
    name: of the parameter.
    where: the checkpoint's path.
    start: the first of the rows, if known.
  """
  # A sum is finite if all are, or else the rows have to be looked at.
  if np.isfinite(rows.sum(dtype=np.float64)):
    return
  finite = np.isfinite(rows.astype(np.float32))
  if not finite.all():
    place = (
      '' if start is None else f' in rows {start} to {start + len(rows) - 1}'
    )
    bad = int(rows.size - finite.sum())
    raise ValueError(
      f'{name} of {where} has {bad} value(s) that are NaN or infinite{place}; '
      'the checkpoint is damaged: give an earlier one.'
    )


def listed(problems: Sequence[str]) -> str:
  """Returns the first problems for an error's one sentence, and how many more.

  Args:
    problems: at least one.
  """
  more = len(problems) - _SHOWN
  tail = f'; and {more} more' if more > 0 else ''
  return '; '.join(problems[:_SHOWN]) + tail


def kvstore(path) -> dict[str, Any]:
  """Returns the TensorStore spec of a folder, local or on gs:// or s3://."""
  text = str(path)
  for scheme, driver in (('gs://', 'gcs'), ('s3://', 's3')):
    if text.startswith(scheme):
      bucket, _, rest = text.removeprefix(scheme).partition('/')
      return {'driver': driver, 'bucket': bucket, 'path': f'{rest}/'}
  return {'driver': 'file', 'path': f'{text}/'}


def reason(error: BaseException) -> str:
  """Returns what an error of reading says, without a library's own codes."""
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  text = (str(error).splitlines() or [type(error).__name__])[0]
  text = re.sub(r'\b[A-Z]+(?:_[A-Z]+)*: ', '', text)
  return re.split(r' \[(?:tensorstore_spec|source locations)=', text)[0][:300]
