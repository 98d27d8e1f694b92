"""The entropy-coded data of JPEG: where a scan ends, and zeros in it that no encoder wrote (T.81, F.1.2.3 and B.1.1.5).

A disk or a transfer that loses bytes leaves zeros. Most Huffman codes make sense of them, so decoders say nothing.
"""

import re
from collections.abc import Mapping

from codec.containers.builder import Broken

MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
SHORTEST_RUN = 16
"""Zero bytes in a row that are looked at. A picture's own codes give so many only where all of it is one color."""


def end_of_scan(data: bytes, start: int) -> int | None:
    """Where the first marker behind `start` begins that is neither a restart nor a stuffed byte; None if none does."""
    found = MARKER.search(data, start)
    return found.start() if found else None


def wiped(data: bytes, start: int, end: int, header: bytes, symbols: Mapping[int, int]) -> int | None:
    """Where a run of zero bytes stands that cannot be a flat picture in this scan's Huffman codes; else None.

    `header` is the content of the scan's SOS segment, `symbols` are those of the tables in force. The code of zeros
    alone ends a block in tables made for flat pictures. Where it stands for a coefficient in the table of any component
    of the scan, sixteen zero bytes in a row are forty equal coefficients, and more likely lost bytes.
    """
    position = data.find(bytes(SHORTEST_RUN), start, end)
    if position < 0 or not header or len(header) < 4 + 2 * header[0]:
        return None
    first, _, approximation = header[1 + 2 * header[0] :][:3]
    if approximation >> 4 or (first == 0 and header[2 + 2 * header[0]] == 0):
        return None  # refinements are bare bits, and DC values alone say nothing of how flat a block is
    used = [symbols.get(header[2 + 2 * component] & 15) for component in range(header[0])]
    return position if any(symbol is not None and symbol & 15 for symbol in used) else None


def symbols_of_zeros(table: bytes) -> dict[int, int]:
    """The symbol whose code is all zeros, for each AC table in a DHT segment's content. Raises Broken."""
    found: dict[int, int] = {}
    position = 0
    while position < len(table):
        total = sum(table[position + 1 : position + 17])
        if position + 17 + total > len(table):
            raise Broken("Huffman tables that do not fill their segment")
        if table[position] >> 4 and total:
            found[table[position] & 15] = table[position + 17]
        position += 17 + total
    return found
