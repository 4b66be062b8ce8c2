"""Pixels equal to torchvision's own chain on the same image, whatever the format, mode and orientation."""

import io

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, functional, v2

from model.errors import InvalidImage
from model.preprocess import FORMATS, IMAGENET_MEAN, IMAGENET_STD, Transform, preprocess

SMALL = Transform(72, 64)
LOSSLESS = {"PNG": {}, "BMP": {}, "TIFF": {}, "WEBP": {"lossless": True}}


def chain(image: Image.Image, transform: Transform) -> np.ndarray:
    """What torchvision's tensor transforms return for an RGB image."""
    interpolation = InterpolationMode(transform.interpolation)
    tensor = v2.functional.pil_to_tensor(image)  # (3, H, W) uint8
    tensor = v2.functional.resize(tensor, [transform.resize_size], interpolation, antialias=True)
    tensor = v2.functional.center_crop(tensor, [transform.crop_size, transform.crop_size])
    return tensor.permute(1, 2, 0).numpy()


def decoded(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


@pytest.mark.parametrize(("interpolation", "share"), [("bilinear", 0.003), ("bicubic", 0.005)])
def test_pixels_are_close_to_those_of_pillows_resize(encode, interpolation, share):
    """On photos; Pillow rounds once between its two passes, torch's uint8 kernel rounds its weights."""
    transform = Transform(232, 224, interpolation)
    differences = []
    for load in (skimage.data.astronaut, skimage.data.chelsea, skimage.data.coffee, skimage.data.rocket):
        photo = Image.fromarray(load())
        pillow = functional.resize(photo, [232], InterpolationMode(interpolation), antialias=True)
        expected = np.asarray(functional.center_crop(pillow, [224, 224]))
        differences.append(np.abs(preprocess(encode(photo), transform).astype(int) - expected))
    difference = np.stack(differences)
    assert difference.max() <= 2
    assert (difference > 0).mean() <= share


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(640, 427), (427, 640), (256, 256), (500, 501), (233, 999), (97, 61), (3, 40)])
def test_pixels_are_torchvisions(make_photo, encode, size, interpolation):
    data, transform = encode(make_photo(*size)), Transform(232, 224, interpolation)
    assert np.array_equal(preprocess(data, transform), chain(decoded(data), transform))


@pytest.mark.parametrize(
    ("resize_size", "crop_size"), [(236, 224), (230, 224), (224, 224), (71, 64), (256, 225), (9, 8)]
)
def test_pixels_are_torchvisions_at_every_size(make_photo, encode, resize_size, crop_size):
    data, transform = encode(make_photo(333, 251)), Transform(resize_size, crop_size)
    pixels = preprocess(data, transform)
    assert (pixels.shape, pixels.dtype) == ((crop_size, crop_size, 3), np.uint8)
    assert np.array_equal(pixels, chain(decoded(data), transform))


@pytest.mark.parametrize("kind", FORMATS)
def test_pixels_are_torchvisions_in_every_format(make_photo, encode, kind):
    data = encode(make_photo(201, 150), kind)
    assert np.array_equal(preprocess(data, SMALL), chain(decoded(data), SMALL))
    difference = np.abs(preprocess(data, SMALL).astype(int) - chain(make_photo(201, 150), SMALL))
    assert difference.mean() < 12  # and it is that photo, as well as the format holds it


