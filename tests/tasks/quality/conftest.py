"""A bucket with the reports that are asked."""

from collections.abc import Iterator

import fsspec
import pytest

from tests.support.fake_s3 import serving


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The URL of a bucket; the server's address and credentials are in the environment."""
    with serving() as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", address)
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "planted-secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fsspec.filesystem("s3").mkdir("quality")
        yield "s3://quality"
