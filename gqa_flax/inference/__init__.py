"""Decoding: greedy, sampled and by beam search, over explicit caches."""

from gqa_flax.config import EOS_ID, PAD_ID

__all__ = ['EOS_ID', 'PAD_ID', 'check_decode_length']


def check_decode_length(max_decode_length):
  """Raises ValueError unless there is at least one token to decode."""
  if max_decode_length < 1:
    raise ValueError(
      f'max_decode_length is {max_decode_length}; set it to 1 or more.'
    )
