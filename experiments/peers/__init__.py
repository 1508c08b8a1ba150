"""Our speed on a CPU beside that of transformers on torch; see __main__."""
