"""Compresses a folder of photos, then asks which came out worst: python compress_and_query.py PHOTOS ARCHIVE"""

import sys

import duckdb

from tasks.archive.manifest import RunSettings
from tasks.compress.runs import compress
from tasks.quality.tables import register

WORST = """
    SELECT key, width, height, round(bpp, 3) AS bpp, round(psnr_db, 1) AS psnr_db, round(lpips, 3) AS lpips
    FROM rows WHERE codec = 'fdc' ORDER BY lpips DESC LIMIT 5
"""


def main(photos: str, archive: str) -> None:
    outcome = compress(photos, archive, RunSettings(quality=8.0))  # paths or s3:// URLs; again, it takes what is new
    print(outcome.totals)
    connection = duckdb.connect()
    register(connection, archive)  # the views rows, runs and listings
    connection.sql(WORST).show()


if __name__ == "__main__":
    main(*sys.argv[1:])
