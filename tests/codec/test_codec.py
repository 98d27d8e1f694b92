"""The codec as a whole: files that decode, in any process, to what was encoded."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from codec import BitstreamError, BundleError, Codec, ImageError, Picture, SettingsError, read_image
from codec.bundle import Bundle, find_bundle
from codec.bundle_id import DEFAULT_BUNDLE
from codec.format.bitstream import pack, parse
from codec.metrics.quality import psnr
from tests.conftest import synthetic
from tests.support.tiny_bundles import tiny_bundle


@pytest.fixture(scope="module")
def codec(bundle: Bundle) -> Codec:
    return Codec.load(bundle)


@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (8, 8), (65, 130), (16, 1100)])
def test_any_size_is_restored(shape: tuple[int, int], codec: Codec) -> None:
    encoded = codec.encode(Picture(synthetic(*shape)))
    assert codec.decode(encoded.data).shape == (*shape, 3)
    assert np.array_equal(codec.symbols(encoded.data), encoded.symbols)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
def test_an_image_without_pixels_is_refused_by_its_size(shape: tuple[int, int], codec: Codec) -> None:
    empty = Picture(np.zeros((*shape, 3), np.uint8))
    for encode in (codec.encode, lambda picture: codec.encode_all([picture]), lambda p: codec.encode_to_bpp(p, 1.0)):
        with pytest.raises(ImageError, match=f"{shape[1]} x {shape[0]} has no pixels"):
            encode(empty)


def test_another_process_decodes_the_same_symbols_from_bytes_and_bundle_alone(
    codec: Codec, photo: NDArray[np.uint8], tmp_path: Path
) -> None:
    encoded = codec.encode(Picture(photo))
    (tmp_path / "photo.fdc").write_bytes(encoded.data)
    program = (
        "import sys, hashlib; from pathlib import Path; from codec import Codec; "
        "symbols = Codec.load(sys.argv[1]).symbols(Path(sys.argv[2]).read_bytes()); "
        "print(hashlib.sha256(symbols.astype('<i4').tobytes()).hexdigest())"
    )
    command = [sys.executable, "-c", program, str(codec.bundle.path), str(tmp_path / "photo.fdc")]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, env={"OMP_NUM_THREADS": "1"})
    assert answer.stdout.strip() == hashlib.sha256(encoded.symbols.astype("<i4").tobytes()).hexdigest()


def test_encoding_twice_gives_the_same_bytes(codec: Codec, photo: NDArray[np.uint8]) -> None:
    assert codec.encode(Picture(photo), quality=3).data == codec.encode(Picture(photo), quality=3).data


def test_pictures_of_one_size_are_coded_together_and_each_file_stands_alone(codec: Codec) -> None:
    pictures = [Picture(synthetic(40, 56, seed=seed)) for seed in range(3)]
    together = codec.encode_all(pictures, quality=8)
    assert len(together) == 3
    for picture, encoded in zip(pictures, together, strict=True):
        assert np.array_equal(codec.symbols(encoded.data), encoded.symbols)
        alone = codec.encode(picture, quality=8)
        assert np.abs(encoded.symbols - alone.symbols).max() <= 1 and len(encoded.data) == pytest.approx(
            len(alone.data), rel=0.05, abs=8
        )
    with pytest.raises(ValueError, match="one size"):
        codec.encode_all([pictures[0], Picture(synthetic(40, 48))])
    assert codec.encode_all([]) == []


def test_files_of_any_sizes_and_rates_are_decoded_together_to_what_they_hold(codec: Codec) -> None:
    gray = Picture(np.repeat(synthetic(40, 56)[..., :1], 3, axis=2), gray=True)
    pictures = [Picture(synthetic(40, 56)), Picture(synthetic(9, 9)), gray, Picture(synthetic(40, 56, seed=7))]
    files = [codec.encode(picture, quality=quality).data for picture in pictures for quality in (0.5, 8, 1e6)]
    for data, pixels in zip(files, codec.decode_all(files), strict=True):
        alone = codec.decode(data)
        assert pixels.shape == alone.shape
        assert np.abs(pixels.astype(int) - alone).max() <= 1


def test_rate_and_quality_grow_with_lambda(codec: Codec, photo: NDArray[np.uint8]) -> None:
    files = [codec.encode(Picture(photo), quality=quality).data for quality in (0.5, 8, 128)]
    lengths = [len(data) for data in files]
    assert lengths == sorted(lengths) and lengths[0] < lengths[-1]
    errors = [psnr(photo, codec.decode(data)) or 99 for data in files]
    assert errors[0] < errors[-1]


def test_target_rate_is_kept(codec: Codec, photo: NDArray[np.uint8]) -> None:
    area = photo.shape[0] * photo.shape[1]
    for target in (0.8, 2.0):
        assert 8 * len(codec.encode_to_bpp(Picture(photo), target).data) <= target * area
    smallest = codec.encode_to_bpp(Picture(photo), 1e-9)
    assert len(smallest.data) <= len(codec.encode_to_bpp(Picture(photo), 0.8).data)


def test_bits_account_for_the_whole_stream(codec: Codec, photo: NDArray[np.uint8]) -> None:
    encoded = codec.encode(Picture(photo))
    assert encoded.latent_bits + encoded.side_bits == 8 * len(parse(encoded.data).stream)


def test_gray_stays_gray(codec: Codec, photo: NDArray[np.uint8]) -> None:
    gray = np.repeat(photo[..., :1], 3, axis=2)
    decoded = codec.decode(codec.encode(Picture(gray, gray=True)).data)
    assert (decoded[..., 0] == decoded[..., 1]).all() and (decoded[..., 1] == decoded[..., 2]).all()


@pytest.mark.parametrize("parameters", ["measured", "tied", "learned"])
def test_three_ways_to_set_the_parameters_all_decode(parameters: str, photo: NDArray[np.uint8], tmp_path: Path) -> None:
    codec = Codec.load(tiny_bundle(tmp_path / "bundle", parameters=parameters))
    encoded = codec.encode(Picture(photo))
    assert encoded.timestep > 0
    assert codec.decode(encoded.data).shape == photo.shape


def test_a_timestep_of_zero_bypasses_the_unet(
    codec: Codec, photo: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = parse(codec.encode(Picture(photo)).data)
    still = type(file)(**{**vars(file), "parameters": type(file.parameters)(file.parameters.alpha_codes, 0)})
    monkeypatch.setattr(codec.backbone, "predict_noise", None)
    assert codec.decode(pack(still)).shape == photo.shape


def test_another_bundles_file_is_refused(codec: Codec, photo: NDArray[np.uint8], tmp_path: Path) -> None:
    other = Codec.load(tiny_bundle(tmp_path / "other", name="other"))
    with pytest.raises(BitstreamError, match=f"bundle {other.bundle.id[:16]}"):
        codec.decode(other.encode(Picture(photo)).data)


def test_a_damaged_file_is_refused_by_decoding(codec: Codec, photo: NDArray[np.uint8]) -> None:
    data = bytearray(codec.encode(Picture(photo)).data)
    data[len(data) // 2] ^= 4
    with pytest.raises(BitstreamError, match="checksum"):
        codec.decode(bytes(data))


def test_impossible_qualities_are_refused(codec: Codec, photo: NDArray[np.uint8]) -> None:
    for quality in (0, -1, float("nan"), float("inf")):
        with pytest.raises(SettingsError, match="quality"):
            codec.encode(Picture(photo), quality=quality)


def test_every_file_of_a_bundle_is_checked(bundle: Bundle, tmp_path: Path) -> None:
    for name in bundle.config.files:
        broken = tmp_path / name.replace("/", "-")
        shutil.copytree(bundle.path, broken)
        data = bytearray((broken / name).read_bytes())
        data[len(data) // 2] ^= 1
        (broken / name).write_bytes(data)
        with pytest.raises(BundleError, match=f"{name} does not have"):
            Bundle.open(broken)
        (broken / name).unlink()
        with pytest.raises(BundleError, match=f"{name} is missing"):
            Bundle.open(broken)


def test_a_machine_that_computes_otherwise_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    shutil.copytree(bundle.path, tmp_path / "other")
    text = json.loads((tmp_path / "other" / "bundle.json").read_text())
    text["known_answer"] = "0" * 64
    (tmp_path / "other" / "bundle.json").write_text(json.dumps(text))
    with pytest.raises(BundleError, match="known answer"):
        Codec.load(tmp_path / "other")


def test_the_id_covers_every_setting_and_file(bundle: Bundle, tmp_path: Path) -> None:
    assert tiny_bundle(tmp_path / "same").id == bundle.id
    assert tiny_bundle(tmp_path / "steps", steps=3).id != bundle.id


def test_bundles_are_found_by_id_in_folders_and_in_the_package(bundle: Bundle) -> None:
    assert find_bundle(bundle.id[:16], [bundle.path]).id == bundle.id
    assert find_bundle(bundle.id[:16], [bundle.path.parent]).id == bundle.id
    embedded = Bundle.open(DEFAULT_BUNDLE)
    assert find_bundle(embedded.id[:16]).id == embedded.id
    with pytest.raises(BundleError, match="pass the folder"):
        find_bundle("0" * 16, [bundle.path])


def test_files_of_the_default_before_decode_with_its_bundle_in_the_package(photo: NDArray[np.uint8]) -> None:
    before = Codec.load(find_bundle("d7b542ccecffc72f"))
    assert before.bundle.id != Bundle.open(DEFAULT_BUNDLE).id
    encoded = before.encode(Picture(photo))
    again = Codec.load(find_bundle(parse(encoded.data).bundle_id))
    assert (again.symbols(encoded.data) == encoded.symbols).all()
    with pytest.raises(BitstreamError, match="written with bundle d7b542ccecffc72f"):
        Codec.load().decode(encoded.data)


def test_a_bundle_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("codec.bundle.build_counts", fail)
        with pytest.raises(OSError, match="disk full"):
            tiny_bundle(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
    tiny_bundle(tmp_path / "new")
    with pytest.raises(BundleError, match="never overwritten"):
        tiny_bundle(tmp_path / "new")


def test_a_channel_of_its_own_bin_width_is_coded_and_decoded(photo: NDArray[np.uint8], tmp_path: Path) -> None:
    codec = Codec.load(tiny_bundle(tmp_path / "finer", alpha_offsets=(8, 0, 0, 0)))
    encoded = codec.encode(Picture(photo), quality=8.0)
    codes = parse(encoded.data).parameters.alpha_codes
    assert codes == (codes[1] + 8, codes[1], codes[1], codes[1])
    assert np.array_equal(codec.symbols(encoded.data), encoded.symbols)


@pytest.mark.parametrize("offsets", [[8], [8, 0, 0, 65], [0.5, 0, 0, 0], 8])
def test_impossible_offsets_of_a_bundle_are_refused(offsets: object, bundle: Bundle, tmp_path: Path) -> None:
    shutil.copytree(bundle.path, tmp_path / "bundle")
    config = json.loads((bundle.path / "bundle.json").read_text()) | {"alpha_offsets": offsets}
    (tmp_path / "bundle" / "bundle.json").write_text(json.dumps(config))
    with pytest.raises(BundleError, match="does not describe a bundle"):
        Bundle.open(tmp_path / "bundle")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"finest_attention": "no"}, "finest_attention: expected bool"),
        ({"dither": 1}, "dither: expected bool"),
        ({"heads": "two"}, "heads: expected int"),
        ({"heads": 0}, "heads must be 1 to"),
        ({"heads": 3}, "heads must divide dim"),
        ({"hedas": 2}, "no setting is called 'hedas'"),
    ],
)
def test_impossible_settings_of_a_bundles_entropy_model_are_refused(
    change: dict[str, object], message: str, bundle: Bundle, tmp_path: Path
) -> None:
    shutil.copytree(bundle.path, tmp_path / "bundle")
    config = json.loads((bundle.path / "bundle.json").read_text())
    config["entropy"] |= change
    (tmp_path / "bundle" / "bundle.json").write_text(json.dumps(config))
    with pytest.raises(BundleError, match=f"does not describe a bundle: .*{message}"):
        Bundle.open(tmp_path / "bundle")


def test_a_folder_that_is_no_bundle_says_so(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no readable bundle\.json"):
        Codec.load(tmp_path)
    (tmp_path / "bundle.json").write_text("{")
    with pytest.raises(BundleError, match="damaged"):
        Codec.load(tmp_path)
    (tmp_path / "bundle.json").write_text('{"format": 9}')
    with pytest.raises(BundleError, match="does not have format"):
        Codec.load(tmp_path)


def test_the_embedded_default_compresses_real_photos_recognizably(photos: Path) -> None:
    codec = Codec.load()
    picture = read_image(photos / "train" / "bsds500" / "test-100007.jpg")
    encoded = codec.encode(picture)
    error = psnr(picture.pixels, codec.decode(encoded.data))
    assert error is not None and error > 20
    assert 0.02 < 8 * len(encoded.data) / (picture.width * picture.height) < 0.5


def test_the_embedded_default_is_at_most_20_megabytes() -> None:
    folder = DEFAULT_BUNDLE
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) <= 20e6


def test_one_and_two_threads_write_the_same_file() -> None:
    codec, threads = Codec.load(), torch.get_num_threads()
    files = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            files.append(codec.encode(Picture(synthetic(200, 312))).data)
    finally:
        torch.set_num_threads(threads)
    assert files[0] == files[1]
