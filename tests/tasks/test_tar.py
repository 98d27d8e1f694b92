"""Tars hold what was added, byte for byte as WebDataset's own writer lays it out."""

from pathlib import Path

import pytest
import webdataset

from tasks.tar import Tar


@pytest.mark.parametrize("sizes", [(), (0,), (1, 511, 512, 513), (10240, 3, 70_000)])
def test_a_tar_has_the_bytes_that_webdataset_writes_and_says_where_members_are(
    sizes: tuple[int, ...], tmp_path: Path
) -> None:
    members = [(f"{number:06d}-key", bytes([number]) * size) for number, size in enumerate(sizes)]
    with Tar(tmp_path / "own.tar") as tar:
        offsets = [tar.add(f"{key}.fdc", content) for key, content in members]
    options = {"user": "", "group": "", "mode": 0o444, "mtime": 0, "compress": False, "encoder": False}
    with (tmp_path / "theirs.tar").open("wb") as file, webdataset.TarWriter(file, **options) as theirs:
        for key, content in members:
            theirs.write({"__key__": key, "fdc": content})
    own = (tmp_path / "own.tar").read_bytes()
    assert own == (tmp_path / "theirs.tar").read_bytes()
    assert [own[offset:][: len(content)] for offset, (_, content) in zip(offsets, members, strict=True)] == [
        content for _, content in members
    ]
