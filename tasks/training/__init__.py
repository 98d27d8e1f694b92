"""Training in a subprocess launched by accelerate, and its output at a URL."""
