"""What the quickstart runs: models, settings, and stages in their order."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Model:
  """The checkpoint, or one way to convert it."""

  name: str
  num_kv_heads: int
  method: str | None  # None is the checkpoint as it is

  @property
  def slug(self) -> str:
    """The name as a folder's."""
    return self.name.lower().replace(' ', '_').replace('-', '_')


MHA = Model('MHA', 6, None)
GQA_SUBSPACE = Model('GQA-2 subspace', 2, 'subspace')
GQA_MEAN = Model('GQA-2 mean', 2, 'mean')
MQA_SUBSPACE = Model('MQA subspace', 1, 'subspace')
MQA_MEAN = Model('MQA mean', 1, 'mean')
MODELS = (MHA, GQA_SUBSPACE, GQA_MEAN, MQA_SUBSPACE, MQA_MEAN)
FINETUNED = (MHA, MQA_MEAN, MQA_SUBSPACE)  # no time for more in ten minutes

SAID = {'converted': 'before training', 'finetuned': 'fine-tuned'}


@dataclasses.dataclass(frozen=True)
class Settings:
  """What decides the numbers; the macros of gin_configs/quickstart.gin.

  Attributes:
    FINETUNE_STEPS: of each model.
    BATCH_SIZE: rows a step.
    LEARNING_RATE: constant, as in the paper.
    TASK_FEATURE_LENGTHS: tokens of inputs and targets, EOS included.
    CALIBRATION_TOKENS: target tokens that `subspace` is calibrated on.
    NUM_EXAMPLES: articles of the test split that are decoded.
    RANDOM_SEED: of the order of the training data.
  """

  FINETUNE_STEPS: int
  BATCH_SIZE: int
  LEARNING_RATE: float
  TASK_FEATURE_LENGTHS: Mapping[str, int]
  CALIBRATION_TOKENS: int
  NUM_EXAMPLES: int
  RANDOM_SEED: int


@dataclasses.dataclass(frozen=True)
class Stage:
  """One stage: its name, what the progress bar says, and how long it takes."""

  name: str
  label: str
  seconds: float


# What the progress bar says, and seconds on two quiet cores, a model each.
_KINDS = {
  'convert': ('converting to', 10),
  'converted': ('decoding with', 8),
  'finetune': ('fine-tuning', 125),
  'finetuned': ('decoding with fine-tuned', 5),
}


def stages() -> list[Stage]:
  """Returns all stages, in the order in which they run."""
  before = [
    _stage(kind, model)
    for model in MODELS
    for kind in ('convert', 'converted')
    if kind == 'converted' or model.method is not None
  ]
  after = [
    _stage(kind, model)
    for model in FINETUNED
    for kind in ('finetune', 'finetuned')
  ]
  return [
    Stage('checkpoint', 'dequantizing flan-t5-small', 8),
    Stage('baselines', 'scoring baselines', 9),
    *before,
    *after,
  ]


def scored() -> dict[str, tuple[Model, ...]]:
  """Returns the models that are scored, by when."""
  return {'converted': MODELS, 'finetuned': FINETUNED}


def _stage(kind: str, model: Model) -> Stage:
  doing, seconds = _KINDS[kind]
  return Stage(f'{kind}/{model.slug}', f'{doing} {model.name}', seconds)
