"""Visual comparison: a page with the original between two reconstructions, and studies of which one is closer."""
