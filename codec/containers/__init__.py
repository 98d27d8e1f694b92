"""Structural readers that account for every byte of an image file, and the rules that judge what they find."""
