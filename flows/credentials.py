"""Credentials of object storage out of a Prefect block: FDC_S3_BLOCK names a Secret whose value is a JSON object.

    {"AWS_ACCESS_KEY_ID": "...", "AWS_SECRET_ACCESS_KEY": "...", "AWS_ENDPOINT_URL": "...", "AWS_DEFAULT_REGION": "..."}

The block is read where a flow runs, when it runs. A reference to it in prefect.yaml would be resolved by `prefect
deploy`, and its values kept readable in the server's database.
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
    """Put what the block holds into the environment, for this process and all that it starts; nothing if none is named.

    Raises SettingsError, which repeats no value, when there is no such block or it holds something else.
    """
    if not (name := os.environ.get(BLOCK)):
        return
    try:
        value = cast(Secret[Any], Secret.load(name)).get()
    except ValueError:
        raise SettingsError(f"{BLOCK}={name}: the server has no Secret block of this name; save one") from None
    if not isinstance(value, dict) or not all(key in NAMES and isinstance(text, str) for key, text in value.items()):
        raise SettingsError(f"{BLOCK}={name}: holds no JSON object of texts by the names {', '.join(NAMES)}")
    os.environ.update(value)
