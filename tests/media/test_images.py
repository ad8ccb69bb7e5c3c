"""Images of every usual kind, written by Pillow, against what their formats say they show."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from phenaki_jax import media
from phenaki_jax.errors import UserError

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 10, 3)).astype(np.uint8)
RGBA = RNG.integers(0, 256, (6, 10, 4)).astype(np.uint8)
GREY = RGB[..., 0]
EXACT = {".png": {}, ".webp": {"lossless": True, "exact": True}, ".tif": {}, ".tiff": {}, ".bmp": {}}

# Where EXIF says that row 0 and column 0 of what is stored lie in what is shown.
SHOWN = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.swapaxes(0, 1),
         6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a.swapaxes(0, 1), 2), 8: np.rot90}


def laid_on(rgba: np.ndarray, background: tuple[int, int, int]) -> np.ndarray:
    share = rgba[..., 3:] / 255
    return np.rint(share * rgba[..., :3] + (1 - share) * np.array(background))


def near(a: np.ndarray, b: np.ndarray, error: float) -> bool:
    return a.shape == b.shape and np.abs(a.astype(float) - b).max() <= error


@pytest.mark.parametrize("suffix", media.IMAGES_IN)
def test_every_kind_is_read(tmp_path, suffix):
    blocks = np.kron(GREY[:2, :2], np.ones((8, 8), np.uint8))[..., None].repeat(3, -1)
    Image.fromarray(blocks).save(tmp_path / f"a{suffix}", **EXACT.get(suffix, {"quality": 95}))
    assert near(media.read_image(tmp_path / f"a{suffix}"), blocks, 0 if suffix in (*EXACT, ".gif") else 6)
    frames, fps = media.read_video(tmp_path / f"a{suffix}", fps=8.0)
    assert frames.shape == (1, 16, 16, 3) and fps == (8.0 if suffix == ".gif" else 0.0)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".jpg", ".avif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_stand_upright(tmp_path, suffix, orientation):
    image = np.kron(RGB[:2, :3], np.ones((16, 16, 1), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = EXACT.get(suffix, {"quality": 95, "subsampling": "4:4:4"})
    Image.fromarray(image).save(tmp_path / f"a{suffix}", exif=exif, **options)
    upright = media.read_image(tmp_path / f"a{suffix}")
    assert near(upright, SHOWN[orientation](image), 0 if suffix in EXACT else 12)
    with Image.open(tmp_path / f"a{suffix}") as again:
        np.testing.assert_array_equal(upright, np.asarray(ImageOps.exif_transpose(again).convert("RGB")))


def test_exif_that_is_none_says_nothing(tmp_path):
    for i, exif in enumerate([b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0" + bytes(range(40)), b"Exif\0\0MM\0*"]):
        Image.fromarray(RGB).save(tmp_path / f"{i}.png", exif=exif)
        np.testing.assert_array_equal(media.read_image(tmp_path / f"{i}.png"), RGB)
    exif = Image.Exif()
    exif[0x0112] = 77
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(media.read_image(tmp_path / "a.png"), RGB)


@pytest.mark.parametrize("background", [(0, 0, 0), (255, 255, 255), (10, 200, 90)])
def test_transparency_is_laid_on_the_background(tmp_path, background):
    grey = np.stack([GREY, GREY, GREY, RGBA[..., 3]], -1)
    indices, colours = RNG.integers(0, 200, (6, 10)).astype(np.uint8), RNG.integers(0, 256, (200, 3)).astype(np.uint8)
    alphas = RNG.integers(0, 256, 200).astype(np.uint8)
    paletted = Image.fromarray(indices)
    paletted.putpalette(colours.tobytes())
    one_colour = np.concatenate([RGB, np.where((RGB == RGB[2, 3]).all(-1), 0, 255)[..., None]], -1)
    one_index = np.concatenate([colours[indices], np.where(indices == indices[1, 1], 0, 255)[..., None]], -1)
    one_grey = np.concatenate([GREY[..., None].repeat(3, -1), np.where(GREY == GREY[2, 3], 0, 255)[..., None]], -1)
    cases = {
        "a.png": (Image.fromarray(RGBA), {}, RGBA), "a.webp": (Image.fromarray(RGBA), EXACT[".webp"], RGBA),
        "a.tif": (Image.fromarray(RGBA), {}, RGBA), "b.png": (Image.fromarray(grey[..., 2:]), {}, grey),
        "b.tif": (Image.fromarray(grey[..., 2:]), {}, grey),
        "c.png": (paletted, {"transparency": alphas.tobytes()},
                  np.concatenate([colours[indices], alphas[indices][..., None]], -1)),
        "d.png": (Image.fromarray(RGB), {"transparency": tuple(map(int, RGB[2, 3]))}, one_colour),
        "e.png": (Image.fromarray(GREY), {"transparency": int(GREY[2, 3])}, one_grey),
        "f.gif": (paletted, {"transparency": int(indices[1, 1])}, one_index),
    }
    for name, (image, options, rgba) in cases.items():
        image.save(tmp_path / name, **options)
        np.testing.assert_array_equal(media.read_image(tmp_path / name, background), laid_on(rgba, background), name)
        np.testing.assert_array_equal(media.read_video(tmp_path / name, background=background)[0][0],
                                      media.read_image(tmp_path / name, background))
    np.testing.assert_array_equal(media.read_image(tmp_path / "a.png"), laid_on(RGBA, (0, 0, 0)))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bits_of_grey_become_8(tmp_path, suffix):
    values = np.concatenate([[0, 128, 129, 65535], RNG.integers(0, 65536, 56)]).astype(np.uint16).reshape(6, 10)
    Image.fromarray(values).save(tmp_path / f"a{suffix}")
    expected = np.rint(values * (255 / 65535))[..., None].repeat(3, -1)
    np.testing.assert_array_equal(media.read_image(tmp_path / f"a{suffix}"), expected)
    if suffix == ".png":
        Image.fromarray(values).save(tmp_path / "b.png", transparency=int(values[3, 3]))
        expected[values == values[3, 3]] = 7, 8, 9
        np.testing.assert_array_equal(media.read_image(tmp_path / "b.png", (7, 8, 9)), expected)


def test_other_modes(tmp_path):
    black_and_white = GREY > 127
    Image.fromarray(black_and_white).save(tmp_path / "a.png")
    np.testing.assert_array_equal(media.read_image(tmp_path / "a.png"), 255 * black_and_white[..., None].repeat(3, -1))
    flat = np.kron(RGBA[:2, :2], np.ones((16, 16, 1), np.uint8))  # as cyan, magenta, yellow and black
    expected = np.rint((255 - flat[..., :3].astype(float)) * (255 - flat[..., 3:].astype(float)) / 255)
    for name, error in (("a.tif", 1), ("a.jpg", 8)):
        Image.fromarray(flat, "CMYK").save(tmp_path / name, quality=98, subsampling=0)
        assert near(media.read_image(tmp_path / name), expected, error)
    Image.fromarray(GREY.astype(np.float32)).save(tmp_path / "b.tif")
    with pytest.raises(UserError, match="b.tif cannot be decoded as an image: it has 32 bits a pixel"):
        media.read_image(tmp_path / "b.tif")


def test_only_the_first_page_and_the_first_frame_are_an_image(tmp_path):
    pages = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    for name in ("a.tif", "a.png", "a.webp", "a.gif"):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:], **EXACT.get(name[1:], {}))
        assert near(media.read_image(tmp_path / name), RGB, 0 if name != "a.gif" else 1)
    assert media.read_video(tmp_path / "a.tif")[0].shape[0] == 1


def test_the_content_says_what_a_file_is(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.jpg", "PNG")
    np.testing.assert_array_equal(media.read_image(tmp_path / "a.jpg"), RGB)
    (tmp_path / "a.mp4").write_bytes((tmp_path / "a.jpg").read_bytes())
    np.testing.assert_array_equal(media.read_video(tmp_path / "a.mp4")[0][0], RGB)


def test_what_fills_the_memory_is_refused(tmp_path):
    head = b"GIF89a" + np.array([65535, 65535], "<u2").tobytes() + b"\xf0\0\0" + bytes(6)
    (tmp_path / "a.gif").write_bytes(head + b",\0\0\0\0" + np.array([65535, 65535], "<u2").tobytes() + b"\0\2\1\0\0;")
    for read in (media.read_image, media.read_video):
        with pytest.raises(UserError, match="a.gif cannot be decoded as an image: .*exceeds limit") as error:
            read(tmp_path / "a.gif")
        assert "\n" not in str(error.value)
