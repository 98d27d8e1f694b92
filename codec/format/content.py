"""All that the pixels of a file are made from, beside the bundle, and its fingerprint."""

import hashlib
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Content:
    """Symbols (4, ceil(H/8), ceil(W/8)) int32, the size they are shown at, and the codes that say how they are."""

    symbols: NDArray[np.int32]
    width: int
    height: int
    grey: bool
    timestep_code: int
    alpha_codes: tuple[int, ...]
    """One, or one a channel."""

    def fingerprint(self) -> str:
        """The SHA-256 of all of it: files of one bundle that have it in common decode to the same pixels."""
        codes = self.alpha_codes * (4 // len(self.alpha_codes))
        head = struct.pack("<II?H4B", self.width, self.height, self.grey, self.timestep_code, *codes)
        symbols = np.ascontiguousarray(self.symbols, dtype="<i4")  # their shape follows from the size
        return hashlib.sha256(head + symbols.tobytes()).hexdigest()
