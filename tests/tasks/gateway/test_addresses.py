"""Every key has an address that leads back to it, and no address leads anywhere else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.gateway import addresses, conditions
from tasks.gateway.addresses import Address, link
from tasks.gateway.refusals import Refusal

KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)


@given(KEYS, st.sampled_from(["png", "fdc"]))
def test_an_address_leads_back_to_its_key(key: str, suffix: str) -> None:
    to = link(key, suffix)
    assert to.startswith("/") and not to.startswith("//") and to.isascii()
    path, _, query = to.partition("?")
    assert not {"", ".", ".."} & set(path.removeprefix("/").split("/")), "a browser would change this path"
    assert addresses.parse(path.encode(), query.encode()) == Address(key, suffix)


@pytest.mark.parametrize(
    ("path", "query", "status"),
    [
        ("/a.png", "width=0", 400),
        ("/a.png", "width=-5", 400),
        ("/a.png", "width=16385", 400),
        ("/a.png", "width=" + "9" * 5000, 400),
        ("/a.png", "width=٣", 400),
        ("/a.png", "width=1e3", 400),
        ("/a.png", "width=5&width=6", 400),
        ("/a.png", "size=5", 400),
        ("/a.png", "width=5&preview=1", 400),
        ("/a.png", "width", 400),
        ("/a.fdc", "width=5", 400),
        ("/a.png", "&".join("width=1" for _ in range(50)), 400),
        ("/a", "", 404),
        ("/", "", 404),
        ("/.png", "", 404),
        ("/a.exe", "", 404),
        ("/a.PNG", "", 404),
        ("/%ff.png", "", 404),
        ("/" + "a" * 9000 + ".png", "", 414),
        ("/a.png", "key=" + "a" * 9000, 414),
    ],
)
def test_an_address_that_names_nothing_is_refused_with_its_status(path: str, query: str, status: int) -> None:
    with pytest.raises(Refusal) as refused:
        addresses.parse(path.encode(), query.encode())
    assert refused.value.status == status


def test_percent_escapes_are_decoded_once() -> None:
    assert addresses.parse(b"/%252e%252e/a.png", b"").key == "%2e%2e/a"
    assert addresses.parse(b"/a%2Fb.png", b"").key == "a/b"


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        ("bytes=0-0", (0, 0)),
        ("bytes=2-", (2, 9)),
        ("bytes=2-100", (2, 9)),
        ("bytes=-3", (7, 9)),
        ("bytes=-100", (0, 9)),
        ("bytes=5-2", None),
        ("bytes=0-1,4-5", None),
        ("bytes=-", None),
        ("lines=1-2", None),
        ("bytes=" + "9" * 400 + "-", None),
    ],
)
def test_a_range_chooses_these_bytes_of_ten(given: str, chosen: tuple[int, int] | None) -> None:
    assert conditions.chosen_range({"range": given}, '"t"', 10) == chosen
    assert conditions.chosen_range({"range": given, "if-range": '"other"'}, '"t"', 10) is None


@pytest.mark.parametrize("given", ["bytes=10-", "bytes=-0", "bytes=99-100"])
def test_a_range_beyond_the_end_does_not_exist(given: str) -> None:
    with pytest.raises(conditions.RangeError):
        conditions.chosen_range({"range": given}, '"t"', 10)


def test_a_known_tag_is_found_in_any_list() -> None:
    for sent in ('"t"', 'W/"t"', '"a", "t"', "*"):
        assert conditions.is_known('"t"', {"if-none-match": sent})
    for sent in ("", "t", '"tt"', '"a"'):
        assert not conditions.is_known('"t"', {"if-none-match": sent})
