"""Loads S3 credentials from a Prefect block: FDC_S3_BLOCK names a Secret with a JSON object as value.

    {"AWS_ACCESS_KEY_ID": "...", "AWS_SECRET_ACCESS_KEY": "...", "AWS_ENDPOINT_URL": "...", "AWS_DEFAULT_REGION": "..."}

The block is read at run time. `prefect deploy` would resolve a reference in prefect.yaml and store the values in clear
text in the server's database.
"""

import os
from typing import Any, cast

from prefect.blocks.system import Secret

from codec.errors import SettingsError

BLOCK = "FDC_S3_BLOCK"
NAMES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_ENDPOINT_URL",
    "AWS_DEFAULT_REGION",
)


def from_block() -> None:
    """Loads the block, if one is named, into the environment of this process and its children.

    Raises SettingsError, which contains no value of the block, if the block is missing or malformed.
    """
    name = os.environ.get(BLOCK)
    if not name:
        return
    try:
        value: Any = cast(Secret[Any], Secret.load(name)).get()
    except ValueError:
        raise SettingsError(f"{BLOCK}={name}: the server has no Secret block of this name; create one") from None
    if not _are_credentials(value):
        raise SettingsError(f"{BLOCK}={name}: must be a JSON object of strings with the keys {', '.join(NAMES)}")
    os.environ.update(value)


def _are_credentials(value: Any) -> bool:
    # Whoever may edit the block must not be able to set PATH or LD_PRELOAD.
    if not isinstance(value, dict):
        return False
    return all(key in NAMES and isinstance(text, str) for key, text in value.items())
