"""Tars hold what was added, and an archive's have the bytes that WebDataset's own writer gives a training shard."""

from pathlib import Path

import pytest

from tasks.archive.tar import Tar, TrainingTar


@pytest.mark.parametrize("sizes", [(), (0,), (1, 511, 512, 513), (10240, 3, 70_000)])
def test_an_archive_has_the_bytes_that_webdataset_writes_and_says_where_members_are(
    sizes: tuple[int, ...], tmp_path: Path
) -> None:
    members = [(f"{number:06d}-key.fdc", bytes([number]) * size) for number, size in enumerate(sizes)]
    written = []
    for kind in (Tar, TrainingTar):
        with kind(path := tmp_path / kind.__name__) as tar:
            offsets = [tar.add(name, content) for name, content in members]
        written.append((offsets, content := path.read_bytes()))
        assert [content[at:][: len(data)] for at, (_, data) in zip(offsets, members, strict=True)] == [
            data for _, data in members
        ]
    assert written[0] == written[1]
