"""Everything besides the bundle that determines a file's pixels, and its fingerprint."""

import hashlib
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Content:
    """Symbols (4, ceil(H/8), ceil(W/8)) int32, the picture's size, and the coded parameters."""

    symbols: NDArray[np.int32]
    width: int
    height: int
    gray: bool
    timestep_code: int
    alpha_codes: tuple[int, ...]
    """One code, or one per channel."""

    def fingerprint(self) -> str:
        """SHA-256 over all fields. Files of one bundle with the same fingerprint decode to the same pixels."""
        codes = self.alpha_codes * (4 // len(self.alpha_codes))
        head = struct.pack("<II?H4B", self.width, self.height, self.gray, self.timestep_code, *codes)
        symbols = np.ascontiguousarray(self.symbols, dtype="<i4")  # the shape follows from the size
        return hashlib.sha256(head + symbols.tobytes()).hexdigest()
