"""The settings: every macro of the gin files with its type and meaning.

Errors and `--help` are made from this table. A setting is checked as text,
before anything slow is imported.
"""

import dataclasses

from gqa_flax.cli.setting_types import (
  Boolean,
  Choice,
  Configurable,
  Files,
  Integer,
  Lengths,
  Name,
  Number,
  Path,
  Text,
  TfdsName,
  Type,
)

NONE = (None,)
AUTO = ('auto',)


@dataclasses.dataclass(frozen=True)
class Setting:
  """A macro.

  Attributes:
    type: Of its values.
    meaning: A phrase for `--help`.
  """

  type: Type
  meaning: str


SETTINGS: dict[str, Setting] = {
  # Models and attention.
  'NUM_KV_HEADS': Setting(
    Integer(1, also=NONE),
    'Key/value heads, a divisor of the query heads; None is multi-head.',
  ),
  'DROPOUT_RATE': Setting(Number(0, below=1), 'Share of activations dropped.'),
  'VOCAB_SIZE': Setting(Integer(1), "Rows of the model's embedding."),
  # Tasks.
  'MIXTURE_OR_TASK_NAME': Setting(Name(), 'Task, as registered.'),
  'TASK_FEATURE_LENGTHS': Setting(
    Lengths(), 'Tokens of inputs and targets, EOS included.'
  ),
  'TFDS_NAME': Setting(TfdsName(), 'TFDS builder, config and version.'),
  'PREFIX': Setting(Text(), 'Text before every input.'),
  'VOCABULARY': Setting(
    Configurable('@vocabulary.sentencepiece()'), 'Vocabulary of the task.'
  ),
  'VOCABULARY_FILE': Setting(
    Path(also=NONE), "SentencePiece model; None is T5's own."
  ),
  'USE_CACHED_TASKS': Setting(
    Boolean(), "Whether to read the task's cache of token ids."
  ),
  'FILES': Setting(Files(), 'Your own files, by split.'),
  'INPUTS': Setting(
    Text(also=NONE), 'Template of the inputs; None is span corruption.'
  ),
  'TARGETS': Setting(Name(), 'Template of the targets.'),
  'METRIC': Setting(
    Choice(('rouge', 'bleu', 'chrf', 'trivia_qa'), also=NONE),
    'Metric of your own files.',
  ),
  'ANSWERS': Setting(
    Name(also=NONE), 'Column with the accepted answers, for trivia_qa.'
  ),
  'SPEAKERS': Setting(Boolean(), "Whether MediaSum's speakers are named."),
  'SEPARATOR': Setting(Text(), 'Text between the articles of Multi-News.'),
  'EVIDENCE': Setting(
    Choice(('wikipedia', 'search', 'both')), 'Evidence of TriviaQA.'
  ),
  'LOWERCASE': Setting(Boolean(), 'Whether TriviaQA is lower-cased.'),
  'DROP_WITHOUT_EVIDENCE': Setting(
    Boolean(), 'Whether TriviaQA leaves out questions without a page.'
  ),
  # Training.
  'MODEL_DIR': Setting(Path(), 'Folder of the run.'),
  'TRAIN_STEPS': Setting(
    Integer(1), 'Last step, counted from the first step of pre-training.'
  ),
  'INITIAL_CHECKPOINT_PATH': Setting(
    Path(also=NONE),
    'Checkpoint to begin with, of any format, or its id on the Hugging Face '
    'Hub; None initializes parameters.',
  ),
  'OPTIMIZER_STATE': Setting(
    Choice(('reset', 'carry')), "Whether to carry Adafactor's statistics."
  ),
  'BATCH_SIZE': Setting(Integer(1), 'Rows of a batch, over all devices.'),
  'RANDOM_SEED': Setting(Integer(0), 'Seed of every random draw.'),
  'DATA_SHARDS': Setting(
    Integer(1, also=NONE), 'Streams of training data; None is one per host.'
  ),
  'DATA_POSITION': Setting(
    Choice(('restore', 'reset')),
    'What to do with a saved position of other batches.',
  ),
  'PACK': Setting(Boolean(), 'Whether several examples share a row.'),
  'EVALUATE_EVERY': Setting(Integer(1), 'Steps between evaluations.'),
  'RUN_EVAL_BEFORE_TRAINING': Setting(
    Boolean(), 'Whether to evaluate before the first step.'
  ),
  'CHECKPOINT_EVERY': Setting(Integer(1), 'Steps between checkpoints.'),
  'VALIDATION_EXAMPLES': Setting(
    Integer(1, also=NONE), 'Examples of the validation loss; None is all.'
  ),
  'LOSS_NORMALIZING_FACTOR': Setting(
    Number(
      0,
      above_minimum=True,
      also=(
        *('NUM_REAL_TARGET_TOKENS', 'NUM_TOTAL_TARGET_TOKENS'),
        *('AVERAGE_PER_SEQUENCE', None),
      ),
    ),
    'What the summed loss is divided by.',
  ),
  'MICROBATCHES': Setting(
    Integer(1), 'Parts of a batch over which gradients are accumulated.'
  ),
  'MESH_DATA': Setting(
    Integer(1, also=AUTO), 'Parts of the batch, each with all parameters.'
  ),
  'MESH_FSDP': Setting(
    Integer(1, also=AUTO), 'Parts of the batch that divide parameters, too.'
  ),
  'MESH_MODEL': Setting(
    Integer(1, also=AUTO), 'Parts of heads, MLP and vocabulary.'
  ),
  'REMAT_POLICY': Setting(
    Choice(('none', 'dots', 'full')), 'What is recomputed, to save memory.'
  ),
  'KEEP_CHECKPOINTS': Setting(
    Integer(1, also=NONE), 'Latest checkpoints to keep; None keeps all.'
  ),
  'KEEP_BEST': Setting(
    Name(also=NONE), 'Metric whose best checkpoint is kept as well.'
  ),
  'NON_FINITE': Setting(
    Choice(('stop', 'skip')), 'What to do with a loss that is not finite.'
  ),
  'HANG_SECONDS': Setting(
    Number(0, below=1e9, also=NONE),
    'Seconds without progress that end the job.',
  ),
  'COMPILATION_CACHE': Setting(Path(also=NONE), 'Folder of compiled programs.'),
  'WARMUP_STEPS': Setting(
    Integer(1), 'Steps at a constant rate before 1 / sqrt(step).'
  ),
  'LEARNING_RATE': Setting(
    Number(0, above_minimum=True), 'Constant learning rate.'
  ),
  # Conversion.
  'INPUT': Setting(
    Path(),
    'Checkpoint to convert, of any format, or its id on the Hugging Face Hub.',
  ),
  'OUTPUT': Setting(Path(), 'Folder for the converted checkpoint.'),
  'CONVERSION_METHOD': Setting(
    Choice(('mean', 'first', 'random', 'aligned', 'subspace')),
    'How heads of a group become one.',
  ),
  'INPUT_FORMAT': Setting(
    Choice(('t5x_legacy', 't5x', 'native', 'hugging_face'), also=NONE),
    'Format of INPUT; None recognizes it.',
  ),
  'STEP': Setting(
    Integer(0, also=NONE),
    'Steps of pre-training of INPUT, where its format does not say.',
  ),
  'OUTPUT_FORMAT': Setting(
    Choice(('native', 't5x_legacy', 'hugging_face')), 'Format of OUTPUT.'
  ),
  'OUTPUT_DTYPE': Setting(
    Choice(('float32', 'bfloat16')), 'Dtype of parameters on disk.'
  ),
  'PERMUTE_HEADS': Setting(
    Boolean(), 'Whether similar heads share a group, instead of neighbors.'
  ),
  'CALIBRATION_TASK': Setting(
    Name(also=NONE), "Task for the statistics of 'subspace' and 'aligned'."
  ),
  'CALIBRATION_TOKENS': Setting(Integer(1), 'Target tokens of that task.'),
  'STATISTICS': Setting(
    Path(also=NONE), 'File of the statistics: read, or written if absent.'
  ),
  # Evaluation, decoding and timing.
  'CHECKPOINT': Setting(
    Path(),
    'Checkpoint to read: a folder of any format, a MODEL_DIR, or an id on the '
    'Hugging Face Hub.',
  ),
  'OUTPUT_DIR': Setting(Path(), 'Folder for scores and predictions.'),
  'BEST_BY': Setting(
    Name(also=NONE), 'Metric whose best checkpoint is read; None: the latest.'
  ),
  'SPLIT': Setting(Name(), 'Split to evaluate.'),
  'NUM_EXAMPLES': Setting(
    Integer(1, also=NONE), 'Examples of the split; None is all.'
  ),
  'DECODE': Setting(
    Configurable('@decode.greedy_decode'), 'How to generate tokens.'
  ),
  'CACHE_SHARDING': Setting(
    Choice(('auto', 'heads', 'batch')), 'What MESH_MODEL divides of the cache.'
  ),
  'PARAM_DTYPE': Setting(
    Choice(('float32', 'bfloat16', 'int8')), 'Dtype of the kernels.'
  ),
  'CACHE_DTYPE': Setting(Choice(('auto', 'int8')), 'Dtype of the KV cache.'),
  'REPEATS': Setting(Integer(1), 'Measurements, of which the median counts.'),
}
# Where a command means something else by the same name.
_OF_COMMAND = {
  ('time', 'BATCH_SIZE'): Setting(
    Integer(1, also=NONE), 'Rows of a batch; None is the most that fit.'
  ),
  ('convert', 'NUM_KV_HEADS'): Setting(
    Integer(1), 'Key/value heads, a divisor of those of INPUT.'
  ),
}


def setting(name: str, command: str) -> Setting | None:
  """Returns a setting as a command understands it, or None if it has none."""
  return _OF_COMMAND.get((command, name)) or SETTINGS.get(name)
