"""Texts that a metric cannot measure: a perfect prediction may score 0.

T5's metrics are made for languages whose words are written in a to z, or at
least between spaces.
"""

import re

_LATIN = re.compile('[a-z0-9]')
# Scripts without spaces between words: Thai, Lao, Tibetan, Burmese, Khmer, kana
# and Chinese characters.
_UNSPACED = re.compile(
  '[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff'
  '\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]'
)


def to_rouge(target: str) -> bool:
  """Whether most letters are none of those that ROUGE keeps."""
  text = target.lower()
  kept = len(_LATIN.findall(text))
  return 2 * kept < sum(map(str.isalnum, text)) or not kept


def to_bleu(target: str) -> bool:
  """Whether most letters are of a script without spaces between words."""
  unspaced = len(_UNSPACED.findall(target))
  return 2 * unspaced > sum(map(str.isalnum, target)) or not target.strip()


def to_chrf(target: str) -> bool:
  """Whether there is nothing to measure."""
  return not target.strip()
