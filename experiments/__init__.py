"""The paper's tables and figures, and studies around them; see README.md."""

from gqa_flax.runtime import quiet

quiet.prepare()
