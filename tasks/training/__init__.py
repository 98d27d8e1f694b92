"""Training as a subprocess that accelerate launches, and its output at a URL."""
