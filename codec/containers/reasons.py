"""Why a source is kept whole instead of compressed: one closed list, the same words everywhere."""

from enum import StrEnum


class Reason(StrEnum):
    """Reasons of rows with status `fallback`; the text of each stands in the schema."""

    BELOW_QUALITY = "below_quality"
    WOULD_GROW = "would_grow"
    DEPTH = "depth"
    COLORS = "colors"
    FRAMES = "frames"
    GAIN_MAP = "gain_map"
    TRAILING_DATA = "trailing_data"
    RAW = "raw"
    DAMAGED = "damaged"
    IRREGULAR = "irregular"
    METADATA = "metadata"
    SIGNED = "signed"
    NOT_AN_IMAGE = "not_an_image"
    UNSUPPORTED = "unsupported"
    UNVERIFIED = "unverified"
    CRASHED = "crashed"
    KILLED = "killed"
    TIMEOUT = "timeout"
    ENCODER = "encoder"
    TOO_LARGE = "too_large"


MEANINGS = {
    Reason.BELOW_QUALITY: "no .fdc file reaches min_psnr_db or max_lpips",
    Reason.WOULD_GROW: "the .fdc file would not be smaller than the source",
    Reason.DEPTH: "samples of more than 8 bits",
    Reason.COLORS: "inks, channels, or a color space that pixels are not coded in",
    Reason.FRAMES: "several pictures in one file, as of an animation",
    Reason.GAIN_MAP: "a gain map or other auxiliary picture that cannot be carried",
    Reason.TRAILING_DATA: "bytes after the end of the picture, such as a film",
    Reason.RAW: "a camera's raw file",
    Reason.DAMAGED: "the coded picture is broken or cut short",
    Reason.IRREGULAR: "not as its format asks, outside the coded picture",
    Reason.METADATA: "metadata that cannot be carried unchanged",
    Reason.SIGNED: "content credentials (C2PA) that sign the source's bytes",
    Reason.NOT_AN_IMAGE: "no picture: a film, a sidecar, a text",
    Reason.UNSUPPORTED: "a kind or size of picture that is not read here, as error says",
    Reason.UNVERIFIED: "a second process did not decode the .fdc file to the same symbols",
    Reason.CRASHED: "ended the process that decoded and encoded it, twice",
    Reason.KILLED: "its process was killed twice, as for lack of memory",
    Reason.TIMEOUT: "took longer than image_timeout, twice",
    Reason.ENCODER: "the encoder raised an error",
    Reason.TOO_LARGE: "larger than is read into memory",
}
