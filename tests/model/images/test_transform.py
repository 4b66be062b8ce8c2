"""Pixels equal those of torchvision's tensor transforms for every format, mode and orientation."""

import io
import struct
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
import skimage.data
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, functional, v2

from model.images.decode import FORMATS
from model.images.transform import IMAGENET_MEAN, IMAGENET_STD, Pixels, Transform, preprocess, resize_and_crop
from tests.conftest import Encode, MakePhoto

SMALL = Transform(72, 64)
MEDIUM = Transform(144, 128)
LOSSLESS: dict[str, dict[str, int]] = {"PNG": {}, "BMP": {}, "TIFF": {}, "WEBP": {"lossless": True}}


def reference(image: Image.Image, transform: Transform) -> Pixels:
    """Returns what torchvision's tensor transforms return for an RGB image."""
    interpolation = InterpolationMode(transform.interpolation)
    tensor = v2.functional.pil_to_tensor(image)  # (3, H, W) uint8
    tensor = v2.functional.resize(tensor, [transform.resize_size], interpolation, antialias=True)
    tensor = v2.functional.center_crop(tensor, [transform.crop_size, transform.crop_size])
    pixels: Pixels = tensor.permute(1, 2, 0).numpy()
    return pixels


def difference(first: Pixels, second: Pixels) -> npt.NDArray[np.int64]:
    """Returns the absolute differences of two uint8 images."""
    levels: npt.NDArray[np.int64] = np.abs(first.astype(np.int64) - second)
    return levels


def decoded(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


@pytest.mark.parametrize(("interpolation", "share"), [("bilinear", 0.003), ("bicubic", 0.005)])
def test_pixels_of_photos_are_close_to_pillows_resize(
    encode: Encode, interpolation: Literal["bilinear", "bicubic"], share: float
) -> None:
    """Pillow rounds between its two passes, torch's uint8 kernel rounds its weights."""
    transform = Transform(232, 224, interpolation)
    differences = []
    for load in (skimage.data.astronaut, skimage.data.chelsea, skimage.data.coffee, skimage.data.rocket):
        photo = Image.fromarray(load())  # type: ignore[no-untyped-call]  # scikit-image's
        pillow = functional.resize(photo, [232], InterpolationMode(interpolation), antialias=True)
        expected = np.asarray(functional.center_crop(pillow, [224, 224]))
        differences.append(difference(preprocess(encode(photo), transform), expected))
    levels = np.stack(differences)
    assert levels.max() <= 2
    assert (levels > 0).mean() <= share


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(640, 427), (427, 640), (256, 256), (500, 501), (233, 999), (97, 61), (3, 40)])
def test_pixels_equal_those_of_torchvision(
    make_photo: MakePhoto, encode: Encode, size: tuple[int, int], interpolation: Literal["bilinear", "bicubic"]
) -> None:
    data, transform = encode(make_photo(*size)), Transform(232, 224, interpolation)
    assert np.array_equal(preprocess(data, transform), reference(decoded(data), transform))


@pytest.mark.parametrize(
    ("resize_size", "crop_size"), [(236, 224), (230, 224), (224, 224), (71, 64), (256, 225), (9, 8)]
)
def test_pixels_equal_those_of_torchvision_at_every_size(
    make_photo: MakePhoto, encode: Encode, resize_size: int, crop_size: int
) -> None:
    data, transform = encode(make_photo(333, 251)), Transform(resize_size, crop_size)
    pixels = preprocess(data, transform)
    assert pixels.shape == (crop_size, crop_size, 3)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, reference(decoded(data), transform))


@pytest.mark.parametrize("kind", FORMATS)
def test_pixels_equal_those_of_torchvision_in_every_format(make_photo: MakePhoto, encode: Encode, kind: str) -> None:
    data = encode(make_photo(201, 150), kind)
    assert np.array_equal(preprocess(data, SMALL), reference(decoded(data), SMALL))
    levels = difference(preprocess(data, SMALL), reference(make_photo(201, 150), SMALL))
    assert levels.mean() < 12  # the loss of the format's compression