def test_the_tensor_is_torchvisions(make_photo):
    reference = v2.Compose(
        [
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    image = make_photo(301, 200)
    expected = reference(Image.fromarray(chain(image, SMALL)))
    torch.testing.assert_close(SMALL(image), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_counts(make_photo, encode, kind):
    first, second = make_photo(80, 70).quantize(64).convert("RGB"), Image.new("RGB", (80, 70), "blue")
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(first, kind, save_all=True, append_images=[second], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 2
    assert np.array_equal(preprocess(data, SMALL), chain(decoded(data), SMALL))
    assert np.abs(preprocess(data, SMALL).astype(int) - chain(first, SMALL)).mean() < 3


def test_a_photo_of_several_pictures_is_its_first(make_photo, encode):
    data = encode(make_photo(80, 70), "MPO", save_all=True, append_images=[make_photo(80, 70, seed=1)])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    assert np.array_equal(preprocess(data, SMALL), chain(decoded(data), SMALL))


UPRIGHT = {  # from Exif 2.32, "Orientation": where the visual top and left are among the stored rows and columns
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
def test_photos_are_turned_upright(make_photo, encode, kind, orientation):
    options = {"quality": 100} if kind in ("JPEG", "AVIF") else LOSSLESS[kind]
    stored = make_photo(150, 101)
    data = encode(stored, kind, exif=oriented(orientation), **options)
    as_stored = decoded(encode(stored, kind, **options))
    upright = Image.fromarray(np.ascontiguousarray(UPRIGHT[orientation](np.asarray(as_stored))))
    assert np.array_equal(preprocess(data, SMALL), chain(upright, SMALL))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_turns_nothing(make_photo, encode, orientation):
    data = encode(make_photo(90, 70), exif=oriented(orientation))
    assert np.array_equal(preprocess(data, SMALL), chain(make_photo(90, 70), SMALL))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("content", [b"", b"words", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff"])
def test_an_unreadable_exif_block_is_no_reason_to_refuse(make_photo, encode, content):
    data = encode(make_photo(90, 70), "JPEG", exif=b"Exif\0\0" + content)
    assert np.array_equal(preprocess(data, SMALL), chain(decoded(encode(make_photo(90, 70), "JPEG")), SMALL))


def test_an_exif_block_that_cannot_be_written_again_still_turns_the_photo(make_photo, encode):
    one_bad_value = (  # orientation 6, and a resolution that is a text where a number belongs
        b"Exif\0\0MM\0*\0\0\0\x08\0\x02\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\x01\x1a\0\x02\0\0\0\x02a\0\0\0\0\0\0\0"
    )
    data = encode(make_photo(90, 70), "JPEG", exif=one_bad_value)
    stored = decoded(encode(make_photo(90, 70), "JPEG"))
    assert np.array_equal(preprocess(data, SMALL), chain(stored.transpose(Image.Transpose.ROTATE_270), SMALL))


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *(("PNG", mode) for mode in "L1P"),
        *(("TIFF", mode) for mode in ("L", "1", "P", "CMYK")),
        ("JPEG", "L"),
        ("JPEG", "CMYK"),
    ],
)
def test_other_modes_are_what_pillow_converts_them_to(make_photo, encode, kind, mode):
    data = encode(make_photo(90, 70).convert(mode), kind)
    assert Image.open(io.BytesIO(data)).mode == mode
    assert np.array_equal(preprocess(data, SMALL), chain(decoded(data), SMALL))


@pytest.mark.parametrize(
    ("mode", "kind"), [("LA", "PNG"), ("RGBA", "PNG"), ("RGBA", "WEBP"), ("RGBA", "TIFF"), ("RGBA", "AVIF")]
)
def test_transparency_lies_over_white(make_photo, encode, mode, kind):
    image = make_photo(90, 70).convert(mode)
    alpha = np.tile(np.linspace(0, 255, 90).astype(np.uint8), (70, 1))
    image.putalpha(Image.fromarray(alpha))
    data = encode(image, kind, **LOSSLESS.get(kind, {"quality": 100}))
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA")).astype(float)
    colour, alpha = pixels[..., :3], pixels[..., 3:] / 255
    expected = chain(Image.fromarray((colour * alpha + 255 * (1 - alpha)).round().astype(np.uint8)), SMALL)
    difference = preprocess(data, SMALL).astype(int) - expected
    assert np.abs(difference).max() <= 1
    assert np.abs(difference).mean() < 0.2


@pytest.mark.parametrize(("mode", "kind"), [("P", "PNG"), ("P", "GIF"), ("RGB", "PNG"), ("L", "PNG")])
def test_a_transparent_colour_becomes_white(encode, mode, kind):
    image = Image.new("RGB", (64, 64), (10, 10, 10))
    image.paste((200, 200, 200), (0, 0, 64, 32))
    image = image.quantize(2) if mode == "P" else image.convert(mode)
    dark = image.getpixel((0, 63))
    data = encode(image, kind, transparency=dark)
    pixels = preprocess(data, Transform(64, 64))
    assert (pixels[0, 0].tolist(), pixels[63, 0].tolist()) == ([200] * 3, [255] * 3)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_of_grey_become_eight(encode, kind):
    levels = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    pixels = preprocess(encode(Image.fromarray(levels), kind), Transform(64, 64))
    assert np.array_equal(pixels, np.repeat((levels // 257).astype(np.uint8)[..., None], 3, axis=2))  # 65535 is 255


def test_a_transparent_grey_of_sixteen_bits_becomes_white(encode):
    levels = np.full((64, 64), 20_000, np.uint16)
    levels[32:] = 0
    pixels = preprocess(encode(Image.fromarray(levels), "PNG", transparency=0), Transform(64, 64))
    assert (pixels[0, 0].tolist(), pixels[63, 0].tolist()) == ([20_000 // 257] * 3, [255] * 3)


def test_floating_point_images_are_refused(encode):
    with pytest.raises(InvalidImage, match="white level"):
        preprocess(encode(Image.new("F", (8, 8)), "TIFF"), SMALL)


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_is_decoded_small_and_stays_the_same_photo(make_photo, encode, orientation):
    data = encode(make_photo(1200, 900), "JPEG", quality=92, exif=oriented(orientation))
    image = decoded(data)
    if orientation == 6:
        image = image.transpose(Image.Transpose.ROTATE_270)
    difference = np.abs(preprocess(data, SMALL).astype(int) - chain(image, SMALL))
    assert 0 < difference.mean() < 1.5
    assert np.percentile(difference, 99) <= 12


def test_a_jpeg_below_four_times_the_size_is_decoded_whole(make_photo, encode):
    data = encode(make_photo(400, 4 * 72 - 1), "JPEG")
    assert np.array_equal(preprocess(data, SMALL), chain(decoded(data), SMALL))


def test_detail_is_reduced_before_the_resize(make_photo, encode):
    transform = Transform(72, 64, detail_size=32)
    tensor = v2.functional.pil_to_tensor(make_photo(200, 150))
    tensor = v2.functional.resize(tensor, [32], InterpolationMode.BILINEAR, antialias=True)
    reduced = Image.fromarray(tensor.permute(1, 2, 0).numpy())
    assert np.array_equal(preprocess(encode(make_photo(200, 150)), transform), chain(reduced, transform))
    small = make_photo(40, 30)
    assert np.array_equal(preprocess(encode(small), transform), chain(small, transform))


def test_a_squash_keeps_everything_and_no_proportion(make_photo, encode):
    squash = Transform(64, 64, squash=True)
    tensor = v2.functional.pil_to_tensor(make_photo(200, 90))
    expected = v2.functional.resize(tensor, [64, 64], InterpolationMode.BILINEAR, antialias=True)
    assert np.array_equal(preprocess(encode(make_photo(200, 90)), squash), expected.permute(1, 2, 0).numpy())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resize_size": 200}, "crop_size 224"),
        ({"resize_size": 224, "crop_size": 0}, "crop_size 0"),
        ({"resize_size": 224, "interpolation": "nearest"}, "nearest"),
        ({"resize_size": 224, "std": (0.2, 0.0, 0.2)}, "std"),
        ({"resize_size": 224, "detail_size": 0}, "detail_size 0"),
    ],
)
def test_a_transform_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Transform(**options)
