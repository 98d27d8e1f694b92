"""Read and write access to storage: one interface for local folders and every fsspec URL.

`Store.publish` is the only commit function of an archive. Read access is in readable.py.
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
"""Seconds between attempts to create a name while other requests about it are under way."""
LOGGER = logging.getLogger(__name__)


class Store(ReadableStore):
    """A writable store. On S3, objects larger than `largest_put` bytes are uploaded in parts."""

    largest_put = uploads.LARGEST_PUT

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._claim = ("", "")
        self._checks_uploads: bool | None = None  # not asked yet

    def publish(self, name: str, content: bytes | Path) -> bool:
        """Writes bytes or a local file under a new name; the commit function.

        Returns True if the name now holds exactly these bytes, whoever wrote them; False if it holds others, which stay
        unchanged. Atomic against other publishers and against kills. Raises StorageError if the result is unknown.
        """
        if self._claim[0]:
            return self._publish_claimed(name, content)
        for wait in (*CONFLICT_WAITS, None):
            try:
                self._create(name, content)
                return True
            except Exception as error:  # whatever the client raised, the store itself knows the result
                stands = self._stands(name, content)
                # a lost reply looks like a lost race, but the name holds our bytes
                if stands:
                    return True
                refused = isinstance(error, FileExistsError) or errors.http_status(error) == 412
                if refused and stands is False:
                    return False
                # a conflict: HTTP 409, a name deleted since, or a temporary file that a sealing process swept
                conflict = refused or errors.http_status(error) == 409 or isinstance(error, FileNotFoundError)
                if not conflict or wait is None or errors.code(error) == "NoSuchBucket":
                    raise self._named(error, "write", name) from error
                LOGGER.info("%s: conflict, retrying in %g s", self.uri(name), wait)
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
        """Whether a name holds exactly this content; None if it does not exist."""
        try:
            return bool(self.verify(name, content))
        except NotFoundError:
            return None

    def verify(self, name: str, content: bytes | Path) -> str:
        """Returns how an object was verified to hold this content; empty if it does not.

        `checksum`: the store checked its SHA-256; `composite`: the store checked the SHA-256 of each part;
        `crc64nvme`: the store has no SHA-256, and its CRC-64/NVME matches (with the package awscrt);
        `read_back`: the object was read and hashed here. Raises NotFoundError, StorageError.
        """
        size = content.stat().st_size if isinstance(content, Path) else len(content)
        if self.size(name) != size:
            return ""
        if self.has_etags:
            with self._naming_errors("verify", name):
                matching = self._matching_checksum(name, content)
            if matching:
                return matching
        # no checksum, or parts of another size: a copy made by another tool
        if self.sha256(name) != sha256_of(content):
            return ""
        return "read_back"

    def _matching_checksum(self, name: str, content: bytes | Path) -> str:
        """Which checksum of an S3 server matches this content; empty if it has none, or none that counts."""
        stored, crc = uploads.checksums(self._fs, self._path(name))
        # a server that only stores what it is sent proves nothing about its bytes
        if not (stored or crc) or not self._checks():
            return ""
        if stored == uploads.checksum_of(sha256_of(content)):
            return "checksum"
        if stored == uploads.composite_of(content):
            return "composite"
        if crc and crc == uploads.crc64nvme_of(content):
            return "crc64nvme"
        return ""

    def _checks(self) -> bool:
        """Whether the S3 server checks uploads against the SHA-256 sent with them; some servers only store it."""
        if self._checks_uploads is None:
            probe = self._path(f"probe-{secrets.token_hex(8)}")
            self._checks_uploads = uploads.refuses_a_wrong_checksum(self._fs, probe)
        return self._checks_uploads

    @property
    def token(self) -> str:
        """The token of this writer's claim; empty without one."""
        return self._claim[1]

    def claim(self, name: str, token: str) -> None:
        """Publishes from now on as the only writer of a store without exclusive creation.

        `name` holds the token of the writer that started last and is read before each commit. So a writer detects that
        another one has started, but nothing prevents the other from writing.
        """
        self._claim = (name, token)

    def _publish_claimed(self, name: str, content: bytes | Path) -> bool:
        claim, token = self._claim
        if self.read(claim).decode(errors="replace") != token:
            raise ArchiveError(
                f"{self}: another writer started after this one, so this one stops before it commits {name}; the "
                "store cannot keep a second writer out: let one finish, then audit the archive"
            )
        stands = self._stands(name, content)
        if stands is None:
            self.replace(name, content)
        return stands is not False

    def replace(self, name: str, content: bytes | Path) -> None:
        """Replaces the content of a name by bytes or a local file, atomically."""
        with self._naming_errors("write", name):
            if self.folder is not None:
                with local.spooled(self.folder / name, content) as spooled:
                    spooled.replace(self.folder / name)
                # a rename survives a power failure only after its folder is synced
                local.sync((self.folder / name).parent)
            elif self.has_etags:
                uploads.put(self._fs, self._path(name), content, create=False, largest_put=self.largest_put)
            elif isinstance(content, Path):
                self._fs.put_file(str(content), self._path(name))
            else:
                self._fs.pipe_file(self._path(name), content)

    def remove(self, name: str) -> None:
        """Deletes a name, if it exists."""
        with self._naming_errors("remove", name):
            try:
                self._fs.rm_file(self._path(name))
            except FileNotFoundError:
                return

    def age(self, name: str) -> float:
        """Returns the age of a name in seconds by the store's clock. Raises NotFoundError, StorageError."""
        # the store's clock is asked by writing: this machine's may be wrong
        probe = f"probe-{secrets.token_hex(8)}"
        self.replace(probe, b"")
        try:
            return self.modified(probe) - self.modified(name)
        finally:
            self.remove(probe)

    def old_versions(self, name: str) -> builtins.list[str]:
        """Lists the IDs of noncurrent versions of a name; most stores keep none."""
        if not self.has_etags:
            return []
        with self._naming_errors("list the versions of", name):
            return s3.versions(self._fs, self._path(name))

    def remove_version(self, name: str, version: str) -> None:
        """Permanently deletes one version of a name. Raises StorageError, also if the store must retain it."""
        with self._naming_errors("delete a version of", name):
            # asked first, since servers answer a refused deletion with no date
            until = s3.retained_until(self._fs, self._path(name), version)
            if until:
                raise StorageError(f"{self.uri(name)}: the bucket must retain a version until {until}; purge it then")
            s3.remove_version(self._fs, self._path(name), version)

    def remove_folder(self, name: str) -> None:
        """Deletes a folder and its contents, if it exists."""
        with self._naming_errors("remove", name):
            try:
                self._fs.rm(self._path(name), recursive=True)
            except FileNotFoundError:
                return

    def remove_unfinished(self, prefix: str = "") -> None:
        """Deletes the temporary files that killed writers left under a prefix; remote stores have none."""
        if self.folder is not None:
            with self._naming_errors("remove", prefix):
                local.remove_unfinished(self.folder / prefix)

    def abort_uploads(self, prefix: str = "", *, older_than: float = 0.0) -> builtins.list[str]:
        """Aborts the multipart uploads that killed writers left under a folder; returns their target names.

        S3 stores and bills their parts, and no listing shows them; other stores have none. Uploads that began within
        the last `older_than` seconds are kept: their writers may still be running.
        """
        if not self.has_etags:
            return []
        with self._naming_errors("abort uploads", prefix):
            return [self._name(path) for path in s3.abort_uploads(self._fs, self._prefixed(prefix), older_than)]


def sha256_of(content: bytes | Path) -> str:
    """Returns the hexadecimal SHA-256 of bytes or a local file."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
