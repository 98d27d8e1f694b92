"""The exceptions raised by fdcodec. Each message says what was wrong, where, and what to do."""


class FdcError(Exception):
    """Base of all errors that a user can cause; the command line prints the message without a traceback."""


class ImageError(FdcError):
    """The bytes are not a readable picture, or the picture exceeds the limits."""


class NotAnImageError(ImageError):
    """The file is not a picture: a video, a sidecar file, a text."""


class ImageLimitError(ImageError):
    """The picture exceeds what is supported: too many pixels, or samples without a defined white."""


class BitstreamError(FdcError):
    """An .fdc file is damaged, hostile, or written for another version or bundle."""


class BitstreamLimitError(BitstreamError):
    """The header of an .fdc file declares more pixels than the caller accepts."""


class BundleError(FdcError):
    """A trained codec on disk is missing, incomplete, or does not match its hashes."""


class BackboneError(FdcError):
    """A diffusion backbone cannot be loaded from the given location."""


class SettingsError(FdcError):
    """A setting has an invalid name or value."""


class QualityError(FdcError):
    """No file of a picture reaches the requested quality."""


class ArchiveError(FdcError):
    """An archive, its store or its source is not in the state that the operation requires."""
