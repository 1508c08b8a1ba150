"""The README.md of a folder in Hugging Face's format."""

from gqa_flax.checkpoints.hugging_face_config import OURS
from gqa_flax.config import T5Config


def model_card(config: T5Config, step, source, method, companions=()) -> str:
  """Returns the text, Markdown; source and method may be empty."""
  has_tokenizer = {'spiece.model', 'tokenizer.json'} & {*companions}
  K, N = config.num_kv_heads, config.num_heads
  kind = {N: 'multi-head', 1: 'multi-query'}.get(K, f'GQA-{K}')
  parts = [
    f"""---
library_name: transformers
tags:
- t5
- gqa_flax
---
# T5 with {kind} attention in the decoder

Written by gqa_flax, which reproduces "GQA: Training Generalized Multi-Query
Transformer Models from Multi-Head Checkpoints" (Ainslie et al., 2023).

- Source of the parameters: {source or 'not recorded'}
- Conversion: {method or 'none recorded'}
- Steps since the first of pre-training: {step}
- {N} query heads and {K} key/value heads of {config.head_dim}, width \
{config.emb_dim}, MLP {config.mlp_dim}, {config.num_encoder_layers} encoder \
and {config.num_decoder_layers} decoder layers, vocabulary \
{config.vocab_size}, float32
- License: that of the source, which gqa_flax does not know. Add it, and the
  attribution that it asks for, before you publish this folder.
- The tokenizer is the source's; \
{'its files are copied' if has_tokenizer else 'it is not in this folder'}.
"""
  ]
  if K < N:
    parts.append(f"""
## Key/value heads are repeated here

transformers has no T5 with fewer key/value heads than query heads. For
compatibility each of the {K} key/value heads of the decoder's self-attention
and cross-attention stands here {N // K} times. The logits are those of the
grouped model, but **its saving of memory and time is lost in this form**:
parameters and decoding caches are as large as those of multi-head attention.
Training this form lets the repeated heads drift apart.

To have the {K} heads back, read this folder with `gqa-flax convert` or
`gqa_flax.load_params`: `{OURS}` in config.json tells them the number.
""")
  parts.append("""
## Loading

```python
from transformers import T5ForConditionalGeneration

model = T5ForConditionalGeneration.from_pretrained('.')  # this folder
""")
  if config.logits_via_embedding:
    parts.append('```\n')
  else:
    parts.append("""\
# Keeps tie_weights() and resize_token_embeddings() from tying the head.
model.config.tie_word_embeddings = False
```

The output head is a matrix of its own. transformers 5 holds every T5 for tied,
finds on loading that the head is not, warns, and leaves it alone. It does tie
it, and computes other logits, if you build the model from its config and call
`load_state_dict`, or leave out the last line above and resize the embedding.
""")
  return ''.join(parts)
