"""Starts one gqa-flax command on many hosts, and starts it again."""
