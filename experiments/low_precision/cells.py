"""What is measured: precisions, attentions, and kinds of text."""

# How it is called: param_dtype and cache_dtype.
PRECISIONS = {
  'float32': ('float32', 'auto'),
  'bfloat16 parameters': ('bfloat16', 'auto'),
  'int8 kernels': ('int8', 'auto'),
  'int8 cache': ('float32', 'int8'),
  'int8 kernels and cache': ('int8', 'int8'),
}
ATTENTIONS = {'MHA': 6, 'GQA-2': 2, 'MQA': 1}
# How many examples of a kind of text, in whole batches; what scores them.
EXAMPLES = {'translation': 64, 'summaries': 96}
METRICS = {'translation': 'bleu', 'summaries': 'rouge'}
