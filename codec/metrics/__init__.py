"""Quality of a reconstruction."""
