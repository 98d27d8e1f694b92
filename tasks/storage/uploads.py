"""Uploads to S3, each with the SHA-256 that the server is to check, and what servers say of it afterwards.

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

PART, LARGEST_PUT, MOST_PARTS = 50 << 20, 100 << 20, 10_000
"""Bytes of a part, bytes that are put in one request, and how many parts S3 allows."""
PARTS_AT_ONCE = 4


def put(fs: Any, path: str, content: bytes | Path, *, create: bool, largest_put: int) -> None:
    """Store bytes or a local file, with a SHA-256 of each request for the server to check.

    With `create` only where nothing is stored. What is larger than `largest_put` comes in parts, a few at a time, and
    an upload that fails is aborted.
    """
    bucket, key, _ = fs.split_path(path)
    target, condition = {"Bucket": bucket, "Key": key}, {"IfNoneMatch": "*"} if create else {}
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
        fs.call_s3("complete_multipart_upload", **upload, **condition, MultipartUpload={"Parts": parts})
    except BaseException:
        with suppress(Exception):  # what an upload left is aborted later too
            fs.abort_mpu(bucket, key, upload["UploadId"])
        raise


def checksums(fs: Any, path: str) -> tuple[str, str]:
    """What a server keeps of an object, in Base64, empty if none: SHA-256, or that of its parts', and CRC-64/NVME."""
    bucket, key, _ = fs.split_path(path)
    found = fs.call_s3("head_object", Bucket=bucket, Key=key, ChecksumMode="ENABLED")
    sha256 = str(found.get("ChecksumSHA256", "")).partition("-")[0]  # what follows is the number of parts
    return sha256, str(found.get("ChecksumCRC64NVME", ""))


def checksum_of(sha256: str) -> str:
    """The SHA-256 that `checksums` gives of content with this hash, in hexadecimal, that was put in one request."""
    return _base64(bytes.fromhex(sha256))


def composite_of(content: bytes | Path) -> str:
    """The SHA-256 that `checksums` gives of content that `put` stored in parts."""
    size = _size(content)
    starts = range(0, size, _part_length(size))
    digests = [hashlib.sha256(_piece(content, start, starts.step)).digest() for start in starts]
    return _base64(hashlib.sha256(b"".join(digests)).digest())


def crc64nvme_of(content: bytes | Path) -> str:
    """The CRC-64/NVME of content as `checksums` gives it; empty where the package awscrt is not installed.

    S3 computes it of every object, also of those that came without a SHA-256.
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
    """Whether the server compares what it gets with the SHA-256 beside it: some only keep what they are told."""
    bucket, key, _ = fs.split_path(path)
    try:
        fs.call_s3("put_object", Bucket=bucket, Key=key, **_checked(b"right") | {"Body": b"wrong"})
    except Exception as error:  # each layer of the client has errors of its own
        if errors.http_status(error) != HTTPStatus.BAD_REQUEST:
            raise
        return True
    fs.rm_file(path)
    return False


def _checked(body: bytes) -> dict[str, Any]:
    """The body of a request and its checksum."""
    digest = _base64(hashlib.sha256(body).digest())
    return {"Body": body, "ChecksumAlgorithm": "SHA256", "ChecksumSHA256": digest}


def _part_length(size: int) -> int:
    return max(PART, -(-size // MOST_PARTS))


def _size(content: bytes | Path) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def _piece(content: bytes | Path, start: int, length: int) -> bytes:
    if isinstance(content, bytes):
        return content[start : start + length]
    with content.open("rb") as file:
        file.seek(start)
        return file.read(length)


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()
