"""The errors fdcodec raises on purpose. Each message says what was wrong, where, and what to do."""


class FdcError(Exception):
    """Base of all errors a user can cause; the command line prints its message and no traceback."""


class ImageError(FdcError):
    """The bytes are not a picture that can be read whole, or the picture is beyond the limits."""


class NotAnImageError(ImageError):
    """A file that is no picture at all: a film, a sidecar, a text."""


class ImageLimitError(ImageError):
    """The bytes may well be a picture, but one beyond what is read: too many pixels, or samples without a white."""


class BitstreamError(FdcError):
    """An .fdc file is damaged, hostile, or written for another version or bundle."""


class BundleError(FdcError):
    """A trained codec on disk is missing, incomplete, or not what its hashes say."""


class BackboneError(FdcError):
    """A diffusion backbone cannot be loaded from where it was said to be."""


class SettingsError(FdcError):
    """A setting has a value, or a name, that does not exist."""


class QualityError(FdcError):
    """No file of a picture reaches the quality that was asked for."""


class ArchiveError(FdcError):
    """An archive, its store or its source is not in the state that the request needs."""
