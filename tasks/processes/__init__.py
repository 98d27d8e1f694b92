"""Child processes that encode, verify and measure."""
