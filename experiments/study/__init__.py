"""What the scripts of the paper's tables and figures have in common.

jobs      a command of gqa-flax, printed or run
scales    the paper's models, data and steps, and the laptop's
cells     one model, method and seed: its jobs, and its numbers
grid      runs cells and keeps their records
spread    means over seeds and their intervals
command   the scripts' command line
"""