def test_tensors_equal_those_of_torchvision(make_photo: MakePhoto) -> None:
    normalize = v2.Compose(
        [
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    image = make_photo(301, 200)
    expected = normalize(Image.fromarray(reference(image, SMALL)))
    torch.testing.assert_close(SMALL(image), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_only_the_first_frame_is_used(make_photo: MakePhoto, encode: Encode, kind: str) -> None:
    first, second = make_photo(80, 70).quantize(64).convert("RGB"), Image.new("RGB", (80, 70), "blue")
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(first, kind, save_all=True, append_images=[second], **options)
    assert getattr(Image.open(io.BytesIO(data)), "n_frames", 1) == 2
    assert np.array_equal(preprocess(data, SMALL), reference(decoded(data), SMALL))
    assert difference(preprocess(data, SMALL), reference(first, SMALL)).mean() < 3


@pytest.mark.parametrize("transparency", [None, 5])
def test_around_a_gif_frame_that_is_smaller_than_the_image_is_white(encode: Encode, transparency: int | None) -> None:
    frame = Image.new("P", (40, 20), 1)
    frame.putpalette([200, 0, 0, 0, 0, 200])
    data = bytearray(encode(frame, "GIF", optimize=False, transparency=transparency))
    image_size, frame_position = 6, data.index(b"\x2c\0\0\0\0\x28\0\x14\0") + 1  # GIF89a, 18 and 20
    data[image_size : image_size + 4] = struct.pack("<HH", 64, 64)
    data[frame_position : frame_position + 4] = struct.pack("<HH", 10, 30)
    expected = np.full((64, 64, 3), 255, np.uint8)
    expected[30:50, 10:50] = (0, 0, 200)
    assert np.array_equal(preprocess(bytes(data), Transform(64, 64)), expected)


def test_only_the_first_picture_of_an_mpo_file_is_used(make_photo: MakePhoto, encode: Encode) -> None:
    data = encode(make_photo(80, 70), "MPO", save_all=True, append_images=[make_photo(80, 70, seed=1)])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert np.array_equal(preprocess(data, SMALL), reference(decoded(data), SMALL))


UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {  # Exif 2.32, "Orientation"
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].transpose(1, 0, 2),
    8: lambda stored: np.rot90(stored, 1),
}


def oriented(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_photos_are_rotated_by_their_exif_orientation(
    make_photo: MakePhoto, encode: Encode, kind: str, orientation: int
) -> None:
    options: dict[str, int] = {"quality": 100} if kind in ("JPEG", "AVIF") else LOSSLESS[kind]
    stored = make_photo(150, 101)
    data = encode(stored, kind, exif=oriented(orientation), **options)
    as_stored = decoded(encode(stored, kind, **options))
    upright = Image.fromarray(np.ascontiguousarray(UPRIGHT[orientation](np.asarray(as_stored))))
    assert np.array_equal(preprocess(data, SMALL), reference(upright, SMALL))


def test_reads_the_orientation_from_an_exif_block_that_pillow_cannot_write(
    make_photo: MakePhoto, encode: Encode
) -> None:
    exif = (  # orientation 6, and a resolution that is text instead of a number
        b"Exif\0\0MM\0*\0\0\0\x08\0\x02\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\x01\x1a\0\x02\0\0\0\x02a\0\0\0\0\0\0\0"
    )
    data = encode(make_photo(90, 70), "JPEG", exif=exif)
    stored = decoded(encode(make_photo(90, 70), "JPEG"))
    assert np.array_equal(preprocess(data, SMALL), reference(stored.transpose(Image.Transpose.ROTATE_270), SMALL))


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *(("PNG", mode) for mode in "L1P"),
        *(("TIFF", mode) for mode in ("L", "1", "P", "CMYK")),
        ("JPEG", "L"),
        ("JPEG", "CMYK"),
    ],
)
def test_other_modes_are_converted_as_by_pillow(make_photo: MakePhoto, encode: Encode, kind: str, mode: str) -> None:
    data = encode(make_photo(90, 70).convert(mode), kind)
    assert Image.open(io.BytesIO(data)).mode == mode
    assert np.array_equal(preprocess(data, SMALL), reference(decoded(data), SMALL))


@pytest.mark.parametrize(
    ("mode", "kind"), [("LA", "PNG"), ("RGBA", "PNG"), ("RGBA", "WEBP"), ("RGBA", "TIFF"), ("RGBA", "AVIF")]
)
def test_transparent_images_are_blended_with_white(make_photo: MakePhoto, encode: Encode, mode: str, kind: str) -> None:
    image = make_photo(90, 70).convert(mode)
    image.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, 90).astype(np.uint8), (70, 1))))
    data = encode(image, kind, **LOSSLESS.get(kind, {"quality": 100}))
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA")).astype(float)
    color, alpha = pixels[..., :3], pixels[..., 3:] / 255
    blended = (color * alpha + 255 * (1 - alpha)).round().astype(np.uint8)
    levels = difference(preprocess(data, SMALL), reference(Image.fromarray(blended), SMALL))
    assert levels.max() <= 1
    assert levels.mean() < 0.2


