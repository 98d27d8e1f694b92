"""Sequential reader that raises BitstreamError for missing bytes and overlong encodings."""

import zlib

from codec.errors import BitstreamError


class ByteReader:
    """A file being read; `place` is the offset of the next byte."""

    def __init__(self, data: bytes, position: int = 0) -> None:
        self.data = data
        self.position = position

    @property
    def left(self) -> int:
        """Number of unread bytes."""
        return len(self.data) - self.position

    def check(self) -> None:
        """Verifies the trailing checksum of all bytes before it and removes it."""
        if len(self.data) < 4 or zlib.crc32(self.data[:-4]).to_bytes(4, "little") != self.data[-4:]:
            raise BitstreamError("the checksum does not match: the file is damaged or incomplete")
        self.data = self.data[:-4]

    def take(self, count: int, what: str) -> bytes:
        if self.position + count > len(self.data):
            raise BitstreamError(f"the file ends at byte {len(self.data)}, inside its {what}")
        self.position += count
        return self.data[self.position - count : self.position]

    def byte(self, what: str) -> int:
        return self.take(1, what)[0]

    def varint(self, what: str) -> int:
        value = 0
        for shift in range(0, 35, 7):
            byte = self.byte(what)
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if byte == 0 and shift:
                    break
                return value
        raise BitstreamError(f"the {what} before byte {self.position} is not a valid number")


def varint(value: int) -> bytes:
    """Reads a varint: seven bits per byte, lowest first, top bit set on all but the last byte."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
