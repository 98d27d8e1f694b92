"""S3 only: paged listings, unfinished multipart uploads, versions and retention. `fs` is an s3fs file system.

S3 has no folders. s3fs sends a second request to look for one if an object is missing; archives request objects only.
S3 has no paths either: `/x`, `//x` and `x?versionId=1` are three different keys.
"""

import time
from collections.abc import Iterator
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from tasks.storage import errors

DENIED = ("AccessDenied", "AllAccessDisabled", "InvalidObjectState", "403")
"""Error codes about one object: access denied, or a storage class that needs a restore first."""


def settle(fs: Any) -> None:
    """Configures a file system, before its first request, to leave keys unchanged and to add no checksums.

    By default it strips slashes and version suffixes from keys. It also adds checksums in a form that older servers do
    not support, and checks a range against the checksum of the whole object, which some servers send with it.
    """
    ours = {"request_checksum_calculation": "when_required", "response_checksum_validation": "when_required"}
    fs.config_kwargs = ours | fs.config_kwargs  # options that the user gave win

    def split(path: str) -> tuple[str, str, None]:
        bucket, key = fs._find_bucket_key(path.removeprefix("s3://").removeprefix("s3a://"))
        return bucket, key, None

    fs.split_path = split


def denied(error: BaseException) -> bool | None:
    """Whether one object, and not the endpoint or the credentials, caused an error; None if S3 did not answer."""
    code = errors.code(error)
    if not code:
        return None
    return code in DENIED


def answers(fs: Any, folder: str) -> bool:
    """Whether the endpoint answers and accepts the credentials, and the bucket exists."""
    bucket, _ = _split(fs, folder)
    try:
        fs.call_s3("list_objects_v2", Bucket=bucket, MaxKeys=1)
    except Exception as error:  # each layer of the client has its own exceptions
        return errors.code(error) in DENIED  # credentials may read objects without the right to list them
    return True


def server(fs: Any, folder: str) -> str:
    """Returns the endpoint and the Server header of a bucket, which may include a release."""
    bucket, _ = _split(fs, folder)
    try:
        answer = fs.call_s3("head_bucket", Bucket=bucket)
    except Exception as error:  # each layer of the client has its own exceptions
        answer = errors.reply(error)  # a refusal has the Server header too
        if errors.http_status(error) != HTTPStatus.FORBIDDEN:
            raise
    return f"{fs.s3.meta.endpoint_url} {answer['ResponseMetadata']['HTTPHeaders'].get('server', '')}"


def objects(fs: Any, folder: str) -> Iterator[tuple[str, int, str]]:
    """Yields path, size and ETag of every object below bucket/folder, one page in memory at a time; s3fs keeps all."""
    bucket, prefix = _split(fs, folder)
    for page in _pages(fs, "list_objects_v2", Bucket=bucket, Prefix=prefix):
        for found in page.get("Contents", ()):
            if found["Size"] or not found["Key"].endswith("/"):  # an empty object marks a folder
                yield f"{bucket}/{found['Key']}", found["Size"], found["ETag"].strip('"')


def head(fs: Any, path: str) -> tuple[int, str]:
    """Returns size and ETag of an object in one request. Raises FileNotFoundError."""
    bucket, key, _ = fs.split_path(path)
    found = fs.call_s3("head_object", Bucket=bucket, Key=key)
    return found["ContentLength"], found["ETag"].strip('"')


def children(fs: Any, folder: str) -> list[str]:
    """Lists the names directly in bucket/folder, of objects and common prefixes."""
    bucket, prefix = _split(fs, folder)
    found: list[str] = []
    for page in _pages(fs, "list_objects_v2", Bucket=bucket, Prefix=prefix, Delimiter="/"):
        found += [entry["Key"] for entry in page.get("Contents", ())]
        found += [entry["Prefix"] for entry in page.get("CommonPrefixes", ())]
    names = [key.removeprefix(prefix).rstrip("/") for key in found]
    return [name for name in names if name]  # the object that marks the folder itself leaves an empty name


def abort_uploads(fs: Any, folder: str, older_than: float) -> list[str]:
    """Aborts multipart uploads below bucket/folder that began more than `older_than` seconds ago; returns their paths.

    Does nothing if the server cannot list them.
    """
    bucket, prefix = _split(fs, folder)
    aborted = []
    for page in _pages_if_implemented(fs, "list_multipart_uploads", Bucket=bucket, Prefix=prefix):
        for upload in page.get("Uploads", ()):
            if upload["Initiated"].timestamp() > time.time() - older_than:
                continue
            with suppress(FileNotFoundError):  # completed or aborted in the meantime
                fs.abort_mpu(bucket, upload["Key"], upload["UploadId"])
            aborted.append(f"{bucket}/{upload['Key']}")
    return aborted


def versions(fs: Any, path: str) -> list[str]:
    """Lists the IDs of the noncurrent versions of a name; empty if the server keeps no versions.

    The delete markers of a deleted name are included.
    """
    bucket, key, _ = fs.split_path(path)
    found: list[str] = []
    for page in _pages_if_implemented(fs, "list_object_versions", Bucket=bucket, Prefix=key):
        old = [entry for entry in page.get("Versions", ()) if not entry["IsLatest"]]
        entries = (*old, *page.get("DeleteMarkers", ()))
        # a prefix also matches longer names
        found += [entry["VersionId"] for entry in entries if entry["Key"] == key]
    return found


def remove_version(fs: Any, path: str, version: str) -> None:
    """Permanently deletes one version of a name."""
    bucket, key, _ = fs.split_path(path)
    fs.call_s3("delete_object", Bucket=bucket, Key=key, VersionId=version)


def retained_until(fs: Any, path: str, version: str) -> str | None:
    """The day until which the bucket retains a version, or `a legal hold ends`; None without retention."""
    bucket, key, _ = fs.split_path(path)
    try:
        found = fs.call_s3("head_object", Bucket=bucket, Key=key, VersionId=version)
    except Exception as error:  # a delete marker has no retention to request
        if errors.http_status(error) in (HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_FOUND):
            return None
        raise
    if found.get("ObjectLockLegalHoldStatus") == "ON":
        return "a legal hold ends"
    until = found.get("ObjectLockRetainUntilDate")
    if until is None:
        return None
    return str(until.date())


def _split(fs: Any, folder: str) -> tuple[str, str]:
    bucket, key, _ = fs.split_path(folder)
    if not key:  # the whole bucket
        return bucket, ""
    return bucket, f"{key}/"


def _pages_if_implemented(fs: Any, call: str, **request: Any) -> Iterator[dict[str, Any]]:
    """Yields the pages of a listing; none if the server does not support the call."""
    try:
        yield from _pages(fs, call, **request)
    except Exception as error:  # each layer of the client has its own exceptions
        if errors.http_status(error) != HTTPStatus.NOT_IMPLEMENTED:
            raise


def _pages(fs: Any, call: str, **request: Any) -> Iterator[dict[str, Any]]:
    while True:
        page = fs.call_s3(call, **request)
        yield page
        if not page.get("IsTruncated"):
            return
        # each kind of listing has markers of its own; those of the next page go into the next request
        for marker in ("ContinuationToken", "KeyMarker", "UploadIdMarker", "VersionIdMarker"):
            following = page.get(f"Next{marker}")
            if following:
                request[marker] = following
