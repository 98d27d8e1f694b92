"""Quantizer bin widths and timestep, their estimator, and the searches for a rate or a quality."""
