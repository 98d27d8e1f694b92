"""A restore as a bag: every line of it holds, the same call again ends what was begun, and nothing else is touched."""

import hashlib
import re
from pathlib import Path

import bagit
import pytest

from codec.errors import ArchiveError
from flows.direct import directly
from flows.restore_archive import restore_archive
from tasks.archive import report
from tasks.maintenance.forget import forget
from tasks.processes.codec_process import Models
from tasks.restore.restore import restore
from tasks.storage.store import Store
from tests.support.archive_builder import folder, pack, png
from tests.support.codecless_archives import make
from tests.support.fake_codec import FAKE
from tests.support.maintenance_runs import RUNS

CONTENTS = {"a": b"aaa", "b": b"b~~2", "c": b"ccc", "d": b"ddd", "f": b"fff", "h": b"hhh", "trip/g.jpg": b"ggg"}
"""What RUNS leave, by key."""


def listed(bag: Path, name: str) -> dict[str, str]:
    """The digest of each path in a manifest. Asserts that every line has the form of RFC 8493."""
    text = (bag / name).read_bytes().decode()
    assert text.endswith("\n") and "\r" not in text
    found = {}
    for line in text[:-1].split("\n"):
        match = re.fullmatch(r"([0-9a-f]{64})  (\S.*)", line)
        assert match, line
        path = match[2]
        assert not re.search("%(?!25|0D|0A)", path), "only CR, LF and % are encoded"
        found[path.replace("%0A", "\n").replace("%0D", "\r").replace("%25", "%")] = match[1]
    return found


def check(bag: Path) -> dict[str, bytes]:
    """The payload of a bag, after every digest, the total and every tag file were checked."""
    files = {path.relative_to(bag).as_posix(): path.read_bytes() for path in bag.rglob("*") if path.is_file()}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    payload = {name: data for name, data in files.items() if name.startswith("data/")}
    assert (bag / "data").is_dir()
    assert listed(bag, "manifest-sha256.txt") == {name: digests[name] for name in payload}
    tags = files.keys() - payload.keys() - {"tagmanifest-sha256.txt"}
    assert tags == {"bagit.txt", "bag-info.txt", "manifest-sha256.txt", "fdcodec-restore.json"}
    assert listed(bag, "tagmanifest-sha256.txt") == {name: digests[name] for name in tags}
    assert files["bagit.txt"] == b"BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"
    fields = [line.split(": ", 1) for line in files["bag-info.txt"].decode().splitlines()]
    assert dict(fields)["Payload-Oxum"] == f"{sum(map(len, payload.values()))}.{len(payload)}"
    return {name.removeprefix("data/"): data for name, data in payload.items()}


def test_the_bag_of_an_archive_is_valid_for_the_reader_of_the_library_of_congress(
    tmp_path: Path, fake_bundle: Path, children_are_played_here: None
) -> None:
    source = folder(tmp_path / "s", {"a.png": png(1), "x/b.png": png(2), "line\nfeed.txt": b"no picture"})
    pack(source, tmp_path / "a", fake_bundle)
    models = Models("", threads=1, codec=FAKE)
    assert restore(str(tmp_path / "a"), str(tmp_path / "bag"), bagit=True, models=models).images == 3
    bag = bagit.Bag(str(tmp_path / "bag"))
    bag.validate()
    assert check(tmp_path / "bag").keys() == {"a.png", "x/b.png", "line\nfeed.txt"}
    assert bag.info["External-Description"] == "pictures of an fdcodec archive as of run 1, as png"
    (tmp_path / "bag" / "data" / "a.png").write_bytes(b"damaged")
    with pytest.raises(bagit.BagError):
        bag.validate()


def test_only_cr_lf_and_percent_are_encoded_and_names_that_are_no_utf_8_are_escaped(tmp_path: Path) -> None:
    keys = ("100%.png", "%250A.png", "a b\u00e9.png", "cr\rlf\n.png", "%E9.png", "%25E9.png", "back\\slash ~.png")
    make(tmp_path / "a", [{key: key.encode() for key in keys}])
    restore(str(tmp_path / "a"), str(tmp_path / "bag"), bagit=True)
    payload = check(tmp_path / "bag")
    assert payload == {key: key.encode() for key in keys}
    assert b"data/cr%0Dlf%0A.png\n" in (tmp_path / "bag" / "manifest-sha256.txt").read_bytes()
    assert b"data/100%25.png\n" in (tmp_path / "bag" / "manifest-sha256.txt").read_bytes()


def test_killed_anywhere_and_called_again_the_bag_is_that_of_the_run_that_it_was_begun_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "a"
    make(archive, RUNS[:2])
    replace, left = Store.replace, [0]

    def dying(store: Store, name: str, content: bytes | Path) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        replace(store, name, content)

    begun = []
    with monkeypatch.context() as patch:
        patch.setattr(Store, "replace", dying)
        for number in range(20):
            left[0] = number
            try:
                restore(str(archive), str(tmp_path / f"bag {number}"), bagit=True)
            except KeyboardInterrupt:
                begun.append(tmp_path / f"bag {number}")
                assert not (begun[-1] / "bagit.txt").exists()
            else:
                break
    assert len(begun) == 11, "each of six files and five tag files"
    make(archive, RUNS)
    for bag in begun:
        restore(str(archive), str(bag), bagit=True)
        run_2 = {key: CONTENTS[key] for key in CONTENTS if key != "h"}
        assert check(bag) == (run_2 if bag != begun[0] else CONTENTS), "the very first step writes down the run"


def test_a_place_with_something_else_another_selection_and_a_forgotten_picture_are_refused(tmp_path: Path) -> None:
    store = make(tmp_path / "a", RUNS)
    folder(tmp_path / "mine", {"letter.txt": b"dear"})
    with pytest.raises(ArchiveError, match=r"not empty \('letter.txt'\); choose an empty folder"):
        restore(store.url, str(tmp_path / "mine"), bagit=True)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]
    bag = str(tmp_path / "bag")
    restore(store.url, bag, bagit=True, as_of=2)
    for other, named in (({"as_of": 3}, "as_of"), ({"kind": "jpeg:90"}, "kind"), ({"keys": ["a"]}, "keys_sha256")):
        with pytest.raises(ArchiveError, match=f"begun with another {named}; choose an empty folder"):
            restore(store.url, bag, bagit=True, **other)  # type: ignore[arg-type]
    assert "h" not in check(tmp_path / "bag")
    forget(store, ["a"])
    with pytest.raises(ArchiveError, match="forgotten since this bag was begun; restore into an empty folder"):
        restore(store.url, bag, bagit=True)
    with pytest.raises(ArchiveError, match="no run is complete yet"):
        restore(make(tmp_path / "open", RUNS[:1], seal=False).url, str(tmp_path / "none"), bagit=True)
    assert not (tmp_path / "none").exists()


def test_a_bag_says_which_pictures_it_goes_without(tmp_path: Path) -> None:
    store = make(tmp_path / "a", RUNS)
    [row] = report.query(store, "FROM rows WHERE key = 'c'")
    store.replace(row["tar"], store.read(row["tar"]).replace(b"ccc", b"cxc"))
    with directly():
        done = restore_archive.fn(str(tmp_path / "a"), str(tmp_path / "bag"), bagit=True, workers=1)
    assert done["failed"] == 1
    assert check(tmp_path / "bag") == {key: data for key, data in CONTENTS.items() if key != "c"}
    bag = bagit.Bag(str(tmp_path / "bag"))
    bag.validate()
    assert bag.info["Not-Restored"].startswith(f"c: {store.uri(row['tar'])}: damaged at byte ")
