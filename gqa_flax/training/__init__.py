"""Pre-training, uptraining and fine-tuning: one loop for all three."""
