"""The paper's data sets by the names of their TFDS builders."""

from . import (
  c4,
  cnn_dailymail,
  media_sum,
  multi_news,
  scientific_papers,
  trivia_qa,
  wmt14,
)

MODULES = (c4, cnn_dailymail, media_sum, multi_news, trivia_qa, wmt14)
WRITERS = scientific_papers.WRITERS | {
  module.NAME: module.write for module in MODULES
}
