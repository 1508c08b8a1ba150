"""Whole training steps of the paper's size, compiled for TPU slices."""
