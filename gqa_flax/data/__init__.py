"""From the name of a task to batches of numpy arrays.

  tasks            the seqio tasks, by name
  batches          batches of a task for training, losses and generation
  span_corruption  T5's pre-training objective as a seqio preprocessor
  embedded         a small corpus of Wikipedia introductions, and a vocabulary

This room and evaluation/evaluate.py are the only ones that load TensorFlow
and seqio.
"""

import os

# TensorFlow reads it once, when it is first imported; without it, every
# command would begin with lines about missing CUDA drivers.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
