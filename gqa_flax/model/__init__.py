"""T5.1.1 with grouped-query attention in the decoder.

Shape letters, used as suffixes on arrays and in einsums:

  B  batch                        N  query heads (num_heads)
  T  query (target) length        K  key/value heads (num_kv_heads)
  S  key (source) length          G  = N // K, queries per key/value head
  D  model width (emb_dim)        H  width of one head (head_dim)
  F  MLP width (mlp_dim)          V  vocabulary

The paper's "GQA-8" counts key/value heads: its G is our K. Our G, the size of
a group, is N // K. Groups are contiguous: query head n reads key/value head
n // G. K = N is multi-head attention and K = 1 multi-query attention, computed
by the same lines.
"""
