"""Which pictures of an archive to learn from: SQL over the report's columns."""

from collections.abc import Sequence

import duckdb
import pyarrow as pa

from codec.errors import SettingsError
from tasks.archive import report
from tasks.archive.schema import SCHEMA
from tasks.storage import parquet
from tasks.storage.store import Store

LOCATION = ("tar", "offset", "length", "sha256", "codec", "bundle_id")
"""The columns that reading a picture needs."""
_PICTURES = """
    SELECT {columns} FROM (
        SELECT * FROM rows WHERE tar IS NOT NULL
        QUALIFY row_number() OVER (PARTITION BY key ORDER BY run DESC) = 1
    ) WHERE ({where}) AND (codec = 'fdc' OR {whole}) ORDER BY tar, "offset", key
"""


def pictures(archive: Store, columns: Sequence[str], where: str, *, whole: bool) -> pa.Table:
    """The last kept version of each picture for which the SQL condition holds, with LOCATION and these columns.

    `whole` includes pictures that are kept whole. Raises SettingsError for unknown columns and for SQL that DuckDB
    refuses.
    """
    unknown = sorted(set(columns) - set(SCHEMA.names))
    if unknown:
        raise SettingsError(f"the report has no column {unknown[0]!r}; choose from {', '.join(SCHEMA.names)}")
    names = dict.fromkeys((*LOCATION, *columns))  # each once, in order
    quoted = ", ".join(f'"{name}"' for name in names)
    query = _PICTURES.format(columns=quoted, where=where, whole=str(whole).lower())
    with parquet.database(rows=report.rows(archive)) as connection:
        try:
            return connection.sql(query).to_arrow_table()
        except duckdb.Error as error:
            first = str(error).splitlines()[0]
            raise SettingsError(f"the condition {where!r} cannot be evaluated: {first}") from None
