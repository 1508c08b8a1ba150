"""Models of the Hugging Face Hub, through `huggingface_hub` and its cache."""

import contextlib
import functools
import importlib.util
import re
from collections.abc import Iterator
from typing import NamedTuple

from etils import epath

from gqa_flax.checkpoints import published
from gqa_flax.checkpoints.arrays import reason
from gqa_flax.checkpoints.hugging_face_files import COMPANIONS

_ID = re.compile(
  r'(hf://|https://huggingface\.co/)?([A-Za-z0-9][\w.-]*(?:/[\w.-]+)?)'
  r'(?:@([\w./-]*\w))?/?',
  re.ASCII,
)
# The folder of a model in the cache.
_SNAPSHOT = re.compile(r'models--([\w.-]+)/snapshots/([0-9a-f]+)', re.ASCII)
_COMMIT = re.compile('[0-9a-f]{40}')
# The arrays, in the order in which `hugging_face_files` looks for them.
_SAFETENSORS = (
  'model.safetensors',
  'model.safetensors.index.json',
  'model-*-of-*.safetensors',
)
_PICKLES = (
  'pytorch_model.bin',
  'pytorch_model.bin.index.json',
  'pytorch_model-*-of-*.bin',
)
# Who published the checkpoints of `published`.
_OWNERS = ('google', 'google-t5')


class Model(NamedTuple):
  """A model on the Hub.

  Attributes:
    id: Its owner and name, such as 'google/t5-v1_1-small'.
    revision: A branch, tag or commit; None is the default branch.
    given: As the user wrote it.
  """

  id: str
  revision: str | None
  given: str

  @property
  def is_url(self) -> bool:
    """Whether it can be nothing but a model on the Hub."""
    return '://' in self.given


def parse(path) -> Model | None:
  """Returns the model that a path may name, or None.

  Args:
    path: 'hf://owner/name', 'https://huggingface.co/owner/name', 'hf://name'
      for a model without an owner, or 'owner/name', each perhaps with
      '@revision'.
  """
  match = _ID.fullmatch(str(path))
  if not match or not (match[1] or '/' in match[2]):
    return None
  return Model(match[2], match[3], str(path))


def name_of(folder) -> str | None:
  """Returns 'hf://owner/name@commit' of a folder in the Hub's cache, or None.

  A record that says so can be followed on another machine.
  """
  match = _SNAPSHOT.search(str(folder))
  if match is None:
    return None
  return f'hf://{match[1].replace("--", "/")}@{match[2]}'


def published_step(name: str | None) -> int | None:
  """Returns the step of a model by its name from `name_of`, where it is known.

  Only of its publishers' own: others may give a model of theirs the same name.
  """
  model = parse(name)
  owner, _, name = model.id.partition('/') if model else ('', '', '')
  return published.step_of(name) if owner in _OWNERS else None


def download(model: Model) -> epath.Path:
  """Returns the folder of a model, downloading what the cache lacks of it.

  Config, arrays and the tokenizer's files alone are downloaded, with a
  progress bar; without a network the cache has to hold them.

  Raises:
    FileNotFoundError: There is no such model, or neither the network nor the
      cache has it.
    ImportError: The model can only be read with torch, which is not installed.
  """
  problem = None
  folder = None
  for arrays in (_SAFETENSORS, _PICKLES):
    if arrays is _PICKLES and problem is None:
      _require_torch(model)
    try:
      folder = _snapshot(model, arrays)
    except (OSError, ValueError) as error:
      problem = problem or error
      continue
    if _has(folder, arrays):
      return folder
  if problem is not None:
    text = _why_not(model, problem)
    raise FileNotFoundError(text[0].upper() + text[1:]) from problem
  return folder  # whoever opens it says what is missing


def _has(folder: epath.Path, arrays) -> bool:
  """Whether a folder has arrays in one file, or the index of shards."""
  return any((folder / name).exists() for name in arrays[:2])


def _snapshot(model: Model, arrays) -> epath.Path:
  """Downloads a model, or finds it in the cache where that fails.

  Args:
    model: The model.
    arrays: Patterns of the files of its arrays.
  """
  import huggingface_hub  # late: it takes a moment to load

  get = functools.partial(
    huggingface_hub.snapshot_download,
    model.id,
    revision=model.revision,
    allow_patterns=['config.json', *COMPANIONS, *arrays],
  )
  with _quiet(huggingface_hub.logging):
    if _COMMIT.fullmatch(model.revision or ''):
      # It does not change, and the library asks the network again and again.
      with contextlib.suppress(Exception):
        folder = epath.Path(get(local_files_only=True))
        if _has(folder, arrays):
          return folder
    try:
      return epath.Path(get())
    except Exception as error:
      problem = error
    with contextlib.suppress(Exception):
      return epath.Path(get(local_files_only=True))
  if isinstance(problem, OSError | ValueError):
    raise problem
  raise OSError(str(problem)) from problem  # of the connection, most often


@contextlib.contextmanager
def _quiet(logging) -> Iterator[None]:
  """Keeps the library's warnings from between progress bars."""
  verbosity = logging.get_verbosity()
  logging.set_verbosity_error()
  try:
    yield
  finally:
    logging.set_verbosity(verbosity)


def _require_torch(model: Model):
  """Says before gigabytes are downloaded that they could not be read."""
  if importlib.util.find_spec('torch') is None:
    raise ImportError(
      f'No {_SAFETENSORS[0]} of {model.id} was found on the Hugging Face Hub '
      f'or, without a network, in its cache, and {_PICKLES[0]} can only be '
      'read with torch, which is not installed; connect to the network, '
      f'install torch, or give a revision that has {_SAFETENSORS[0]} '
      f'(hf://{model.id}@REVISION).'
    )


def _why_not(model: Model, error: Exception) -> str:
  """Returns one sentence: the model, the cache, and the remedy."""
  from huggingface_hub import constants, errors

  no_folder = '' if model.is_url else f'there is no folder {model.given}, and '
  name = model.given if model.is_url else model.id
  if isinstance(error, errors.GatedRepoError):
    return (
      f'the model {name} on the Hugging Face Hub is not open to all; ask '
      'for access on its page there, log in (hf auth login), and start again.'
    )
  if isinstance(error, errors.RepositoryNotFoundError):
    return (
      f'{no_folder}there is no public model {name} on the Hugging Face '
      'Hub; check the name, or log in if it is private (hf auth login).'
    )
  if isinstance(error, errors.RevisionNotFoundError):
    return (
      f'the model {name} on the Hugging Face Hub has no revision '
      f'{model.revision!r}; check what follows the @.'
    )
  if isinstance(error, errors.HFValidationError):
    return (
      f'{no_folder}no model on the Hugging Face Hub can be called {name}; '
      'check the name.'
    )
  return (
    f'{no_folder}the model {name} could not be downloaded from the Hugging '
    f'Face Hub ({_short(error)}), and the cache {constants.HF_HUB_CACHE} does '
    'not hold all of it; connect to the network and try again, or give DIR '
    f'after `hf download {model.id} --local-dir DIR` on a machine that is '
    'connected.'
  )


def _short(error: BaseException) -> str:
  """Returns what failed, without the library's advice."""
  from huggingface_hub import constants, errors

  while error.__cause__ is not None:
    error = error.__cause__
  if constants.HF_HUB_OFFLINE:
    return 'HF_HUB_OFFLINE is set'
  if isinstance(error, errors.HfHubHTTPError):
    return f'status {error.response.status_code}'
  if type(error).__name__ in ('ConnectError', 'ConnectTimeout', 'ProxyError'):
    return 'no connection'
  return reason(error)
