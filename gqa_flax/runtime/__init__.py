"""What concerns the process itself, whatever it computes."""
