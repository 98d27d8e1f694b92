"""Color spaces: reads what a file states, and decides whether its pixels can be coded in that space."""
