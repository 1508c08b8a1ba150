"""From a model to its scores on a task."""
