"""Codecs side by side: runs, tables, curves, plots, baselines, the paper's experiments and Elo ratings."""
