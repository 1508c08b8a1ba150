"""Two processes killed at random moments, against an undisturbed run."""
