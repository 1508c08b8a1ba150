"""Bindings that contradict each other, name the unknown, or are unread."""

import pytest

# Settings that contradict each other or the data.
TOGETHER = [
  ('train', '--gin.MICROBATCHES=3', 'microbatches', '3', 'batch_size', '8'),
  ('train', '--gin.DATA_SHARDS=3', 'data_shards', '3', 'batch_size', '8'),
  ('train', '--gin.NUM_KV_HEADS=3', 'num_kv_heads', '3', '8', '[1, 2, 4, 8]'),
  ('convert', '--gin.NUM_KV_HEADS=3', 'num_kv_heads', '3', '8', '1, 2, 4, 8'),
  ('convert', '--gin.NUM_KV_HEADS=16', 'num_kv_heads', '16', '8'),
  ('train', '--gin.MESH_DATA=3', 'MESH_DATA', '3', '8 devices'),
  ('train', '--gin.MESH_MODEL=16', 'MESH_MODEL', '16', '8 devices'),
  ('train', '--gin.VOCAB_SIZE=200', 'vocab_size', '200', 'VOCABULARY', '259'),
  ('finetune', '--gin.NUM_KV_HEADS=2', '$native', '2', '8'),
  ('finetune', '--gin.VOCAB_SIZE=512', '$native', '512', '384'),
  ('finetune', '--gin.TRAIN_STEPS=7', 'TRAIN_STEPS', '7', 'step 7'),
  ('finetune', '--gin.TRAIN_STEPS=3', 'TRAIN_STEPS', '3', 'step 7'),
  ('finetune', '--gin.OPTIMIZER_STATE=carry', 'OPTIMIZER_STATE', '$native'),
  ('finetune', '--gin.METRIC=bleu', 'KEEP_BEST', 'rouge1', 'validation/bleu'),
  ('finetune', '--gin.METRIC=None', 'metric', 'own_files'),
  ('finetune', '--gin.USE_CACHED_TASKS=True', 'USE_CACHED_TASKS', 'own_files'),
  ('train', '--gin.USE_CACHED_TASKS=True', 'USE_CACHED_TASKS', 'own_files'),
  (
    'convert',
    '--gin.CALIBRATION_TASK=own_files',
    'CALIBRATION_TASK',
    'own_files',
    'mean',
  ),
  ('convert', '--gin.CONVERSION_METHOD=subspace', 'CALIBRATION_TASK'),
  ('convert', '--gin.OUTPUT_DTYPE=bfloat16', 'OUTPUT_DTYPE', 'bfloat16'),
  ('convert', '--gin.INPUT_FORMAT=hugging_face', 'INPUT_FORMAT', '$native'),
  ('convert', '--gin.OPTIMIZER_STATE=carry', 'OPTIMIZER_STATE', '$native'),
  (
    'convert',
    ['--gin.OPTIMIZER_STATE=carry', '--gin.OUTPUT_FORMAT=hugging_face'],
    'OPTIMIZER_STATE',
  ),
  ('train', '--gin.ANSWERS=summary', 'answers', 'summary', 'rouge'),
  ('train', ['--gin.INPUTS=None', '--gin.PREFIX=say: '], 'prefix', 'say:'),
  ('train', '--gin.INPUTS={txt}', 'txt', 'text'),
  ('train', '--gin.TARGETS={}', 'targets', '{}'),
  ('train', '--gin.TARGETS={summary', 'targets', '{summary'),
  ('train', '--gin.TARGETS=summary', 'targets', 'summary'),
  (
    'train',
    "--gin.FILES={'train': '$rows'}",
    'files',
    'validation',
  ),
  ('time', '--gin.NUM_KV_HEADS=3', 'num_kv_heads', '3', '8'),
  ('time', '--gin.MESH_MODEL=3', 'MESH_MODEL', '3', '8 devices'),
  ('estimate', '--gin.MESH_DATA=3', 'MESH_DATA', '3', '4'),
  ('evaluate', '--gin.METRIC=None', 'metric', 'own_files'),
]


@pytest.mark.parametrize('case', TOGETHER)
def test_contradictions(refused, case):
  command, changes, *fragments = case
  refused(command, changes, *fragments)


