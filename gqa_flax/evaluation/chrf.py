"""chrF of sacrebleu, in counts that can be summed over any examples.

Character n-grams up to order 6, without white space, recall twice as important
as precision (Popović 2015); `sacrebleu.CHRF` gives the same scores but keeps
what each example adds to itself.
"""

import numpy as np
from sacrebleu.metrics.helpers import extract_all_char_ngrams

_ORDER = 6
_BETA = 2


def counts(target: str, prediction: str) -> list[int]:
  """Returns n-grams of the prediction, of the target and of both, by order."""
  row = []
  for wanted, found in zip(
    extract_all_char_ngrams(target, _ORDER),
    extract_all_char_ngrams(prediction, _ORDER),
    strict=True,
  ):
    # As sacrebleu: what has no n-gram to be compared to does not count.
    row += [found.total() if wanted else 0, wanted.total()]
    row.append((wanted & found).total())
  return row


def scores(sums: np.ndarray) -> np.ndarray:
  """Returns chrF in percent, [R, 1], of sums of `counts`, [R, 18]."""
  found, wanted, both = np.moveaxis(sums.reshape(len(sums), _ORDER, 3), -1, 0)
  used = (found > 0) & (wanted > 0)
  orders = np.maximum(used.sum(axis=1), 1)
  precision = (both / np.where(used, found, np.inf)).sum(axis=1) / orders
  recall = (both / np.where(used, wanted, np.inf)).sum(axis=1) / orders
  weighted = _BETA**2 * precision + recall
  f_score = (1 + _BETA**2) * precision * recall
  return 100 * f_score[:, None] / np.where(weighted, weighted, 1)[:, None]
