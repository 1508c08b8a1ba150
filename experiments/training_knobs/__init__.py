"""What remat, microbatches, dtype, donation and the cache cost and save."""
