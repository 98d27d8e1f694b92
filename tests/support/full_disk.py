"""python -m tests.support.full_disk SOURCE BUNDLE HOME WHAT: compress with `WHAT` (archive or spool) on a full disk.

In a mount namespace of its own: a small file system is mounted, fills up, and is then made larger. Prints what the
first run said, and the finished archive.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tasks.storage.store import StorageError
from tests.support.archive_builder import pack, rows, snapshot


def main() -> None:
    source, bundle, home = (Path(argument) for argument in sys.argv[1:4])
    what = sys.argv[4]
    small = home / "small"
    small.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(small)], check=True)
    if what == "spool":
        # tempfile reads TMPDIR once, and may have done so already; children read it anew.
        tempfile.tempdir = str(small)
        os.environ["TMPDIR"] = str(small)
    place = small if what == "archive" else home / "roomy"
    archive = place / "archive"
    said = ""
    try:
        pack(source, archive, bundle)
    except StorageError as error:
        said = str(error)
    before = rows(archive)
    subprocess.run(["mount", "-o", "remount,size=50m", str(small)], check=True)
    pack(source, archive, bundle)
    left = [str(path) for path in archive.rglob("*.unfinished")]
    print(json.dumps({"said": said, "before": before, "left": left, "snapshot": snapshot(archive)}))


if __name__ == "__main__":
    main()
