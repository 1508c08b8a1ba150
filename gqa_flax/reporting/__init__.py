"""From records to tables and plots; nothing is computed on a device here."""
