"""Files with bytes cut off and changed: an array or one sentence, whatever is wrong."""

import av
import numpy as np
import pytest
from PIL import Image

from phenaki_jax import media
from phenaki_jax.errors import UserError

CLIP = np.random.default_rng(0).integers(0, 256, (4, 4, 6, 3)).astype(np.uint8).repeat(8, 1).repeat(8, 2)
CODECS = {".mp4": "libx264", ".mov": "libx264", ".m4v": "mpeg4", ".mkv": "libx264", ".ts": "libx264", ".avi": "mpeg4",
          ".webm": "libvpx-vp9", ".mpg": "mpeg2video", ".mpeg": "mpeg1video"}


def sound_file(path) -> bytes:
    """A small whole file of a kind."""
    if path.suffix in CODECS:
        with av.open(str(path), "w") as container:
            container.metadata["comment"] = "a comment"
            stream = container.add_stream(CODECS[path.suffix], rate=25)
            stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
            for array in CLIP:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
            container.mux(stream.encode())
    else:
        exif, pictures = Image.Exif(), [Image.fromarray(frame) for frame in CLIP]
        exif[0x0112] = 6
        more = {"save_all": True, "append_images": pictures[1:], "duration": 40}
        animated = path.suffix in (".gif", ".apng", ".webp", ".avif")
        said = {".gif": {"comment": b"a comment"}, ".avif": {}}.get(path.suffix, {"exif": exif})
        pictures[0].save(path, "PNG" if path.suffix == ".apng" else None, **more if animated else {}, **said)
    return path.read_bytes()


@pytest.mark.parametrize("suffix", sorted({*media.IMAGES_IN, *media.VIDEOS_IN}))
@pytest.mark.filterwarnings("ignore")
def test_whatever_is_wrong_is_one_sentence(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    whole, rng, refused = sound_file(path), np.random.default_rng(list(suffix.encode())), 0
    assert media.read_video(path)[0].shape[0] in (1, 4)
    for trial in range(40):
        data = np.frombuffer(whole, np.uint8).copy()
        if trial % 4 != 1:
            places = rng.integers(0, len(data) if trial % 2 else min(len(data), 400), rng.integers(1, 9))
            data[places] = rng.integers(0, 256, len(places))
        if trial % 4 < 2:
            data = data[:rng.integers(1, len(data))]
        path.write_bytes(data.tobytes())
        assert isinstance(media.read_label(path), str)
        for how in ({}, {"fps": 30.0, "limit": 50}, {"limit": 2}):
            try:
                frames, fps = media.read_video(path, **how)
            except UserError as error:
                assert "\n" not in str(error) and str(path) in str(error)
                refused += 1
            else:
                assert frames.dtype == np.uint8 and frames.ndim == 4 and frames.shape[-1] == 3 and frames.size
                assert len(frames) <= how.get("limit", 10**6) and np.isfinite(fps) and fps >= 0
        if suffix in media.IMAGES_IN:
            try:
                assert media.read_image(path).dtype == np.uint8
            except UserError as error:
                assert "\n" not in str(error)
    assert refused


def test_other_than_a_file(tmp_path):
    for name, words in (("none.mp4", "does not exist"), ("a.txt", "has the suffix '.txt'"), ("a", "has the suffix ''")):
        if name != "none.mp4":
            (tmp_path / name).write_bytes(b"some bytes")
        for read in (media.read_video, media.read_image) if name != "none.mp4" else (media.read_video,):
            with pytest.raises(UserError, match=words):
                read(tmp_path / name)
    with pytest.raises(UserError, match="a.txt has the suffix '.txt'; it should be one of .png, .jpg, "):
        media.read_image(tmp_path / "a.txt")
