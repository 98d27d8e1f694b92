"""python -m tasks.archive.schema_page > infra/docs/report-schema.md: the report's Arrow schema as a page."""

from collections.abc import Iterator

from tasks.archive.schema import SCHEMA, SCHEMA_VERSION

HEAD = f"""# The report's schema

One row for each source and run, version {SCHEMA_VERSION}; the same in every Parquet file of the report, whose Arrow
metadata has these descriptions. Columns are only ever added, at the end, and are null in older rows.

| column | type | unit | description |
|---|---|---|---|"""


def page() -> Iterator[str]:
    """The page's lines."""
    yield from HEAD.splitlines()
    for field in SCHEMA:
        about = {name.decode(): value.decode().replace("|", "\\|") for name, value in field.metadata.items()}
        yield f"| `{field.name}` | {field.type} | {about.get('unit', '')} | {about['description']} |"


if __name__ == "__main__":
    print("\n".join(page()))
