"""The fingerprint of what pixels are made from differs where any part does, and not with the way it is written."""

from dataclasses import replace

import numpy as np

from codec.format.content import Content

CONTENT = Content(np.arange(24, dtype=np.int32).reshape(4, 2, 3), 24, 16, False, 100, (80,))


def test_the_fingerprint_covers_symbols_size_gray_alpha_and_timestep_codes() -> None:
    others = [
        replace(CONTENT, symbols=CONTENT.symbols + (np.arange(24).reshape(4, 2, 3) == 23)),
        replace(CONTENT, width=23),
        replace(CONTENT, height=15),
        replace(CONTENT, gray=True),
        replace(CONTENT, timestep_code=101),
        replace(CONTENT, alpha_codes=(81,)),
        replace(CONTENT, alpha_codes=(80, 80, 80, 81)),
    ]
    assert len({content.fingerprint() for content in (CONTENT, *others)}) == 1 + len(others)


def test_equal_contents_have_one_fingerprint() -> None:
    turned = np.ascontiguousarray(CONTENT.symbols.T).T.astype(">i4")
    assert replace(CONTENT, symbols=turned, alpha_codes=(80,) * 4).fingerprint() == CONTENT.fingerprint()