# Names of tasks, splits and metrics.
UNKNOWN = [
  ('finetune', '--gin.KEEP_BEST=validation/rogue1', 'KEEP_BEST', 'rouge1'),
  ('finetune', '--gin.KEEP_BEST=rouge1', 'KEEP_BEST', 'validation/rouge1'),
  ('finetune', '--gin.KEEP_BEST=test/rouge1', 'KEEP_BEST', 'validation/rouge1'),
  (
    'calibrate',
    '--gin.CALIBRATION_TASK=own_flies',
    *('CALIBRATION_TASK', 'own_flies', 'own_files'),
  ),
  ('evaluate', '--gin.SPLIT=vallidation', 'vallidation', 'train'),
  ('evaluate', '--gin.SPLIT=test', 'test', 'validation'),
  (
    'evaluate',
    '--gin.BEST_BY=validation/rouge9',
    *('BEST_BY', 'validation/rouge9', '$native'),
  ),
  (
    'train',
    [
      '--gin_file=gin_configs/tasks/cnn_dailymail.gin',
      '--gin.VOCABULARY=@seqio.ByteVocabulary()',
    ],
    *('cnn_dailymail:3.4.0', 'gqa-flax data prepare cnn_dailymail'),
  ),
  (
    'train',
    [
      '--gin_file=gin_configs/tasks/cnn_dailymail.gin',
      '--gin.TFDS_NAME=cnn_dailymial:3.4.0',
    ],
    *('TFDS_NAME', 'cnn_dailymial:3.4.0', 'cnn_dailymail'),
  ),
  (
    'train',
    [
      '--gin_file=gin_configs/tasks/cnn_dailymail.gin',
      '--gin.TFDS_NAME=cnn_dailymail',
    ],
    *('TFDS_NAME', 'cnn_dailymail', 'version'),
  ),
  (
    'evaluate',
    [
      '--gin_file=gin_configs/tasks/cnn_dailymail.gin',
      '--gin.TFDS_NAME=5',
    ],
    *('TFDS_NAME', '5'),
  ),
]


@pytest.mark.parametrize('case', UNKNOWN)
def test_unknown_names(refused, case):
  command, changes, *fragments = case
  refused(command, changes, *fragments)


# Bindings that nothing reads.
UNREAD = [
  ('train', '--gin.train_steps=9', 'train_steps', 'TRAIN_STEPS'),
  ('train', '--gin.Train_Steps=9', 'Train_Steps', 'TRAIN_STEPS'),
  ('train', '--gin.batch_size=8', 'batch_size', 'BATCH_SIZE'),
  ('train', '--gin.TRAIN_STEP=9', 'TRAIN_STEP', 'TRAIN_STEPS'),
  ('train', '--gin.LEARNING_RATE=0.1', 'LEARNING_RATE'),
  ('convert', '--gin.num_kv_heads=2', 'num_kv_heads', 'NUM_KV_HEADS'),
  ('convert', '--gin.METHOD=mean', 'METHOD'),
  ('evaluate', '--gin.split=test', 'split', 'SPLIT'),
  ('evaluate', '--gin.BEAM_SIZE=4', 'BEAM_SIZE'),
  ('infer', '--gin.SPLIT=test', 'SPLIT'),
  ('time', '--gin.repeats=3', 'repeats', 'REPEATS'),
  ('train', '--gin.loop.train.stepz=5', 'loop.train.stepz'),
  ('train', '--gin.looop.train.seed=5', 'looop'),
  ('train', '--gin.TRAIN_STEPS', '--gin.TRAIN_STEPS', '--gin.NAME=value'),
  ('train', '--gin.=5', '--gin.=5', '--gin.NAME=value'),
  ('train', '--gin.TRAIN STEPS=5', 'TRAIN STEPS'),
  ('train', '--gin.TRAIN_STEPS=@nothing()', '@nothing()', 'TRAIN_STEPS'),
  ('train', '--gin.TRAIN_STEPS=%NOTHING', 'NOTHING'),
  ('train', '--gin.TRAIN_STEPS=%TRAIN_STEPS', 'TRAIN_STEPS'),
  ('train', '--gin.VOCABULARY=@seqio.BiteVocabulary()', 'BiteVocabulary'),
  ('evaluate', '--gin.DECODE=@decode.gready_decode', 'decode.gready_decode'),
]


@pytest.mark.parametrize('case', UNREAD)
def test_unread_bindings(refused, case):
  command, changes, *fragments = case
  refused(command, changes, *fragments)
