"""What only S3 has: listings in pages, and uploads in parts that can be left behind. `fs` is an s3fs file system.

S3 has no folders. s3fs looks for one, by a second request, wherever it finds no object; archives ask for names alone.
Nor has it paths: `/x`, `//x` and `x?versionId=1` are keys like any other, each its own.
"""

import time
from collections.abc import Iterator
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from tasks.storage import errors

DENIED = ("AccessDenied", "AllAccessDisabled", "InvalidObjectState", "403")
"""Codes that refuse one object: to these credentials, or because it lies in a class that must be restored first."""


def settle(fs: Any) -> None:
    """Make a file system, before its first request, take keys as they are and leave checksums to us.

    It would cut off what looks like a version, or slashes. And it would add checksums of its own, in a form that older
    servers do not know, and hold a range against the checksum of the whole object, which some servers say there too.
    """
    ours = {"request_checksum_calculation": "when_required", "response_checksum_validation": "when_required"}
    fs.config_kwargs = ours | fs.config_kwargs

    def split(path: str) -> tuple[str, str, None]:
        bucket, key = fs._find_bucket_key(path.removeprefix("s3://").removeprefix("s3a://"))
        return bucket, key, None

    fs.split_path = split


def denied(error: BaseException) -> bool | None:
    """Whether a failure is one object's, and not that of endpoint or credentials; None if it is no answer of S3."""
    code = errors.code(error)
    return code in DENIED if code else None


def answers(fs: Any, folder: str) -> bool:
    """Whether the endpoint is there and takes the credentials, for a bucket that exists."""
    bucket, _ = _split(fs, folder)
    try:
        fs.call_s3("list_objects_v2", Bucket=bucket, MaxKeys=1)
    except Exception as error:  # each layer of the client has errors of its own
        return errors.code(error) in DENIED
    return True


def server(fs: Any, folder: str) -> str:
    """Endpoint and name of the server that a bucket is on, and the release where the server says it."""
    bucket, _ = _split(fs, folder)
    try:
        answer = fs.call_s3("head_bucket", Bucket=bucket)
    except Exception as error:  # each layer of the client has errors of its own
        answer = errors.reply(error)  # a server also says its name where it refuses
        if errors.http_status(error) != HTTPStatus.FORBIDDEN:
            raise
    return f"{fs.s3.meta.endpoint_url} {answer['ResponseMetadata']['HTTPHeaders'].get('server', '')}"


def objects(fs: Any, folder: str) -> Iterator[tuple[str, int, str]]:
    """Path, size and ETag of every object below bucket/folder; one page in memory at a time, where s3fs holds all."""
    bucket, prefix = _split(fs, folder)
    for page in _pages(fs, "list_objects_v2", Bucket=bucket, Prefix=prefix):
        for found in page.get("Contents", ()):
            if found["Size"] or not found["Key"].endswith("/"):  # an empty one stands for a folder
                yield f"{bucket}/{found['Key']}", found["Size"], found["ETag"].strip('"')


def head(fs: Any, path: str) -> tuple[int, str]:
    """Size and ETag of one object, in one request; raises FileNotFoundError."""
    bucket, key, _ = fs.split_path(path)
    found = fs.call_s3("head_object", Bucket=bucket, Key=key)
    return found["ContentLength"], found["ETag"].strip('"')


def children(fs: Any, folder: str) -> list[str]:
    """The names directly in bucket/folder, of objects and of what would be folders."""
    bucket, prefix = _split(fs, folder)
    found: list[str] = []
    for page in _pages(fs, "list_objects_v2", Bucket=bucket, Prefix=prefix, Delimiter="/"):
        found += [entry["Key"] for entry in page.get("Contents", ())]
        found += [entry["Prefix"] for entry in page.get("CommonPrefixes", ())]
    return [name for name in (key.removeprefix(prefix).rstrip("/") for key in found) if name]


def abort_uploads(fs: Any, folder: str, older_than: float) -> list[str]:
    """Abort the uploads in parts below bucket/folder that began more than so many seconds ago; returns their paths.

    A server that cannot list them is left alone.
    """
    bucket, prefix = _split(fs, folder)
    aborted = []
    for page in _pages_if_implemented(fs, "list_multipart_uploads", Bucket=bucket, Prefix=prefix):
        for upload in page.get("Uploads", ()):
            if upload["Initiated"].timestamp() > time.time() - older_than:
                continue
            with suppress(FileNotFoundError):  # completed or aborted meanwhile
                fs.abort_mpu(bucket, upload["Key"], upload["UploadId"])
            aborted.append(f"{bucket}/{upload['Key']}")
    return aborted


def versions(fs: Any, path: str) -> list[str]:
    """The ids of the versions of one name that are not its object; none where the server keeps no versions.

    The delete markers of a name that was removed are among them.
    """
    bucket, key, _ = fs.split_path(path)
    found: list[str] = []
    for page in _pages_if_implemented(fs, "list_object_versions", Bucket=bucket, Prefix=key):
        old = [entry for entry in page.get("Versions", ()) if not entry["IsLatest"]]
        entries = (*old, *page.get("DeleteMarkers", ()))
        found += [entry["VersionId"] for entry in entries if entry["Key"] == key]
    return found


def remove_version(fs: Any, path: str, version: str) -> None:
    """Delete one version of a name for good."""
    bucket, key, _ = fs.split_path(path)
    fs.call_s3("delete_object", Bucket=bucket, Key=key, VersionId=version)


def retained_until(fs: Any, path: str, version: str) -> str | None:
    """The day until which the bucket must retain a version, or `a legal hold ends`; None if it need not."""
    bucket, key, _ = fs.split_path(path)
    try:
        found = fs.call_s3("head_object", Bucket=bucket, Key=key, VersionId=version)
    except Exception as error:  # a delete marker is no object to be asked for
        if errors.http_status(error) in (HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_FOUND):
            return None
        raise
    if found.get("ObjectLockLegalHoldStatus") == "ON":
        return "a legal hold ends"
    until = found.get("ObjectLockRetainUntilDate")
    return str(until.date()) if until is not None else None


def _split(fs: Any, folder: str) -> tuple[str, str]:
    bucket, key, _ = fs.split_path(folder)
    return bucket, f"{key}/" if key else ""


def _pages_if_implemented(fs: Any, call: str, **request: Any) -> Iterator[dict[str, Any]]:
    """The pages of what a server lists; none of one that does not know the call."""
    try:
        yield from _pages(fs, call, **request)
    except Exception as error:  # each layer of the client has errors of its own
        if errors.http_status(error) != HTTPStatus.NOT_IMPLEMENTED:
            raise


def _pages(fs: Any, call: str, **request: Any) -> Iterator[dict[str, Any]]:
    while True:
        page = fs.call_s3(call, **request)
        yield page
        if not page.get("IsTruncated"):
            return
        for marker in ("ContinuationToken", "KeyMarker", "UploadIdMarker", "VersionIdMarker"):
            if following := page.get(f"Next{marker}"):
                request[marker] = following
