"""The listing page: pictures found by the report's columns, a page at a time, without scripts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import jinja2

from tasks.gateway.addresses import KINDS, LONGEST, link
from tasks.gateway.catalog import COLUMNS, OPERATORS, PAGE, Condition, FoundPage, Search
from tasks.gateway.refusals import Refusal

PAGES = Path(__file__).parent / "page"
STYLE = "/-/style.css"
MOST_CONDITIONS = 8
SORTS = {
    "key": "name",
    "created_at": "date archived",
    "source_bytes": "size of the source",
    "bytes": "size of the file",
    "bpp": "bits per pixel",
    "psnr_db": "PSNR",
    "lpips": "LPIPS",
}
"""Columns offered for sorting; an address may name any."""


def parse(query: bytes) -> Search:
    """Parses the query of the page. Raises Refusal."""
    if len(query) > LONGEST:
        raise Refusal(414, f"a query of more than {LONGEST} bytes")
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=64)
    except ValueError:
        raise Refusal(400, "the query is not valid") from None
    named: dict[str, list[str]] = {}
    for name, value in pairs:
        named.setdefault(name, []).append(value)
    unknown = named.keys() - {"q", "column", "operator", "value", "sort", "order", "page"}
    if unknown:
        raise Refusal(400, f"unknown option {min(unknown)!r}")
    columns, operators, values = (named.get(name, []) for name in ("column", "operator", "value"))
    if not len(columns) == len(operators) == len(values) <= MOST_CONDITIONS:
        raise Refusal(400, f"each condition has column, operator and value; at most {MOST_CONDITIONS}")
    given = zip(columns, operators, values, strict=True)
    conditions = tuple(Condition(*each) for each in given if each[2].strip())  # the form sends an empty one
    page = named.get("page", ["1"])[-1]
    if not (page.isascii() and page.isdecimal() and len(page) <= 7):
        raise Refusal(400, "page must be a number")
    return Search(
        text=named.get("q", [""])[-1].strip(),
        conditions=conditions,
        sort=named.get("sort", ["key"])[-1],
        descending=named.get("order", ["up"])[-1] == "down",
        page=int(page),
    )


def address(search: Search, page: int = 1, without: Condition | None = None) -> str:
    """The address of a page of a search, or of the search without one of its conditions."""
    pairs = [("q", search.text)] if search.text else []
    for condition in search.conditions:
        if condition is not without:
            pairs += [
                ("column", condition.column), ("operator", condition.operator), ("value", condition.value)
            ]  # fmt: skip
    if search.sort != "key":
        pairs.append(("sort", search.sort))
    if search.descending:
        pairs.append(("order", "down"))
    if page > 1:
        pairs.append(("page", str(page)))
    return f"/?{urlencode(pairs)}" if pairs else "/"


class ListingPage:
    """Renders the page. Every value is escaped: keys were chosen by strangers."""

    def __init__(self, title: str) -> None:
        self._title = title
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(PAGES), autoescape=True, trim_blocks=True, lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
        )  # fmt: skip
        self._template = environment.get_template("listing.html.jinja")

    def render(self, search: Search, found: FoundPage) -> str:
        """The page of a search."""
        last = max(1, -(-found.total // PAGE))
        removable = [
            (f"{each.column} {OPERATORS[each.operator]} {each.value}", address(search, without=each), each)
            for each in search.conditions
        ]
        return self._template.render(
            title=self._title,
            style=STYLE,
            search=search,
            total=found.total,
            tiles=[_tile(row) for row in found.rows],
            columns=sorted(COLUMNS),
            operators=OPERATORS,
            sorts=SORTS | ({} if search.sort in SORTS else {search.sort: search.sort}),
            conditions=removable,
            last=last,
            previous=address(search, search.page - 1) if search.page > 1 else None,
            following=address(search, search.page + 1) if search.page < last else None,
        )


def _tile(row: Mapping[str, Any]) -> dict[str, Any]:
    """What the page shows of a row."""
    key = row["key"]
    is_picture = row["width"] is not None
    has_preview = bool(row["preview_bytes"])
    return {
        "key": key,
        "name": key.rpartition("/")[2] or key,
        "folder": key.rpartition("/")[0],
        "thumbnail": link(key, "webp", "preview=1") if has_preview else None,
        "picture": link(key, "webp") if is_picture else None,
        "links": _links(row, is_picture),
        "facts": _facts(row),
        "about": f"kept whole: {row['reason']}" if row["reason"] else "no preview",
    }


def _links(row: Mapping[str, Any], is_picture: bool) -> Sequence[tuple[str, str]]:
    links = []
    if is_picture:
        links += [(suffix.upper(), link(row["key"], suffix)) for suffix in KINDS]
    if row["codec"] == "fdc":
        links.append(("FDC", link(row["key"], "fdc")))
    return links


def _facts(row: Mapping[str, Any]) -> list[str]:
    facts = []
    if row["width"] is not None:
        facts.append(f"{row['width']} × {row['height']}")
    facts.append(_size(row["bytes"]))
    if row["bpp"] is not None and row["codec"] == "fdc":
        facts.append(f"{row['bpp']:.3f} bpp")
    if row["psnr_db"] is not None:
        facts.append(f"{row['psnr_db']:.1f} dB")
    return facts


def _size(count: int | None) -> str:
    if count is None:
        return ""
    if count < 1000:
        return f"{count} B"
    if count < 1_000_000:
        return f"{count / 1000:.1f} kB"
    return f"{count / 1e6:.1f} MB"
