"""The published bit rates of the method's user study: reference points, never mixed with measured ones.

Source: Relic, Azevedo, Gross and Schroers, Lossy Image Compression with Foundation Diffusion Models (ECCV 2024),
supplementary material, Table 1. The table has bit rates only: no qualities of these files were published.
"""

SOURCE = "Relic et al., ECCV 2024, supplement, Table 1"

PHOTOS = (
    "kodim01", "kodim05", "kodim07", "kodim09", "kodim08", "kodim17", "kodim19", "kodim22", "kodim23", "kodim24",
)  # fmt: skip
BITS_PER_PIXEL: dict[str, tuple[float, ...]] = {
    "Ours": (0.0852, 0.154, 0.101, 0.0744, 0.163, 0.0927, 0.0907, 0.0984, 0.0606, 0.110),
    "HFD": (0.0940, 0.161, 0.111, 0.0765, 0.167, 0.0966, 0.0918, 0.0992, 0.0644, 0.113),
    "CDC": (0.276, 0.365, 0.229, 0.166, 0.297, 0.237, 0.207, 0.252, 0.160, 0.290),
    "ILLM": (0.0983, 0.240, 0.147, 0.118, 0.243, 0.140, 0.146, 0.146, 0.0644, 0.187),
}
"""Of each method, in the order of PHOTOS; "Ours" is the paper's codec, not this one."""
