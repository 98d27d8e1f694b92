"""Comparison of codecs: runs, tables, curves, plots, baselines, the paper's experiments and Elo ratings."""
