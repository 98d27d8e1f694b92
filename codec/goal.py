"""What a file is to reach: a lambda, a rate, or a quality."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from codec.errors import SettingsError

if TYPE_CHECKING:
    from codec.codec import Codec, Encoded
    from codec.images import Picture


@dataclass(frozen=True)
class Goal:
    """At most one of lambda, bits per pixel, or bounds on quality; lambda's default without any. Codec.encode* explain.

    Raises SettingsError if there are several, or one is not a positive number.
    """

    quality: float | None = None
    target_bpp: float | None = None
    min_psnr_db: float | None = None
    max_lpips: float | None = None
    effort: int = 0

    def __post_init__(self) -> None:
        for name in ("quality", "target_bpp", "min_psnr_db", "max_lpips"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | float) and 0 < value < math.inf):
                raise SettingsError(f"{name} must be a positive number, not {value!r}")
        if [self.quality is not None, self.target_bpp is not None, self._is_bounded].count(True) > 1:
            raise SettingsError("choose one of quality, target_bpp, or bounds on quality (min_psnr_db, max_lpips)")

    @property
    def _is_bounded(self) -> bool:
        return self.min_psnr_db is not None or self.max_lpips is not None

    def encode(self, codec: "Codec", picture: "Picture") -> "Encoded":
        """Encodes a picture. Raises QualityError if no file reaches the bounds; otherwise as Codec.encode does."""
        if self.target_bpp is not None:
            return codec.encode_to_bpp(picture, self.target_bpp, effort=self.effort)
        if self._is_bounded:
            return codec.encode_to_quality(
                picture, min_psnr_db=self.min_psnr_db, max_lpips=self.max_lpips, effort=self.effort
            )
        if self.quality is None:
            return codec.encode(picture, effort=self.effort)
        return codec.encode(picture, quality=self.quality, effort=self.effort)
