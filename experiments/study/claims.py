"""Claims with a verdict each, as sentences and as rows of one table."""

import dataclasses

from experiments.study.spread import FAILS, HOLDS, Seeds

# Where the paper claims something and prints no number for it.
NO_NUMBER = 'no number'


@dataclasses.dataclass(frozen=True)
class Claim:
  """A claim, the number that decides it, and the verdict.

  Attributes:
    claim: a clause, such as 'GQA-2 scores above MQA'.
    ours: the number, with its unit.
    verdict: 'holds', 'undecided' or 'does not hold'.
    paper: the paper's number, with its unit, or `NO_NUMBER`; '' if the claim is
      not the paper's.
    interval: the 95% interval of `ours`; '' if there is none.
    joint: what stands between claim and number in a sentence.
    note: sentences that follow.
  """

  claim: str
  ours: str
  verdict: str
  paper: str = ''
  interval: str = ''
  joint: str = ' by '
  note: str = ''

  @classmethod
  def of_gap(
    cls, claim: str, gap: Seeds, unit: str, places: int = 3, **fields: str
  ) -> 'Claim':
    """Returns the claim that a difference is above zero.

    Args:
      claim: see above.
      gap: the difference.
      unit: of the difference.
      places: decimals.
      **fields: see above.
    """
    return cls(
      claim,
      f'{gap.mean:.{places}f} {unit}',
      gap.verdict,
      interval=gap.interval(places),
      **fields,
    )

  def sentence(self) -> str:
    """Returns an item of a Markdown list."""
    details = [
      f'{name} {text}'
      for name, text in (
        ('95% interval', self.interval),
        ('paper:', self.paper),
      )
      if text
    ]
    aside = f' ({"; ".join(details)})' if details else ''
    verdict = self.verdict.capitalize()
    if self.verdict != HOLDS:
      verdict = f'**{verdict}**'
    note = f' {self.note}' if self.note else ''
    return f'- {verdict}: {self.claim}{self.joint}{self.ours}{aside}.{note}'

  def row(self) -> dict[str, str]:
    """Returns the columns of a table of claims."""
    return {
      'claim': self.claim[0].upper() + self.claim[1:],
      'paper': self.paper,
      'ours': self.ours,
      'interval': self.interval,
      'verdict': self.verdict,
    }


def verdict(holds: bool) -> str:
  """Returns the verdict on a number without an interval."""
  return HOLDS if holds else FAILS
