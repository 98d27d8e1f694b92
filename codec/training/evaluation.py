"""Measures an exported bundle on held-out photos, with real files that are decoded again."""

from collections.abc import Iterable, Sequence

import torch

from codec.bundle import Bundle
from codec.codec import Codec
from codec.diffusion.backbone import Backbone
from codec.images import read_image
from codec.metrics.quality import Metrics

HeldOutRow = dict[str, float | int | str | None]


def evaluate_bundle(
    bundle: Bundle,
    photos: Sequence[tuple[str, bytes]],
    qualities: Iterable[float],
    *,
    device: torch.device | str = "cpu",
    backbone: Backbone | None = None,
) -> list[HeldOutRow]:
    """One row for each photo and quality; bpp is 8 * file bytes / pixels.

    A `backbone` on the device saves loading the bundle's own once more.
    """
    place = str(device)
    if backbone is None:
        codec = Codec.load(bundle, device=place)
    else:
        codec = Codec(bundle, backbone, *bundle.load_entropy(place), *bundle.load_encoder(place))
    metrics = Metrics("psnr", "ms-ssim", "lpips", "dists", device=place)
    rows = []
    for quality in qualities:
        for key, data in photos:
            picture = read_image(data)
            encoded = codec.encode(picture, quality=quality)
            measured = metrics.measure(picture.pixels, codec.decode(encoded.data))
            row: HeldOutRow = {
                "key": key,
                "quality": quality,
                "bpp": 8 * len(encoded.data) / (picture.width * picture.height),
                "psnr_db": measured.psnr_db,
                "ms_ssim": measured.ms_ssim,
                "lpips": measured.lpips,
                "dists": measured.dists,
                "timestep": encoded.timestep,
                "hyper_share": encoded.side_bits / max(1, encoded.side_bits + encoded.latent_bits),
            }
            rows.append(row)
    return rows


def averages(rows: Sequence[HeldOutRow]) -> list[HeldOutRow]:
    """Averages rows over photos, one per quality, leaving out undefined values."""
    table = []
    for quality in dict.fromkeys(row["quality"] for row in rows):
        chosen = [row for row in rows if row["quality"] == quality]
        mean: HeldOutRow = {"quality": quality, "photos": len(chosen)}
        for name in ("bpp", "psnr_db", "ms_ssim", "lpips", "dists", "timestep", "hyper_share"):
            values = [float(row[name] or 0) for row in chosen if row[name] is not None]
            mean[name] = round(sum(values) / len(values), 5) if values else None
        table.append(mean)
    return table
