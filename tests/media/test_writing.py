import numpy as np
import pytest
from PIL import Image

from phenaki_jax import media
from phenaki_jax.errors import UserError


def smooth_clip(frames: int, height: int, width: int) -> np.ndarray:
    """A coloured blob that wanders over a gradient, uint8 [F, Y, X, 3]."""
    f, y, x = np.mgrid[0:frames, 0:height, 0:width].astype(np.float64)
    blob = np.exp(-((x - width * (0.2 + 0.6 * f / max(frames, 2))) ** 2 + (y - height / 2) ** 2) / (height * 2))
    return np.stack([230 * blob + 20, 200 * y / height, 40 + 60 * x / width], -1).round().astype(np.uint8)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(np.float64) - b) ** 2)))


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".gif"])
@pytest.mark.parametrize("count", [1, 2, 11, 35])
def test_frame_counts_and_rates_survive(tmp_path, suffix, count):
    clip = smooth_clip(count, 32, 48)
    media.write_video(tmp_path / f"clip{suffix}", clip, 8.0)
    back, fps = media.read_video(tmp_path / f"clip{suffix}")
    assert back.dtype == np.uint8 and back.shape == clip.shape
    assert fps == pytest.approx(8.0, rel=0.05 if suffix == ".gif" and count < 4 else 1e-6)


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
@pytest.mark.parametrize("fps", [7.5, 24.0, 29.97])
def test_other_rates_survive(tmp_path, suffix, fps):
    media.write_video(tmp_path / f"clip{suffix}", smooth_clip(9, 16, 16), fps)
    back, read = media.read_video(tmp_path / f"clip{suffix}")
    assert len(back) == 9 and read == pytest.approx(fps, rel=1e-3)


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
def test_video_is_near_lossless(tmp_path, suffix):
    clip = smooth_clip(11, 64, 96)
    media.write_video(tmp_path / f"clip{suffix}", clip, 8.0)
    assert psnr(media.read_video(tmp_path / f"clip{suffix}")[0], clip) > 36


def test_enlarged_colours_are_those_that_were_written(tmp_path):
    """With an even scale a pixel's colour is never averaged with its neighbour's."""
    clip = np.zeros((3, 8, 8, 3), np.uint8)
    clip[:, ::2, ::2], clip[:, 1::2, 1::2] = (230, 40, 40), (40, 200, 60)
    media.write_video(tmp_path / "clip.mp4", clip, 8.0, scale=8)
    back, _ = media.read_video(tmp_path / "clip.mp4")
    assert back.shape == (3, 64, 64, 3)
    assert np.abs(back[:, 3::8, 3::8].astype(int) - clip).max() <= 8


def test_odd_sides_are_lengthened_by_their_last_row_and_column(tmp_path):
    clip = smooth_clip(4, 31, 45)
    media.write_video(tmp_path / "clip.mp4", clip, 8.0)
    back, _ = media.read_video(tmp_path / "clip.mp4")
    assert back.shape == (4, 32, 46, 3)
    assert psnr(back[:, :31, :45], clip) > 34
    assert np.abs(back[:, 31, :45].astype(int) - clip[:, 30]).mean() < 6


def test_mp4_is_what_players_know(tmp_path):
    import av
    media.write_video(tmp_path / "clip.mp4", smooth_clip(5, 32, 32), 8.0)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert stream.codec_context.colorspace == 1  # BT.709


def test_gif_is_exact_with_few_colours_also_at_rest(tmp_path):
    rng = np.random.default_rng(0)
    palette = rng.integers(0, 256, (256, 3)).astype(np.uint8)
    clip = palette[rng.integers(0, 256, (6, 20, 30))]
    clip[3:] = clip[2]  # at rest: equal neighbours are frames of their own
    media.write_video(tmp_path / "clip.gif", clip, 8.0, scale=3)
    back, fps = media.read_video(tmp_path / "clip.gif")
    np.testing.assert_array_equal(back, clip.repeat(3, 1).repeat(3, 2))
    assert fps == 8.0


def test_gif_is_exact_where_each_frame_has_few_colours(tmp_path):
    rng = np.random.default_rng(1)
    clip = np.stack([rng.integers(0, 256, (200, 3))[rng.integers(0, 200, (16, 16))] for _ in range(5)]).astype(np.uint8)
    assert len(np.unique(clip.reshape(-1, 3), axis=0)) > 256
    media.write_video(tmp_path / "clip.gif", clip, 10.0)
    np.testing.assert_array_equal(media.read_video(tmp_path / "clip.gif")[0], clip)


def test_gif_of_many_colours_is_close(tmp_path):
    clip = smooth_clip(6, 64, 64)
    assert len(np.unique(clip[0].reshape(-1, 3), axis=0)) > 256
    media.write_video(tmp_path / "clip.gif", clip, 8.0)
    assert psnr(media.read_video(tmp_path / "clip.gif")[0], clip) > 28


