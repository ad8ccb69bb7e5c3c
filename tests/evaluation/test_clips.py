"""Clips of files and records, brought to a protocol's form; pieces that are made once."""

import numpy as np
import pytest

from phenaki_jax import media
from phenaki_jax.errors import UserError
from phenaki_jax.evaluation import clips as sets
from phenaki_jax.evaluation.protocols import Protocol


def protocol(**fields):
    return Protocol(**{"name": "mine", "about": "", "task": "compare", "frames": 4, **fields})


def numbered(frames, size=8):
    """Frame f has the grey level f."""
    return np.broadcast_to(np.arange(frames, dtype=np.uint8)[:, None, None, None], (frames, size, size, 3)).copy()


@pytest.mark.parametrize("fps, fields, levels", [
    (0.0, {}, [0, 1, 2, 3]), (8.0, {"stride": 3}, [0, 3, 6, 9]), (24.0, {"fps": 8.0}, [0, 3, 6, 9]),
    (10.0, {"fps": 4.0}, [0, 2, 5, 8]), (8.0, {"fps": 16.0}, [0, 0, 1, 2]),
    (8.0, {"fps": 8.0, "stride": 2}, [0, 2, 4, 6])])
def test_frames_are_those_of_its_rate_and_stride(fps, fields, levels):
    made = sets.shaped(numbered(12), fps, protocol(**fields), (8, 8), "a clip")
    assert made[:, 0, 0, 0].tolist() == levels


def test_what_is_too_short_or_has_no_rate_is_named():
    with pytest.raises(UserError, match="a clip gives 3 frames, and the protocol mine wants 4"):
        sets.shaped(numbered(9), 0.0, protocol(stride=3), (8, 8), "a clip")
    with pytest.raises(UserError, match="a clip has no frame rate, and the protocol mine wants 6 a second"):
        sets.shaped(numbered(9), 0.0, protocol(fps=6.0), (8, 8), "a clip")


def test_the_middle_is_kept_or_all_is_squashed():
    wide = np.zeros((4, 8, 16, 3), np.uint8)
    wide[:, :, 4:12] = 200
    assert (sets.shaped(wide, 8.0, protocol(), (8, 8), "") == 200).all()
    squashed = sets.shaped(wide, 8.0, protocol(crop="none"), (8, 8), "")
    assert squashed.shape == (4, 8, 8, 3) and squashed[0, 0, 0, 0] < 10 and squashed[0, 0, 4, 0] > 190


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path):
    rng = np.random.default_rng(0)
    videos = rng.integers(0, 256, (5, 6, 8, 8, 3)).astype(np.uint8)
    for i, video in enumerate(videos):
        (tmp_path / f"{i % 2}").mkdir(exist_ok=True)
        np.save(tmp_path / f"{i % 2}" / f"{i}.npy", video)
        (tmp_path / f"{i % 2}" / f"{i}.txt").write_text(f"clip {i}\n")
    found = sets.of_folder(str(tmp_path), protocol(), None, "--real")
    order = [0, 2, 4, 1, 3]
    np.testing.assert_array_equal(found.read(1, 4), videos[order][1:4, :4])
    np.testing.assert_array_equal(found.all(), videos[order][:, :4])
    assert found.captions == tuple(f"clip {i}" for i in order) and "with loss" not in found.about
    np.testing.assert_array_equal(found.rest(2).first(2).read(0, 2), videos[order][2:4, :4])
    assert found.first(2).count == 2 and found.rest(3).count == 2
    media.write_video(tmp_path / "z.gif", videos[0], 8)
    assert "1 of them compressed with loss" in sets.of_folder(str(tmp_path), protocol(), (8, 8), "--real").about


