"""Pictures coded together: each place gives the bytes of what is in it, whatever is in the others."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from codec import BitstreamError, Codec, Picture
from codec.bundle import Bundle
from tests.conftest import synthetic


@pytest.fixture(scope="module")
def codec(bundle: Bundle) -> Codec:
    return Codec.load(bundle)


def pictures(count: int) -> list[Picture]:
    return [Picture(synthetic(43, 59, seed=seed)) for seed in range(count)]


def alone(codec: Codec, picture: Picture, place: int, count: int) -> bytes:
    return codec.encode_many({place: picture}, count, quality=3)[place].data


@pytest.mark.parametrize("count", [3, 8])
def test_a_file_does_not_depend_on_what_is_in_other_places(codec: Codec, count: int) -> None:
    every = dict(enumerate(pictures(count)))
    together = codec.encode_many(every, count, quality=3)
    assert {place: encoded.data for place, encoded in together.items()} == {
        place: alone(codec, picture, place, count) for place, picture in every.items()
    }
    some = {place: picture for place, picture in every.items() if place != 1}
    without = codec.encode_many(some, count, quality=3)
    assert {place: together[place].data for place in some} == {place: one.data for place, one in without.items()}


def test_a_batch_of_one_gives_the_file_that_encode_gives(codec: Codec) -> None:
    for picture in pictures(2):
        assert alone(codec, picture, 0, 1) == codec.encode(picture, quality=3).data


def reconstructed(codec: Codec, chosen: Sequence[int], count: int) -> dict[int, NDArray[np.uint8]]:
    found = {place: codec.encode(picture, quality=3) for place, picture in enumerate(pictures(count))}
    return codec.reconstruct_many({place: (found[place].data, found[place].symbols) for place in chosen}, count)


def test_what_is_reconstructed_does_not_depend_on_what_is_in_other_places(codec: Codec) -> None:
    together = reconstructed(codec, range(4), 4)
    for place in range(4):
        assert np.array_equal(reconstructed(codec, [place], 4)[place], together[place])
    for place, picture in enumerate(pictures(4)):
        own = codec.decode(codec.encode(picture, quality=3).data)
        assert np.abs(own.astype(int) - together[place]).max() <= 1


def test_gray_pictures_and_fine_ones_are_reconstructed_beside_others(codec: Codec) -> None:
    gray = Picture(np.repeat(synthetic(43, 59)[..., :1], 3, axis=2), gray=True)
    encoded = [codec.encode(gray), codec.encode(pictures(1)[0], quality=1e6), codec.encode(pictures(1)[0])]
    found = codec.reconstruct_many({place: (one.data, one.symbols) for place, one in enumerate(encoded)}, 3)
    for place, one in enumerate(encoded):
        assert np.abs(codec.decode(one.data).astype(int) - found[place]).max() <= 1
    assert (np.ptp(found[0], axis=2) == 0).all()


def test_contents_are_those_of_each_file_alone_and_errors_stand_in_their_places(codec: Codec) -> None:
    files = [codec.encode(Picture(synthetic(*size)), quality=3).data for size in ((43, 59), (9, 9), (43, 59))]
    broken = bytearray(files[0])
    broken[20] ^= 1
    found = codec.contents([files[0], bytes(broken), files[1], b"no file", files[2]])
    for place, data in ((0, files[0]), (2, files[1]), (4, files[2])):
        one = found[place]
        assert not isinstance(one, BitstreamError)
        assert one.fingerprint() == codec.content(data).fingerprint()
    assert isinstance(found[1], BitstreamError) and isinstance(found[3], BitstreamError)


def test_places_that_a_batch_has_not_and_sizes_that_differ_are_refused(codec: Codec) -> None:
    with pytest.raises(ValueError, match=r"no slots \[3\]"):
        codec.encode_many({3: pictures(1)[0]}, 3)
    with pytest.raises(ValueError, match="one size"):
        codec.encode_many({0: pictures(1)[0], 1: Picture(synthetic(8, 8))}, 2)
    assert codec.encode_many({}, 4) == {}
