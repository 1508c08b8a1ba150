"""What the scripts of the paper's tables and figures have in common.

jobs      a command of gqa-flax, printed or run
scales    models, data and steps: the paper's, the laptop's, and a public
          checkpoint's
cells     one model, method and seed: its jobs, and its numbers
grid      runs cells and keeps their records
spread    means over seeds and their intervals
claims    claims with verdicts, as sentences and as rows of a table
table1    its models, and the laptop's numbers of each
results   the records' numbers, gathered over seeds
budget    the chip-hours of the paper's jobs
command   the scripts' command line
"""
