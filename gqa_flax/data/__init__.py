"""From the name of a task to batches of numpy arrays.

What a task is:
  tasks            the seqio tasks, by name
  paper_tasks      the paper's seven tasks and C4, from TFDS
  files            tasks on users' own files, with file_rows to read them
  sources          where raw examples come from: memory, TFDS
  skipping         examples that a task cannot use
  vocabulary       SentencePiece vocabularies, T5's own by default
  span_corruption  T5's pre-training objective as a seqio preprocessor
  embedded         a small corpus of Wikipedia introductions, and a vocabulary

What the model reads of it:
  batches          for training and for teacher-forced losses; packing: rows
  examples         to generate from, to score, and to look at
  reading          from a task to a dataset; iterator: its position, saved
  caching          tasks tokenized ahead of training

What there is on disk:
  catalogue        the paper's data sets as they were published
  on_disk          which of them are there
  prepare          fetches them
  show             all of that as text
  user_cache       small files that are made or fetched once

This room and evaluation/evaluate.py are the only ones that load TensorFlow
and seqio.
"""

from gqa_flax.runtime import quiet

quiet.lower_log_level()
