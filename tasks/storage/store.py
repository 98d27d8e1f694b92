"""The one place that opens storage: local folders and every fsspec URL behind the same few calls.

`Store.publish` is the one commit function of an archive. What reads is in readable.py.
"""

import builtins
import hashlib
import logging
import secrets
import time
from pathlib import Path

from codec.errors import ArchiveError
from tasks.storage import errors, local, s3, uploads
from tasks.storage.errors import NotFoundError, ReadOnlyError, StorageError, UnreadableError
from tasks.storage.readable import PIECE, ReadableStore, StoredObject

__all__ = [
    "PIECE",
    "NotFoundError",
    "ReadOnlyError",
    "ReadableStore",
    "StorageError",
    "Store",
    "StoredObject",
    "UnreadableError",
    "sha256_of",
]

CONFLICT_WAITS = (0.1, 0.3, 1.0, 3.0)
LOGGER = logging.getLogger(__name__)


class Store(ReadableStore):
    """A store that is written too. On S3 what is larger than `largest_put` bytes is uploaded in parts."""

    largest_put = uploads.LARGEST_PUT

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._claim = ("", "")
        self._checks_uploads: bool | None = None

    def publish(self, name: str, content: bytes | Path) -> bool:
        """Put bytes, or a local file, under a name that nothing has; the commit function.

        True when exactly these bytes now stand there, whoever put them; False when others do, which stay untouched.
        Atomic against any other publisher and against being killed. Raises StorageError when it cannot be told.
        """
        if self._claim[0]:
            return self._publish_claimed(name, content)
        for wait in (*CONFLICT_WAITS, None):
            try:
                self._create(name, content)
                return True
            except Exception as error:  # any client's failure: the store itself is asked what holds
                stands = self._stands(name, content)
                if stands:
                    return True
                refused = isinstance(error, FileExistsError) or errors.http_status(error) == 412
                if refused and stands is False:
                    return False
                # a conflict: by 409, refused for a name that has gone since, or a sealing runner took our spool away
                conflict = refused or errors.http_status(error) == 409 or isinstance(error, FileNotFoundError)
                if not conflict or wait is None or errors.code(error) == "NoSuchBucket":
                    raise self._named(error, "write", name) from error
                LOGGER.info("%s: a conflict, tried again in %g s", self.uri(name), wait)
                time.sleep(wait)
        raise AssertionError("unreachable")

    def _create(self, name: str, content: bytes | Path) -> None:
        if self.folder is not None:
            with local.spooled(self.folder / name, content) as spooled:
                local.claim(spooled, self.folder / name)
            local.sync((self.folder / name).parent)
        elif self.has_etags:
            uploads.put(self._fs, self._path(name), content, create=True, largest_put=self.largest_put)
        elif isinstance(content, bytes):
            self._fs.pipe_file(self._path(name), content, mode="create")
        else:
            self._fs.put_file(str(content), self._path(name), mode="create")

    def _stands(self, name: str, content: bytes | Path) -> bool | None:
        """Whether exactly this content stands under a name; None where nothing does."""
        try:
            return bool(self.verify(name, content))
        except NotFoundError:
            return None

    def verify(self, name: str, content: bytes | Path) -> str:
        """How what stands under a name was seen to be this content; empty where it is not.

        `checksum`: the store has checked its SHA-256; `composite`: it has checked that of each part of the upload;
        `crc64nvme`: it keeps no SHA-256 of ours, and its CRC-64/NVME is this content's (with the package awscrt);
        `read_back`: it was read again here. Raises NotFoundError, StorageError.
        """
        size = content.stat().st_size if isinstance(content, Path) else len(content)
        if self.size(name) != size:
            return ""
        with self._naming_errors("verify", name):
            stored, crc = uploads.checksums(self._fs, self._path(name)) if self.has_etags else ("", "")
            if (stored or crc) and self._checks():
                if stored == uploads.checksum_of(sha256_of(content)):
                    return "checksum"
                if stored == uploads.composite_of(content):
                    return "composite"
                if crc and crc == uploads.crc64nvme_of(content):
                    return "crc64nvme"
        # no checksum, or one of parts of another size than ours: a copy made by some other tool
        return "read_back" if self.sha256(name) == sha256_of(content) else ""

    def _checks(self) -> bool:
        """Whether an S3 server compares an upload with the SHA-256 that comes with it; some only keep what it says."""
        if self._checks_uploads is None:
            self._checks_uploads = uploads.refuses_a_wrong_checksum(
                self._fs, self._path(f"probe-{secrets.token_hex(8)}")
            )
        return self._checks_uploads

    @property
    def token(self) -> str:
        """The token of this writer's claim, empty if none."""
        return self._claim[1]

    def claim(self, name: str, token: str) -> None:
        """Publish from now on as the only writer of a store that cannot create exclusively.

        `name` holds the token of the writer that began last; it is read back before each commit. So a writer finds out
        that another one has begun. Nothing keeps that other one out.
        """
        self._claim = (name, token)

    def _publish_claimed(self, name: str, content: bytes | Path) -> bool:
        claim, token = self._claim
        if self.read(claim).decode(errors="replace") != token:
            raise ArchiveError(
                f"{self}: another writer has begun since this one did, so this one stops before it commits {name}; the "
                "store cannot keep a second writer out: let one finish, then audit the archive"
            )
        stands = self._stands(name, content)
        if stands is None:
            self.replace(name, content)
        return stands is not False

    def replace(self, name: str, content: bytes | Path) -> None:
        """Put bytes, or a local file, in place of what a name had, without a moment in which it is half-written."""
        with self._naming_errors("write", name):
            if self.folder is not None:
                with local.spooled(self.folder / name, content) as spooled:
                    spooled.replace(self.folder / name)
                local.sync((self.folder / name).parent)
            elif self.has_etags:
                uploads.put(self._fs, self._path(name), content, create=False, largest_put=self.largest_put)
            elif isinstance(content, Path):
                self._fs.put_file(str(content), self._path(name))
            else:
                self._fs.pipe_file(self._path(name), content)

    def remove(self, name: str) -> None:
        """Delete a name; deleting what is not there is no error."""
        with self._naming_errors("remove", name):
            try:
                self._fs.rm_file(self._path(name))
            except FileNotFoundError:
                return

    def age(self, name: str) -> float:
        """Seconds since a name was written, by the clock of the store itself; raises NotFoundError, StorageError."""
        probe = f"probe-{secrets.token_hex(8)}"
        self.replace(probe, b"")
        try:
            return self.modified(probe) - self.modified(name)
        finally:
            self.remove(probe)

    def old_versions(self, name: str) -> builtins.list[str]:
        """The ids of what the store still keeps of a name that was removed or replaced; most stores keep nothing."""
        if not self.has_etags:
            return []
        with self._naming_errors("list the versions of", name):
            return s3.versions(self._fs, self._path(name))

    def remove_version(self, name: str, version: str) -> None:
        """Delete one version of a name for good; raises StorageError, also where the store must retain it."""
        with self._naming_errors("delete a version of", name):
            if until := s3.retained_until(self._fs, self._path(name), version):
                raise StorageError(f"{self.uri(name)}: the bucket must retain a version until {until}; purge it then")
            s3.remove_version(self._fs, self._path(name), version)

    def remove_folder(self, name: str) -> None:
        """Delete a folder and all in it; deleting what is not there is no error."""
        with self._naming_errors("remove", name):
            try:
                self._fs.rm(self._path(name), recursive=True)
            except FileNotFoundError:
                return

    def remove_unfinished(self, prefix: str = "") -> None:
        """Delete the temporary files that killed writers left under a prefix; remote stores have none."""
        if self.folder is not None:
            with self._naming_errors("remove", prefix):
                local.remove_unfinished(self.folder / prefix)

    def abort_uploads(self, prefix: str = "", *, older_than: float = 0.0) -> builtins.list[str]:
        """Abort the multipart uploads that killed writers left under a folder; returns the names they were for.

        An S3 store keeps and bills their bytes, and no listing shows them; other stores have none. Those begun within
        the last `older_than` seconds are spared: their writers may be at work.
        """
        if not self.has_etags:
            return []
        with self._naming_errors("abort uploads", prefix):
            return [self._name(path) for path in s3.abort_uploads(self._fs, self._prefixed(prefix), older_than)]


def sha256_of(content: bytes | Path) -> str:
    """The SHA-256, in hexadecimal, of bytes or of a local file."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
