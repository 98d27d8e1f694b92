"""Requests from a parent to a child process, one class per verb: the header of a frame, next to its payload.

Parent and child are of one release, so an invalid header is a bug of this package. The child refuses it in one line,
which the parent raises; it never becomes the row of a picture.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self, TypeVar


class RequestError(Exception):
    """The process does not support this request."""


@dataclass(frozen=True)
class Request:
    """A request. Each class sets its verb, `do`."""

    do: ClassVar[str] = ""

    def header(self) -> dict[str, Any]:
        """The request as JSON."""
        return {"do": self.do, **asdict(self)}

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Self:
        """Builds the request from the fields of a header. Raises TypeError for other fields."""
        return cls(**fields)


@dataclass(frozen=True)
class Encode(Request):
    """Encode the source in the payload; tasks.archive.manifest.RunSettings documents the fields."""

    do = "encode"
    quality: float | None
    target_bpp: float | None
    min_psnr_db: float | None
    max_lpips: float | None
    metadata: str
    verify: bool
    discard: Sequence[str]
    metrics: Sequence[str]
    effort: int = 0
    preview: int = 0

    @property
    def quality_lambda(self) -> float:
        """The rate-distortion weight. Raises ValueError for a request by bits per pixel."""
        if self.quality is None:
            raise ValueError("this request sets bits per pixel, so it has no quality")
        return self.quality

    @property
    def searches(self) -> bool:
        """Whether the encoder searches for a rate or a quality, which takes several encodings of one picture."""
        return any(bound is not None for bound in (self.target_bpp, self.min_psnr_db, self.max_lpips))


@dataclass(frozen=True)
class BatchEntry:
    """A source of an EncodeMany: its request, its position in the batch, and its size in the payload."""

    request: Encode
    position: int
    length: int


@dataclass(frozen=True)
class EncodeMany(Request):
    """Encode the concatenated sources in the payload in batches of `count`; `seconds` limits each source."""

    do = "encode_many"
    entries: Sequence[BatchEntry]
    count: int
    seconds_each: float

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Self:
        """Builds the request and its entries, which are mappings in JSON."""
        entries = []
        for entry in fields["entries"]:
            request = Encode.of(entry["request"])
            entries.append(BatchEntry(request, entry["position"], entry["length"]))
        return cls(**{**fields, "entries": entries})


@dataclass(frozen=True)
class Judge(Request):
    """Predict the result for the source in the payload without encoding it."""

    do = "judge"
    metadata: str
    discard: Sequence[str]


@dataclass(frozen=True)
class Transcode(Request):
    """Keep the source in the payload as lossless JPEG XL."""

    do = "transcode"


@dataclass(frozen=True)
class Decode(Request):
    """Decode the stored file in the payload. `kind`: such as `jpeg:90`; None is PNG, or the source of a JPEG XL."""

    do = "decode"
    kind: str | None = None


@dataclass(frozen=True)
class Show(Request):
    """Decode the stored file in the payload for viewers: a picture of this kind with its color profile alone.

    `codec` is that of the file's row. The picture is at most `width` pixels wide and never enlarged.
    """

    do = "show"
    codec: str
    kind: str
    width: int | None = None


@dataclass(frozen=True)
class SaveBackbone(Request):
    """Save the bundle's backbone with its license to a folder; an empty source is where it was loaded from."""

    do = "save_backbone"
    source: str
    folder: str


@dataclass(frozen=True)
class Verify(Request):
    """Decode the file in the payload again."""

    do = "verify"


@dataclass(frozen=True)
class VerifyMany(Request):
    """Decode the concatenated files of these lengths in the payload again."""

    do = "verify_many"
    lengths: Sequence[int]


@dataclass(frozen=True)
class Measure(Request):
    """Measure a picture of an evaluation with one of its codecs."""

    do = "measure"
    image: str
    codec: str


Asked = TypeVar("Asked", bound=Request)


def read(header: Mapping[str, Any], *known: type[Asked]) -> Asked:
    """Parses the request in a header. Raises RequestError for an unknown verb or wrong fields."""
    fields = dict(header)
    verb = fields.pop("do", None)
    by_verb = {kind.do: kind for kind in known}
    request = by_verb.get(verb)
    if request is None:
        verbs = ", ".join(by_verb)
        raise RequestError(f"unknown request {verb!r}; this process answers {verbs}")
    try:
        return request.of(fields)
    except (TypeError, KeyError) as error:
        raise RequestError(f"request {verb!r} with wrong fields: {error}") from error
