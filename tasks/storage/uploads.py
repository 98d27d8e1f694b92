"""Uploads to S3 with a SHA-256 for the server to check, and the checksums that servers report afterwards.

`fs` is an s3fs file system, `path` a bucket and a key.
"""

import base64
import hashlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

from tasks.storage import errors

PART = 50 << 20
"""Bytes of a part of an upload."""
LARGEST_PUT = 100 << 20
"""Most bytes of one PUT request; larger content is uploaded in parts."""
MOST_PARTS = 10_000
"""Most parts of an upload that S3 allows."""
PARTS_AT_ONCE = 4
"""Parts in memory and on their way."""


def put(fs: Any, path: str, content: bytes | Path, *, create: bool, largest_put: int) -> None:
    """Uploads bytes or a local file with a SHA-256 per request for the server to check.

    With `create`, only if the name is free. Content larger than `largest_put` is uploaded in parts, a few at a time. A
    failed upload is aborted.
    """
    bucket, key, _ = fs.split_path(path)
    target = {"Bucket": bucket, "Key": key}
    condition = {"IfNoneMatch": "*"} if create else {}
    size = _size(content)
    if size <= largest_put:
        fs.call_s3("put_object", **target, **condition, **_checked(_piece(content, 0, size)))
        return
    begun = fs.call_s3("create_multipart_upload", **target, ChecksumAlgorithm="SHA256")
    upload = target | {"UploadId": begun["UploadId"]}
    starts = range(0, size, _part_length(size))

    def send(start: int) -> dict[str, Any]:
        body = _checked(_piece(content, start, starts.step))
        number = starts.index(start) + 1
        sent = fs.call_s3("upload_part", **upload, PartNumber=number, **body)
        return {"PartNumber": number, "ETag": sent["ETag"], "ChecksumSHA256": body["ChecksumSHA256"]}

    try:
        with ThreadPoolExecutor(PARTS_AT_ONCE) as senders:
            parts = list(senders.map(send, starts))
        # S3 takes the condition here alone: parts have no name before the upload is completed
        fs.call_s3("complete_multipart_upload", **upload, **condition, MultipartUpload={"Parts": parts})
    except BaseException:
        with suppress(Exception):  # leftover parts are aborted later too
            fs.abort_mpu(bucket, key, upload["UploadId"])
        raise


def checksums(fs: Any, path: str) -> tuple[str, str]:
    """Returns an object's SHA-256 (of the content or its parts) and CRC-64/NVME in Base64, empty if absent."""
    bucket, key, _ = fs.split_path(path)
    found = fs.call_s3("head_object", Bucket=bucket, Key=key, ChecksumMode="ENABLED")
    sha256 = str(found.get("ChecksumSHA256", "")).partition("-")[0]  # the number of parts follows
    return sha256, str(found.get("ChecksumCRC64NVME", ""))


def checksum_of(sha256: str) -> str:
    """Converts a hexadecimal SHA-256 to the form that `checksums` returns for content uploaded in one request."""
    return _base64(bytes.fromhex(sha256))


def composite_of(content: bytes | Path) -> str:
    """The SHA-256 that `checksums` returns for content that `put` uploaded in parts."""
    size = _size(content)
    starts = range(0, size, _part_length(size))
    digests = [hashlib.sha256(_piece(content, start, starts.step)).digest() for start in starts]
    return _base64(hashlib.sha256(b"".join(digests)).digest())


def crc64nvme_of(content: bytes | Path) -> str:
    """The CRC-64/NVME of content as `checksums` returns it; empty if the package awscrt is not installed.

    S3 computes it for every object, even for one uploaded without a SHA-256.
    """
    try:
        from awscrt.checksums import crc64nvme
    except ImportError:
        return ""
    value = 0
    for start in range(0, _size(content), PART):
        value = crc64nvme(_piece(content, start, PART), value)
    return _base64(value.to_bytes(8, "big"))


def refuses_a_wrong_checksum(fs: Any, path: str) -> bool:
    """Whether the server checks uploads against the SHA-256 sent with them; some servers only store it."""
    bucket, key, _ = fs.split_path(path)
    try:
        fs.call_s3("put_object", Bucket=bucket, Key=key, **_checked(b"right") | {"Body": b"wrong"})
    except Exception as error:  # each layer of the client has its own exceptions
        if errors.http_status(error) != HTTPStatus.BAD_REQUEST:
            raise
        return True
    fs.rm_file(path)  # the server took the wrong bytes
    return False


def _checked(body: bytes) -> dict[str, Any]:
    """The body of a request and its checksum."""
    digest = _base64(hashlib.sha256(body).digest())
    return {"Body": body, "ChecksumAlgorithm": "SHA256", "ChecksumSHA256": digest}


def _part_length(size: int) -> int:
    smallest = -(-size // MOST_PARTS)  # rounded up
    return max(PART, smallest)


def _size(content: bytes | Path) -> int:
    if isinstance(content, bytes):
        return len(content)
    return content.stat().st_size


def _piece(content: bytes | Path, start: int, length: int) -> bytes:
    if isinstance(content, bytes):
        return content[start : start + length]
    with content.open("rb") as file:
        file.seek(start)
        return file.read(length)


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()
