"""The reasons for keeping a source whole instead of compressing it: one closed list, used everywhere."""

from enum import StrEnum


class Reason(StrEnum):
    """Reasons of rows with status `fallback`, as the schema describes them."""

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
    Reason.COLORS: "inks, channels or a color space that the codec does not support",
    Reason.FRAMES: "several pictures in one file, such as an animation",
    Reason.GAIN_MAP: "a gain map or other auxiliary picture that cannot be carried",
    Reason.TRAILING_DATA: "bytes after the end of the picture, such as a video",
    Reason.RAW: "a camera raw file",
    Reason.DAMAGED: "the coded picture is broken or truncated",
    Reason.IRREGULAR: "violates its format outside the coded picture",
    Reason.METADATA: "metadata that cannot be carried unchanged",
    Reason.SIGNED: "content credentials (C2PA) that sign the source's bytes",
    Reason.NOT_AN_IMAGE: "not a picture: a video, a sidecar file, a text",
    Reason.UNSUPPORTED: "an unsupported kind or size of picture; see error",
    Reason.UNVERIFIED: "a second process decoded the .fdc file to other symbols",
    Reason.CRASHED: "crashed the process that decoded and encoded it, twice",
    Reason.KILLED: "its process was killed twice, for example for lack of memory",
    Reason.TIMEOUT: "took longer than image_timeout, twice",
    Reason.ENCODER: "the encoder raised an error",
    Reason.TOO_LARGE: "larger than the limit for reading into memory",
}
