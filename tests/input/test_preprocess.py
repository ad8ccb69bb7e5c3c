"""Windows of stories, against a search over all windows."""

import numpy as np
import pytest

from phenaki_jax.errors import UserError
from phenaki_jax.input import preprocess, text
from phenaki_jax.input.schema import KNOWN_FRAMES

LENGTHS = {"video": 11, "text": 96}


def story(frames=(11, 12, 12, 12)):
    """A story whose every frame holds its own number."""
    starts = np.cumsum([0, *frames[:-1]])
    video = np.broadcast_to(np.arange(sum(frames), dtype=np.uint8)[:, None, None, None], (sum(frames), 2, 2, 3))
    return {"video": video, "starts": starts, "fps": 8.0,
            "captions": [f"scene {i}".encode() for i in range(len(frames))]}


def scene_of_frames(frames):
    return np.repeat(np.arange(len(frames)), frames)


@pytest.mark.parametrize("frames", [(11, 12), (11, 12, 12, 12), (30,), (3, 4, 20)])
def test_windows_change_only_within_known_frames_and_are_named_by_their_last(frames):
    scenes, seen = scene_of_frames(frames), set()
    for seed in range(400):
        row = preprocess.cut_story({**story(frames), "seed": seed}, LENGTHS)
        first = int(row["video"][0, 0, 0, 0])
        assert row["video"][:, 0, 0, 0].tolist() == list(range(first, first + 11))
        window = scenes[first:first + 11]
        assert (window[KNOWN_FRAMES:] == window[-1]).all()
        assert row["caption"] == f"scene {window[-1]}".encode() and row["known_frames"] == KNOWN_FRAMES
        seen.add(first)
    allowed = {s for s in range(sum(frames) - 10) if len(set(scenes[s + KNOWN_FRAMES:s + 11])) == 1}
    assert seen == allowed


def test_half_of_the_windows_or_more_change_right_after_the_known_frames():
    scenes, at_seam = scene_of_frames((11, 12, 12)), 0
    for seed in range(1000):
        first = int(preprocess.cut_story({**story((11, 12, 12)), "seed": seed}, LENGTHS)["video"][0, 0, 0, 0])
        at_seam += scenes[first + KNOWN_FRAMES - 1] != scenes[first + KNOWN_FRAMES]
    assert 500 < at_seam < 640


def test_a_window_is_a_function_of_its_seed():
    firsts = [preprocess.cut_story({**story(), "seed": s}, LENGTHS)["video"][0, 0, 0, 0] for s in [*range(20)] * 2]
    assert firsts[:20] == firsts[20:] and len(set(firsts)) > 3


def test_tokens_end_and_are_cut():
    record = {"video": np.zeros((1, 2, 2, 3), np.uint8), "known_frames": np.int32(0), "fps": 8.0, "facts": "x"}
    row = preprocess.tokenize({**record, "caption": b"abc"}, {"text": 96})
    assert row["text"].tolist() == [100, 101, 102, text.EOS] and set(row) == {"video", "text", "fps", "known_frames"}
    assert preprocess.tokenize({**record, "caption": "abcdef"}, {"text": 4})["text"].tolist() == [100, 101, 102, 1]


def test_what_does_not_fit_is_said():
    with pytest.raises(UserError, match="tokenizer.frames=11"):
        preprocess.cut_clip({"video": np.zeros((7, 2, 2, 3)), "caption": ""}, LENGTHS)
    with pytest.raises(UserError, match="10 frames"):
        preprocess.cut_story({**story((10,)), "seed": 0}, LENGTHS)
    with pytest.raises(UserError, match="2 frames"):
        preprocess.cut_image({"video": np.zeros((2, 2, 2, 3)), "caption": ""}, LENGTHS)


def test_a_sliding_image_moves_at_one_velocity_or_rests():
    """The centroid of a bright square follows a straight line, the same for the same seed."""
    image = np.full((1, 32, 32, 3), 10, np.uint8)
    image[0, 13:19, 13:19] = 250
    rests, speeds = 0, []
    for seed in range(60):
        record = {"video": image, "caption": "a square", "fps": 8.0, "seed": seed}
        row = preprocess.slide_image(record, {"video": 11})
        assert row["video"].shape == (11, 32, 32, 3) and row["known_frames"] == 0
        np.testing.assert_array_equal(row["video"], preprocess.slide_image(record, {"video": 11})["video"])
        weight = row["video"][..., 0].astype(float) - 10
        rows, columns = np.mgrid[:32, :32]
        track = np.stack([(weight * axis).sum((1, 2)) / weight.sum((1, 2)) for axis in (rows, columns)], axis=1)
        np.testing.assert_allclose(np.diff(track, n=2, axis=0), 0, atol=0.05)
        np.testing.assert_allclose(track[5], 15.5, atol=0.05)  # the middle frame is the image itself
        speed = np.abs(track[1] - track[0])
        rests += speed.max() < 1e-6
        speeds.append(speed.max())
    assert 4 <= rests <= 22 and max(speeds) <= 32 / 25 + 0.02 and max(speeds) > 0.8
