"""JPEG's entropy-coded data: finds the end of a scan, and runs of zeros that no encoder wrote (T.81, F.1.2.3, B.1.1.5).

Failing disks and transfers leave zeros. Most Huffman tables decode them without an error, so decoders do not notice.
"""

import re
from collections.abc import Mapping

from codec.containers.builder import Broken

MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
SHORTEST_RUN = 16
"""Length of a run of zero bytes that is examined. A valid picture has a run this long only in flat areas."""


def end_of_scan(data: bytes, start: int) -> int | None:
    """Offset of the first marker after `start` that is neither a restart nor a stuffed byte; None if there is none."""
    found = MARKER.search(data, start)
    if found is None:
        return None
    return found.start()


def wiped(data: bytes, start: int, end: int, header: bytes, symbols: Mapping[int, int]) -> int | None:
    """Offset of a run of zeros that this scan's Huffman tables cannot produce from a flat picture; None if none.

    `header` is the content of the scan's SOS segment, `symbols` are those of the tables in force. The code of zeros
    alone ends a block in tables made for flat pictures. Where it stands for a coefficient in the table of any component
    of the scan, sixteen zero bytes in a row are forty equal coefficients, and more likely lost bytes.
    """
    position = data.find(bytes(SHORTEST_RUN), start, end)
    if position < 0:
        return None
    if not header or len(header) < 4 + 2 * header[0]:
        return None
    # SOS (B.2.3): the number of components, two bytes each, then the scan's first and last coefficient and Ah, Al.
    components = header[0]
    first, last, approximation = header[1 + 2 * components :][:3]
    if approximation >> 4:
        return None  # a refinement scan consists of raw bits
    if first == 0 and last == 0:
        return None  # a DC scan does not show whether a block is flat
    for component in range(components):
        ac_table = header[2 + 2 * component] & 15
        symbol = symbols.get(ac_table)
        # The low four bits are the size of a coefficient; 0 means that zeros end a block.
        if symbol is not None and symbol & 15:
            return position
    return None


def symbols_of_zeros(table: bytes) -> dict[int, int]:
    """Maps each AC table of a DHT segment to the symbol whose code is all zeros. Raises Broken."""
    found: dict[int, int] = {}
    position = 0
    while position < len(table):
        # Each table (B.2.4.2): class and number, sixteen counts of codes by length, then the symbols in that order.
        total = sum(table[position + 1 : position + 17])
        if position + 17 + total > len(table):
            raise Broken("Huffman tables that do not match their segment's length")
        is_ac = table[position] >> 4
        number = table[position] & 15
        if is_ac and total:
            found[number] = table[position + 17]  # the first code is all zeros (C.2)
        position += 17 + total
    return found
