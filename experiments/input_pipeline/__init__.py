"""How fast the input pipeline is, where its time goes, how it resumes."""