def test_folders_of_numbered_frames_are_clips(tmp_path):
    rng = np.random.default_rng(0)
    videos = rng.integers(0, 256, (3, 12, 8, 8, 3)).astype(np.uint8)
    for name, video in zip(("a", "deep/b.1", "c"), videos):
        media.write_frames(tmp_path / name, video)
        (tmp_path / f"{name}.txt").write_text(f"clip {name}\n")
    found = sets.of_folder(str(tmp_path), protocol(stride=3), None, "--real")
    np.testing.assert_array_equal(found.all(), videos[[0, 2, 1]][:, ::3])
    assert found.captions == ("clip a", "clip c", "clip deep/b.1") and "with loss" not in found.about
    np.testing.assert_array_equal(sets.of_folder(str(tmp_path / "a"), protocol(), None, "--real").all(), videos[:1, :4])
    images = sets.of_folder(str(tmp_path), protocol(frames=1, metrics=("fid",)), None, "--real")
    np.testing.assert_array_equal(images.all()[:, 0], videos[[0, 2, 1]].reshape(36, 8, 8, 3))  # each for itself
    media.write_image(tmp_path / "c" / "00000.jpg", videos[2, 0])
    assert "1 of them compressed with loss" in sets.of_folder(str(tmp_path), protocol(), None, "--real").about
    np.save(tmp_path / "c" / "clip.npy", videos[2])  # images beside a video are no frames
    np.testing.assert_array_equal(sets.of_folder(str(tmp_path), protocol(), None, "--real").all(),
                                  videos[[0, 2, 1]][:, :4])
    with pytest.raises(UserError, match="has no frame rate"):
        sets.of_folder(str(tmp_path), protocol(fps=8.0), None, "--real").all()


def test_videos_of_every_kind_that_can_be_read_are_clips(tmp_path):
    from PIL import Image
    media.write_video(tmp_path / "a.mp4", numbered(4, 16), 8.0)
    (tmp_path / "b.m4v").write_bytes((tmp_path / "a.mp4").read_bytes())
    pictures = [Image.fromarray(frame) for frame in numbered(4, 16)]
    pictures[0].save(tmp_path / "c.webp", save_all=True, append_images=pictures[1:], duration=125, lossless=True)
    found = sets.of_folder(str(tmp_path), protocol(fps=8.0), None, "--real")
    assert found.count == 3 and found.all().shape == (3, 4, 16, 16, 3)
    np.testing.assert_array_equal(found.all()[2], numbered(4, 16))


@pytest.mark.parametrize("make, words", [
    (lambda d: None, "--real='.*' has no file that ends in"), (lambda d: d.rmdir(), "is no folder"),
    (lambda d: np.save(d / "a.npy", np.zeros((3, 8, 8, 3))), "a.npy holds float64"),
    (lambda d: (d / "a.npy").write_bytes(b"no array"), "a.npy cannot be read"),
    (lambda d: np.save(d / "a.npy", numbered(2)), "gives 2 frames")])
def test_folders_that_cannot_be_used(tmp_path, make, words):
    folder = tmp_path / "real"
    folder.mkdir()
    make(folder)
    with pytest.raises(UserError, match=words):
        sets.of_folder(str(folder), protocol(), None, "--real").all()


def test_records_are_the_first_of_a_split(tmp_path):
    from phenaki_jax.input import mix
    form = protocol(frames=5, stride=2)
    found = sets.of_records("sprite_clips_32_tiny", form, (32, 32), 3, str(tmp_path), ("data.mixtures",), "--data")
    records = mix.eval_records("sprite_clips_32_tiny", "test", 3, data_dir=tmp_path)
    np.testing.assert_array_equal(found.read(1, 3), [r["video"][:10:2] for r in records[1:]])
    assert found.captions == tuple(r["caption"] for r in records)
    with pytest.raises(UserError, match="--data='sprite_tiny_80_20' is a mixture; name one of its tasks"):
        sets.of_records("sprite_tiny_80_20", form, (32, 32), 3, str(tmp_path), ("data.mixtures",), "--data")


def test_a_piece_is_made_once_and_a_half_written_one_is_none(tmp_path):
    made = []
    make = lambda: made.append(1) or np.arange(3)
    for _ in range(2):
        np.testing.assert_array_equal(sets.once(tmp_path / "a", "name", make), [0, 1, 2])
    assert made == [1]

    def fail():
        raise KeyError

    with pytest.raises(KeyError):
        sets.once(tmp_path / "a", "other", fail)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["name.npy"]
