"""Keys are reversible and harmless, whatever a file is called."""

import doctest
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.archive import layout
from tasks.storage.keys import extension_of, key_of, member, name_of, restored


@given(st.binary(min_size=1).filter(lambda raw: b"\0" not in raw))
def test_a_key_is_valid_utf_8_and_gives_the_stored_name_back(raw: bytes) -> None:
    name = os.fsdecode(raw)
    key = key_of(name)
    key.encode()
    assert name_of(key) == name


def test_different_names_have_different_keys() -> None:
    raw = [b"a\xff", b"a%FF", b"a%25FF", b"100%.jpg", b"100%25.jpg", "ä".encode(), "a\u0308".encode()]
    assert len({key_of(os.fsdecode(name)) for name in raw}) == len(raw)


def test_an_ordinary_name_is_its_own_key() -> None:
    for name in ("kodim01.png", "2020/Übung 100%.JPG", "a b/c.d.e"):
        assert key_of(name) == name


@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_a_member_survives_any_key_and_webdataset(key: str) -> None:
    name = member(3, key, "fdc")
    stem, extension = name.split(".")
    assert extension == "fdc"
    assert stem.startswith("000003-")
    assert len(name) <= 100
    assert "/" not in name


@pytest.mark.parametrize("key", ["../x", "a/../../x", "/etc/passwd", "..", "a//b", "./x", "a/\0b"])
def test_no_key_leaves_the_folder_it_is_restored_to(key: str) -> None:
    path = restored(key, "png")
    assert not {"", ".", ".."} & set(path.split("/"))
    assert "\0" not in path


def test_a_restored_picture_keeps_its_key_and_tells_a_jpg_from_a_png() -> None:
    assert restored("x/a.png", "png") == "x/a.png"
    assert restored("x/a.jpg", "png") == "x/a.jpg.png"
    assert restored("x/a.gif", None) == "x/a.gif"


def test_an_extension_is_plain_or_bin() -> None:
    assert [extension_of(key) for key in ("a.JPG", "a.tar.gz", "a", "a.j/pg", "a.jp g", "a." + "x" * 9)] == [
        "jpg",
        "gz",
        "bin",
        "bin",
        "bin",
        "bin",
    ]


def test_the_examples_in_the_module_hold() -> None:
    assert doctest.testmod(layout).failed == 0