def test_gif_is_read_alike_by_another_decoder(tmp_path):
    import av
    rng = np.random.default_rng(2)
    clip = rng.integers(0, 6, (4, 12, 18, 3)).astype(np.uint8) * 50
    media.write_video(tmp_path / "clip.gif", clip, 5.0)
    with av.open(str(tmp_path / "clip.gif")) as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    np.testing.assert_array_equal(frames, clip)


def test_images(tmp_path):
    image = smooth_clip(1, 24, 40)[0]
    media.write_image(tmp_path / "a.png", image, scale=2)
    np.testing.assert_array_equal(media.read_image(tmp_path / "a.png"), image.repeat(2, 0).repeat(2, 1))
    media.write_video(tmp_path / "b.jpg", image[None], 8.0)
    frames, fps = media.read_video(tmp_path / "b.jpg")
    assert frames.shape == (1, 24, 40, 3) and fps == 0.0 and psnr(frames[0], image) > 32
    clear = np.zeros((4, 4, 4), np.uint8)
    clear[:2] = 200, 100, 50, 255
    Image.fromarray(clear).save(tmp_path / "c.png")
    np.testing.assert_array_equal(media.read_image(tmp_path / "c.png")[:, 0],
                                  [(200, 100, 50)] * 2 + [(0, 0, 0)] * 2)


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.gif", "a.png", "a.jpg"])
def test_a_file_that_cannot_be_read_is_the_users(tmp_path, name):
    with pytest.raises(UserError, match="does not exist"):
        media.read_video(tmp_path / name)
    (tmp_path / name).write_bytes(b"this is no film" * 20)
    with pytest.raises(UserError, match="cannot be decoded") as error:
        media.read_video(tmp_path / name)
    assert name in str(error.value) and "\n" not in str(error.value)


def test_what_cannot_be_written_is_the_users(tmp_path):
    clip = smooth_clip(2, 8, 8)
    for path, frames, fps in [("a.avi", clip, 8), ("a.mp4", clip.astype(float), 8), ("a.mp4", clip[0], 8),
                              ("a.mp4", clip, 0), ("a.png", clip, 8), ("a.mp4", clip[:0], 8), ("a.gif", clip, 60)]:
        with pytest.raises(UserError):
            media.write_video(tmp_path / path, frames, fps)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".gif"])
def test_frames_that_come_one_after_the_other_make_the_same_video(tmp_path, suffix):
    clip = smooth_clip(40, 16, 17) // 64 * 64  # few colours: one palette serves a gif, however it is cut
    media.write_video(tmp_path / f"whole{suffix}", clip, 7.5, scale=3)
    with media.open_video(tmp_path / f"parts{suffix}", 7.5, scale=3) as append:
        for part in np.split(clip, [1, 12, 13]):
            append(part)
    whole, parts = (media.read_video(tmp_path / f"{name}{suffix}") for name in ("whole", "parts"))
    np.testing.assert_array_equal(parts[0], whole[0])
    assert parts[1] == whole[1]


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_a_failure_leaves_the_old_file(tmp_path, suffix):
    path = tmp_path / f"clip{suffix}"
    media.write_video(path, smooth_clip(3, 16, 16), 8.0)
    before = path.read_bytes()
    with pytest.raises(RuntimeError), media.open_video(path, 8.0) as append:
        append(smooth_clip(5, 16, 16))
        raise RuntimeError("the disk is full")
    with pytest.raises(UserError, match="8 x 8"), media.open_video(path, 8.0) as append:
        append(smooth_clip(5, 16, 16))
        append(smooth_clip(5, 8, 8))
    with pytest.raises(UserError, match="without a frame"), media.open_video(path, 8.0):
        pass
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [path.name]


def test_written_files_can_be_read_by_others(tmp_path):
    (tmp_path / "plain").write_text("")
    media.write_text(tmp_path / "deep" / "report.md", "fine")
    assert (tmp_path / "deep" / "report.md").read_text() == "fine"
    assert (tmp_path / "deep" / "report.md").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".gif"])
@pytest.mark.parametrize("height, width", [(33, 46), (64, 64), (40, 136)])
def test_equal_frames_give_equal_bytes(tmp_path, suffix, height, width):
    clip, seen, kept = smooth_clip(12, height, width), set(), []
    for i in range(6):
        kept.append(np.random.default_rng(i).bytes(30000 * i))  # memory that an encoder finds is never the same
        media.write_video(tmp_path / f"a{suffix}", clip, 8.0)
        seen.add((tmp_path / f"a{suffix}").read_bytes())
    assert len(seen) == 1


