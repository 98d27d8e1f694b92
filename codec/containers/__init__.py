"""What an image file holds, byte for byte: a structural reader per container, and the judgement of what it reads."""
