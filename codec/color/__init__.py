"""The color space of a picture: what a file says, and whether its pixels can be coded in it."""
