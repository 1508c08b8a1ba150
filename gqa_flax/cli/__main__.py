"""`python -m gqa_flax.cli` is `gqa-flax`."""

import sys

from gqa_flax.cli import console

sys.exit(console())
