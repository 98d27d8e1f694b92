"""The copy of each bundle that an archive keeps, so that its files stay readable without anything else."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from codec.errors import ArchiveError
from tasks import files, names
from tasks.storage import Store


def keep(archive: Store, bundle_id: str, folder: Path) -> None:
    """Copy a bundle folder into the archive; a file that is there already is left, as loading checks it by hash."""
    for name, _ in sorted(files.walk(folder)):
        archive.publish(f"{names.escrow(bundle_id)}/{name}", folder / name)


@contextmanager
def bundle(archive: Store, bundle_id: str) -> Iterator[str]:
    """The local path of the archive's own copy of a bundle; raises ArchiveError where it has none."""
    folder = names.escrow(bundle_id)
    if archive.folder is not None and (archive.folder / folder).is_dir():
        yield str(archive.folder / folder)
        return
    with tempfile.TemporaryDirectory() as temporary:
        items = list(archive.list(folder))
        if not items:
            raise ArchiveError(f"{archive.uri(folder)}: the archive holds no copy of this bundle")
        for item in items:
            path = Path(temporary) / item.name.removeprefix(f"{folder}/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.read(item.name))
        yield temporary