@pytest.mark.parametrize(("mode", "kind"), [("P", "PNG"), ("P", "GIF"), ("RGB", "PNG"), ("L", "PNG")])
def test_a_transparent_color_becomes_white(encode: Encode, mode: str, kind: str) -> None:
    image = Image.new("RGB", (64, 64), (10, 10, 10))
    image.paste((200, 200, 200), (0, 0, 64, 32))
    image = image.quantize(2) if mode == "P" else image.convert(mode)
    dark = image.getpixel((0, 63))
    data = encode(image, kind, transparency=dark)
    pixels = preprocess(data, Transform(64, 64))
    assert (pixels[0, 0].tolist(), pixels[63, 0].tolist()) == ([200] * 3, [255] * 3)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_to_eight_bits(encode: Encode, kind: str) -> None:
    levels = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    pixels = preprocess(encode(Image.fromarray(levels), kind), Transform(64, 64))
    assert np.array_equal(pixels, np.repeat((levels // 257).astype(np.uint8)[..., None], 3, axis=2))  # 65535 is 255


def test_a_transparent_sixteen_bit_grey_becomes_white(encode: Encode) -> None:
    levels = np.full((64, 64), 20_000, np.uint16)
    levels[32:] = 0
    pixels = preprocess(encode(Image.fromarray(levels), "PNG", transparency=0), Transform(64, 64))
    assert (pixels[0, 0].tolist(), pixels[63, 0].tolist()) == ([20_000 // 257] * 3, [255] * 3)


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_is_decoded_at_a_reduced_scale(make_photo: MakePhoto, encode: Encode, orientation: int) -> None:
    data = encode(make_photo(1200, 900), "JPEG", quality=92, exif=oriented(orientation))
    image = decoded(data)
    if orientation == 6:
        image = image.transpose(Image.Transpose.ROTATE_270)
    levels = difference(preprocess(data, MEDIUM), reference(image, MEDIUM))
    assert 0 < levels.mean() < 1.5
    assert np.percentile(levels, 99) <= 12


@pytest.mark.parametrize(
    ("size", "transform"),
    [((800, 4 * 144 - 1), MEDIUM), *(((1200, 900), Transform(side + 8, side)) for side in (32, 64, 96, 127))],
    ids=str,
)
def test_a_jpeg_below_four_times_the_size_or_for_a_small_input_is_decoded_at_full_scale(
    make_photo: MakePhoto, encode: Encode, size: tuple[int, int], transform: Transform
) -> None:
    data = encode(make_photo(*size), "JPEG")
    assert np.array_equal(preprocess(data, transform), reference(decoded(data), transform))


def test_detail_size_reduces_an_image_before_the_resize(make_photo: MakePhoto, encode: Encode) -> None:
    transform = Transform(72, 64, detail_size=32)
    tensor = v2.functional.pil_to_tensor(make_photo(200, 150))
    tensor = v2.functional.resize(tensor, [32], InterpolationMode.BILINEAR, antialias=True)
    reduced = Image.fromarray(tensor.permute(1, 2, 0).numpy())
    assert np.array_equal(preprocess(encode(make_photo(200, 150)), transform), reference(reduced, transform))
    small = make_photo(40, 30)
    assert np.array_equal(preprocess(encode(small), transform), reference(small, transform))


def test_squash_resizes_the_whole_image_to_a_square(make_photo: MakePhoto, encode: Encode) -> None:
    squash = Transform(64, 64, squash=True)
    tensor = v2.functional.pil_to_tensor(make_photo(200, 90))
    expected = v2.functional.resize(tensor, [64, 64], InterpolationMode.BILINEAR, antialias=True)
    assert np.array_equal(preprocess(encode(make_photo(200, 90)), squash), expected.permute(1, 2, 0).numpy())


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ({"resize_size": 200}, "crop_size 224"),
        ({"resize_size": 224, "crop_size": 0}, "crop_size 0"),
        ({"resize_size": 224, "interpolation": "nearest"}, "nearest"),
        ({"resize_size": 224, "std": (0.2, 0.0, 0.2)}, "std"),
        ({"resize_size": 224, "detail_size": 0}, "detail_size 0"),
    ],
)
def test_rejects_contradictory_options_by_value(options: dict[str, Any], value: str) -> None:  # Any: various types
    with pytest.raises(ValueError, match=value):
        Transform(**options)


@pytest.mark.parametrize("size", [(32, 500), (500, 32), (90, 70)])
def test_the_result_does_not_keep_the_resized_image_in_memory(make_photo: MakePhoto, size: tuple[int, int]) -> None:
    pixels = resize_and_crop(np.array(make_photo(*size)), Transform(32, 32))
    assert pixels.base is None
    assert pixels.flags.c_contiguous
