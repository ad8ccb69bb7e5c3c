"""Videos of every usual kind, written by PyAV and Pillow, against the frames and the times that they were made of."""

import fractions
import itertools

import av
import numpy as np
import pytest
from PIL import Image

from phenaki_jax import media
from phenaki_jax.errors import UserError
from phenaki_jax.media import films, reading

CODECS = {".mp4": "libx264", ".m4v": "libx264", ".mov": "libx264", ".mkv": "libx264", ".ts": "libx264",
          ".webm": "libvpx-vp9", ".avi": "mpeg4", ".mpg": "mpeg2video", ".mpeg": "mpeg1video"}
MILLI = fractions.Fraction(1, 1000)


def levels(*grey: int, height: int = 32, width: int = 48) -> np.ndarray:
    """Frames of one grey each, uint8 [F, Y, X, 3]."""
    return np.broadcast_to(np.array(grey, np.uint8)[:, None, None, None], (len(grey), height, width, 3)).copy()


def film(path, frames, stamps=None, unit=fractions.Fraction(1, 8), codec=None, pixels="yuv420p", prepare=None):
    """Writes a film by PyAV; frame i is shown from stamps[i] * unit."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec or CODECS[path.suffix], rate=1 / unit)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixels
        stream.bit_rate = 4_000_000
        if prepare:
            prepare(stream)
        for stamp, array in zip(stamps or itertools.count(), frames):
            frame = av.VideoFrame.from_ndarray(array, format="rgb24" if array.shape[-1] == 3 else "rgba")
            frame = frame.reformat(format=pixels)
            frame.pts, frame.time_base = stamp, unit
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def seen(frames: np.ndarray) -> list[int]:
    """The grey of each frame, to the nearest ten."""
    return [round(float(value) / 10) * 10 for value in frames.mean((1, 2, 3))]


@pytest.mark.parametrize("suffix", CODECS)
def test_every_kind_is_read(tmp_path, suffix):
    grey = list(range(20, 220, 20))
    unit = fractions.Fraction(1, 25)  # MPEG-1 knows no lower rate
    frames, fps = media.read_video(film(tmp_path / f"a{suffix}", levels(*grey), unit=unit))
    assert frames.dtype == np.uint8 and frames.shape == (10, 32, 48, 3) and seen(frames) == grey and fps == 25.0
    again, fps = media.read_video(tmp_path / f"a{suffix}", fps=25.0)
    assert seen(again) == grey and fps == 25.0
    twice, _ = media.read_video(tmp_path / f"a{suffix}", fps=50.0, limit=13)
    assert seen(twice) == [g for g in grey for _ in "ab"][:13]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".mov", ".ts", ".gif", ".webp", ".apng"])
def test_frames_are_taken_by_their_time_stamps(tmp_path, suffix):
    """Against a search over all time stamps for each moment."""
    stamps, grey = [0, 10, 40, 50, 60, 100, 200, 210, 220, 300], list(range(20, 220, 20))
    if suffix in CODECS:
        film(tmp_path / f"a{suffix}", levels(*grey), stamps, MILLI * 10)
    else:
        pictures = [Image.fromarray(frame) for frame in levels(*grey)]
        options = {"lossless": True} if suffix == ".webp" else {}
        pictures[0].save(tmp_path / f"a{suffix}", "PNG" if suffix == ".apng" else None, save_all=True,
                         append_images=pictures[1:], duration=[*np.diff(stamps) * 10, 10], **options)
    path = tmp_path / f"a{suffix}"
    for fps in (2.0, 7.3, 10.0, 24.0, 100.0):
        count = int(np.ceil(3.01 * fps - 1e-9))
        expected = [grey[max(i for i, stamp in enumerate(stamps) if stamp * 10 <= 1000 * n / fps + 1e-6)]
                    for n in range(count)]
        frames, rate = media.read_video(path, fps=fps)
        assert seen(frames) == expected and rate == fps
        assert seen(media.read_video(path, fps=fps, limit=4)[0]) == expected[:4]
    frames, rate = media.read_video(path)
    assert seen(frames) == grey and rate == pytest.approx(10 / 3.01, rel=1e-6)
    assert seen(media.read_video(path, limit=3)[0]) == grey[:3]


@pytest.mark.parametrize("suffix", [".webm", ".mkv", ".mp4", ".gif"])
@pytest.mark.parametrize("fps", [8.0, 24.0, 29.97, 30.0])
def test_the_files_own_rate_gives_its_own_frames(tmp_path, suffix, fps):
    """Also where its clock cannot tell the rate: a webm's milliseconds, a gif's hundredths."""
    path, grey = tmp_path / f"a{suffix}", [20 * (i % 10) + 20 for i in range(40)]
    if suffix == ".mkv":
        film(path, levels(*grey), unit=1 / fractions.Fraction(fps).limit_denominator(1001))
    else:
        media.write_video(path, levels(*grey), fps)
    every, rate = media.read_video(path)
    assert rate == pytest.approx(fps, rel=2e-3 if suffix == ".gif" else 1e-6) and seen(every) == grey
    np.testing.assert_array_equal(media.read_video(path, fps=fps)[0], every)
    assert seen(media.read_video(path, fps=fps / 2)[0]) == grey[::2]


def test_decoding_stops_at_the_limit(tmp_path, monkeypatch):
    path, decoded = film(tmp_path / "a.avi", levels(*[50] * 100)), []
    frames_of = films._decoded

    def counted(*stream):
        for frame in frames_of(*stream):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(films, "_decoded", counted)
    assert len(media.read_video(path, limit=5)[0]) == len(decoded) == 5
    assert len(media.read_video(path)[0]) == 100
    decoded.clear()
    assert len(media.read_video(path, fps=4.0, limit=5)[0]) == 5 and len(decoded) <= 11
    assert len(media.read_video(path, fps=1e-4)[0]) == len(media.read_video(path, fps=np.float32(0.02))[0]) == 1
    for bad in (0, -1, 1.5):
        with pytest.raises(UserError, match="limit="):
            media.read_video(path, limit=bad)
    for bad in (0, -8.0, float("nan"), 2000):
        with pytest.raises(UserError, match="fps="):
            media.read_video(path, fps=bad)
    monkeypatch.setattr(reading, "MOST", 20 * 32 * 48 * 3)
    with pytest.raises(UserError, match="a.avi holds more than the 20 frames of 32 x 48 .*; set a limit"):
        media.read_video(path)
    assert len(media.read_video(path, limit=20)[0]) == 20


def corners(height: int = 32, width: int = 64) -> np.ndarray:
    """A picture that no turn leaves as it is, of blocks of 16 x 16."""
    grey = np.arange(height * width // 256).reshape(height // 16, width // 16) * 30 + 16
    return np.kron(grey, np.ones((16, 16)))[..., None].repeat(3, -1).astype(np.uint8)


@pytest.mark.parametrize("matrix", [(1, 0, 0, 1), (-1, 0, 0, 1), (1, 0, 0, -1), (-1, 0, 0, -1),
                                    (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, -1, 0), (0, -1, -1, 0)])
def test_phones_videos_stand_upright(tmp_path, matrix):
    """The matrix of ISO/IEC 14496-12, 6.2.2, written into the file's track header, and done to each pixel's place."""
    picture = corners()
    data = bytearray(film(tmp_path / "a.mp4", picture[None].repeat(3, 0)).read_bytes())
    place = data.index(b"tkhd") + 44
    a, b, c, d = matrix
    data[place:place + 36] = np.array([a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30], ">i4").tobytes()
    (tmp_path / "b.mp4").write_bytes(data)
    y, x = np.mgrid[:32, :64]
    rows, columns = b * x + d * y, a * x + c * y
    rows, columns = rows - rows.min(), columns - columns.min()
    expected = np.zeros((rows.max() + 1, columns.max() + 1, 3))
    expected[rows, columns] = picture
    frames, _ = media.read_video(tmp_path / "b.mp4")
    assert frames.shape == (3, *expected.shape) and np.abs(frames - expected).max() < 6


def test_rotation_is_also_a_matroskas(tmp_path):
    picture = corners()
    path = film(tmp_path / "a.mkv", picture[None], prepare=lambda stream: stream.set_display_rotation(90))
    assert np.abs(media.read_video(path)[0][0].astype(int) - np.rot90(picture)).max() < 6


@pytest.mark.parametrize("background", [(0, 0, 0), (250, 120, 0)])
@pytest.mark.parametrize("name, codec, pixels", [
    ("a.webm", "libvpx-vp9", "yuva420p"), ("b.webm", "libvpx", "yuva420p"), ("a.mkv", "ffv1", "bgra"),
    ("a.mov", "qtrle", "argb"), ("a.avi", "png", "rgba")])
def test_alpha_is_laid_on_the_background(tmp_path, name, codec, pixels, background):
    rgba = np.kron(np.random.default_rng(0).integers(0, 256, (1, 2, 3, 1)), np.ones((1, 16, 16, 4))).astype(np.uint8)
    rgba[..., 3] = np.kron([[0, 100, 255], [30, 200, 128]], np.ones((16, 16)))

    def prepare(stream):
        stream.metadata["alpha_mode"] = "1"
        if codec == "libvpx":
            stream.codec_context.options = {"auto-alt-ref": "0"}  # else it takes no alpha

    path = film(tmp_path / name, rgba.repeat(4, 0), codec=codec, pixels=pixels, prepare=prepare)
    share = rgba[..., 3:] / 255
    expected = share * rgba[..., :3] + (1 - share) * np.array(background)
    frames, _ = media.read_video(path, background=background)
    inner = np.abs(frames - expected).reshape(4, 2, 16, 3, 16, 3)[:, :, 4:12, :, 4:12]
    assert frames.shape == (4, 32, 48, 3) and inner.max() < (6 if name.endswith("webm") else 1)


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_animations_are_laid_on_the_background(tmp_path, suffix):
    rgba = np.zeros((3, 8, 8, 4), np.uint8)
    for i in range(3):
        rgba[i, :, 2 * i:2 * i + 3] = 200, 60 * i, 10, 255
        rgba[i, i:i + 3, 2 * i] = 90, 200, 30 * i, 255 if suffix == ".gif" else 60 + 50 * i
    pictures = [Image.fromarray(frame) for frame in rgba]
    pictures[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=pictures[1:], duration=40, disposal=2,
                     lossless=True)
    frames, fps = media.read_video(tmp_path / f"a{suffix}", background=(1, 2, 3))
    share = rgba[..., 3:] / 255
    np.testing.assert_array_equal(frames, np.rint(share * rgba[..., :3] + (1 - share) * np.array([1, 2, 3])))
    assert fps == 25.0


def test_a_pngs_picture_for_others_is_no_frame(tmp_path):
    pictures = [Image.fromarray(frame) for frame in levels(10, 50, 90)]
    pictures[0].save(tmp_path / "a.png", save_all=True, append_images=pictures[1:], default_image=True, duration=100)
    frames, fps = media.read_video(tmp_path / "a.png")
    assert seen(frames) == [50, 90] and fps == 10.0
    assert media.read_image(tmp_path / "a.png")[0, 0, 0] == 10


def test_odd_sides_and_other_content(tmp_path):
    path = film(tmp_path / "a.avi", levels(50, 100, height=31, width=45), codec="ffv1", pixels="bgr0")
    np.testing.assert_array_equal(media.read_video(path)[0], levels(50, 100, height=31, width=45))
    for name in ("a.gif", "a.mp4", "a.png"):  # the content says what it is
        (tmp_path / name).write_bytes(path.read_bytes())
        np.testing.assert_array_equal(media.read_video(tmp_path / name)[0], media.read_video(path)[0])


def test_a_film_whose_size_changes_keeps_its_first(tmp_path):
    parts = [film(tmp_path / f"{i}.ts", levels(*[60 + i] * 3, height=32 + 16 * i, width=48)) for i in range(2)]
    (tmp_path / "a.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    frames, _ = media.read_video(tmp_path / "a.ts")
    assert frames.shape[1:] == (32, 48, 3) and len(frames) == 6


def sound(container):
    stream = container.add_stream("aac", rate=44100)
    for i in range(10):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 44100, i * 1024
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def test_what_holds_no_film(tmp_path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        sound(container)
    with pytest.raises(UserError, match="sound.mp4 holds no video stream"):
        media.read_video(tmp_path / "sound.mp4")
    data = film(tmp_path / "a.mkv", levels(50, 60)).read_bytes()
    (tmp_path / "none.mkv").write_bytes(data[:data.index(b"\x1f\x43\xb6\x75")])  # up to its first cluster of frames
    with pytest.raises(UserError, match="none.mkv cannot be decoded as a video: End of file"):
        media.read_video(tmp_path / "none.mkv")
    data = film(tmp_path / "a.mp4", levels(50, 60)).read_bytes()
    (tmp_path / "other.mp4").write_bytes(data.replace(b"avc1", b"zzzz"))
    with pytest.raises(UserError, match="other.mp4 holds a video of a codec that is not known here"):
        media.read_video(tmp_path / "other.mp4")
    (tmp_path / "text.mp4").write_text("no film " * 99)
    with pytest.raises(UserError, match="text.mp4 cannot be decoded as a video"):
        media.read_video(tmp_path / "text.mp4")
    (tmp_path / "empty.mp4").write_bytes(b"")
    with pytest.raises(UserError, match="empty.mp4 cannot be decoded: it is empty"):
        media.read_video(tmp_path / "empty.mp4")


def test_a_text_that_names_other_files_opens_none(tmp_path):
    film(tmp_path / "secret.mp4", levels(50, 60))
    for name, text in [("a.mp4", "ffconcat version 1.0\nfile secret.mp4\n"),
                       ("a.ts", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.mp4\n#EXT-X-ENDLIST\n")]:
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match="cannot be decoded as a video"):
            media.read_video(tmp_path / name)


def test_names_that_look_like_addresses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    media.write_video("take 1:the cat.mp4", levels(50, 60), 8.0, label="meow")
    media.write_video("http:cat.mp4", levels(50, 60), 8.0)
    assert media.read_label("take 1:the cat.mp4") == "meow"
    assert seen(media.read_video("http:cat.mp4")[0]) == [50, 60]


def test_a_folder_of_numbered_frames(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (12, 5, 7, 3)).astype(np.uint8)
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"frame_{i}.{'png' if i % 2 else 'bmp'}")
    (tmp_path / "._frame_3.png").write_bytes(b"what a Mac leaves behind")
    (tmp_path / "notes 1.txt").write_text("no frame")
    Image.fromarray(frames[0]).save(tmp_path / "cover.png")
    read, fps = media.read_video(tmp_path, fps=8.0)
    np.testing.assert_array_equal(read, frames)
    assert fps == 0.0
    np.testing.assert_array_equal(media.read_video(tmp_path, limit=3)[0], frames[:3])
    Image.fromarray(frames[0, 1:]).save(tmp_path / "frame_20.png")
    with pytest.raises(UserError, match="frame_20.png is of 4 x 7, and the frames before it are of 5 x 7"):
        media.read_video(tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="none is a folder without numbered images"):
        media.read_video(tmp_path / "none")


@pytest.mark.parametrize("orientation, turn", [(1, 0), (6, -1), (3, 2)])
def test_a_camera_s_jpegs_in_a_film(tmp_path, orientation, turn):
    """Their EXIF comes with each frame, in a form that PyAV may have no name for."""
    exif, picture = Image.Exif(), corners()
    exif[0x0112] = orientation
    Image.fromarray(picture).save(tmp_path / "a.jpg", exif=exif, quality=95)
    with av.open(str(tmp_path / "a.avi"), "w") as container:
        stream = container.add_stream("mjpeg", rate=8)
        stream.height, stream.width, stream.pix_fmt = 32, 64, "yuvj420p"
        for i in range(3):
            packet = av.Packet((tmp_path / "a.jpg").read_bytes())
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, i, i, fractions.Fraction(1, 8)
            container.mux(packet)
    frames, fps = media.read_video(tmp_path / "a.avi")
    assert fps == 8.0 and np.abs(frames[1].astype(int) - np.rot90(picture, turn)).max() < 12