def test_small_mp4s_in_memory_have_equal_bytes_too():
    clip = smooth_clip(12, 48, 64)
    assert len({media.encode_mp4(clip, 8.0, {"crf": "14", "threads": "1"}) for _ in range(12)}) == 1


@pytest.mark.parametrize("suffix, default, worse", [(".mp4", 12, 35), (".webm", 12, 50)])
def test_crf_is_the_quality(tmp_path, suffix, default, worse):
    clip = smooth_clip(11, 64, 96) ^ np.random.default_rng(0).integers(0, 8, (11, 64, 96, 3)).astype(np.uint8)
    sizes, errors = [], []
    for crf in (None, default, worse):
        media.write_video(tmp_path / f"{crf}{suffix}", clip, 8.0, crf=crf)
        sizes.append((tmp_path / f"{crf}{suffix}").stat().st_size)
        errors.append(psnr(media.read_video(tmp_path / f"{crf}{suffix}")[0], clip))
    assert (tmp_path / f"None{suffix}").read_bytes() == (tmp_path / f"{default}{suffix}").read_bytes()
    assert sizes[2] < sizes[1] / 2 and errors[2] < errors[1] - 2


@pytest.mark.parametrize("suffix, crf, words", [(".mp4", 0, "from 1 to 51"), (".mp4", 52, "from 1 to 51"),
                                                (".webm", 64, "from 0 to 63"), (".mp4", 12.5, "whole number"),
                                                (".gif", 12, "a gif has none")])
def test_a_crf_that_does_not_fit_is_the_users(tmp_path, suffix, crf, words):
    with pytest.raises(UserError, match=f"crf={crf}.*{words}"):
        media.write_video(tmp_path / f"a{suffix}", smooth_clip(2, 16, 16), 8.0, crf=crf)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("crf", [None, 1, 51])
def test_mp4_starts_at_once_and_is_of_a_profile_of_browsers(tmp_path, crf):
    import av
    media.write_video(tmp_path / "a.mp4", smooth_clip(5, 32, 32), 8.0, label="a label" * 100, crf=crf)
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].profile == "High" and container.streams.video[0].pix_fmt == "yuv420p"


def test_webp_is_exact(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (17, 23, 3)).astype(np.uint8)
    media.write_image(tmp_path / "a.webp", image, scale=2)
    np.testing.assert_array_equal(media.read_image(tmp_path / "a.webp"), image.repeat(2, 0).repeat(2, 1))
    with Image.open(tmp_path / "a.webp") as opened:
        assert opened.format == "WEBP"


def test_a_folder_of_frames_comes_back(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (12, 5, 7, 3)).astype(np.uint8)
    media.write_frames(tmp_path / "deep" / "clip", frames, scale=2, label="twelve")
    names = sorted(path.name for path in (tmp_path / "deep" / "clip").iterdir())
    assert names == [f"{i:05d}.png" for i in range(12)]
    back, fps = media.read_video(tmp_path / "deep" / "clip")
    np.testing.assert_array_equal(back, frames.repeat(2, 1).repeat(2, 2))
    assert fps == 0.0 and media.read_label(tmp_path / "deep" / "clip") == "twelve"
    with Image.open(tmp_path / "deep" / "clip" / "00007.png") as image:
        np.testing.assert_array_equal(np.asarray(image)[::2, ::2], frames[7])
    media.write_frames(tmp_path / "deep" / "clip", frames[:3])  # fewer: none of the old is left
    np.testing.assert_array_equal(media.read_video(tmp_path / "deep" / "clip")[0], frames[:3])
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["clip"]
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "deep" / "clip").stat().st_mode == (tmp_path / "plain").stat().st_mode
    media.write_frames(tmp_path / "plain", frames)  # an empty folder is nothing in the way
    assert len(media.frame_files(tmp_path / "plain")) == 12


def test_a_folder_of_frames_is_whole_or_not_at_all(tmp_path, monkeypatch):
    from phenaki_jax.media import writing
    frames = smooth_clip(3, 8, 8)
    with pytest.raises(UserError, match="float64"):
        media.write_frames(tmp_path / "a", frames.astype(float))
    media.write_frames(tmp_path / "a", frames)
    save = writing._save

    def fails(path, *rest):
        if path.name == "00001.png":
            raise OSError("the disk is full")
        save(path, *rest)

    monkeypatch.setattr(writing, "_save", fails)
    with pytest.raises(OSError, match="disk is full"):
        media.write_frames(tmp_path / "a", frames[::-1])
    monkeypatch.undo()
    np.testing.assert_array_equal(media.read_video(tmp_path / "a")[0], frames)
    (tmp_path / "a" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("a", "file"):
        with pytest.raises(UserError, match=f"{name} is there already, and is no folder of nothing but"):
            media.write_frames(tmp_path / name, frames)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "file"] and (tmp_path / "a/notes.txt").exists()
