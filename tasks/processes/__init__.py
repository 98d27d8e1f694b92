"""Child processes, and what they do: encode, verify, measure."""
