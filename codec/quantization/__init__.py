"""Bin widths and the timestep, their estimator, and the search for a rate or a quality."""
