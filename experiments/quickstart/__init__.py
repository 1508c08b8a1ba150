"""The GQA paper's method on a public checkpoint, in minutes, on a CPU."""
