"""Checkpoints on disk: formats only, nothing here changes a number."""
