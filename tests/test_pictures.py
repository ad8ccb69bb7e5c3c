import numpy as np
import pytest

from phenaki_jax import pictures


def solid(colour, height=4, width=6, frames=None):
    shape = (height, width, 3) if frames is None else (frames, height, width, 3)
    return np.broadcast_to(np.array(colour, np.uint8), shape).copy()


def test_grid_puts_every_pixel_where_it_belongs():
    a, b, c = solid((9, 0, 0)), solid((0, 9, 0), width=8), solid((0, 0, 9), height=3)
    picture = pictures.grid([[a, b], [c]], gap=2, background=(7, 7, 7))
    expected = solid((7, 7, 7), height=2 + 4 + 2 + 3 + 2, width=2 + 6 + 2 + 8 + 2)
    expected[2:6, 2:8], expected[2:6, 10:18], expected[8:11, 2:8] = a, b, c
    np.testing.assert_array_equal(picture, expected)


def test_grid_of_clips_rests_on_the_last_frame():
    short = np.stack([solid((i, 0, 0)) for i in range(2)])
    long = np.stack([solid((0, i, 0)) for i in range(4)])
    clip = pictures.grid([[short, long, solid((0, 0, 5))]], gap=1)
    assert clip.shape == (4, 6, 22, 3)
    assert clip[:, 2, 2, 0].tolist() == [0, 1, 1, 1]
    assert clip[:, 2, 9, 1].tolist() == [0, 1, 2, 3]
    assert (clip[:, 1:5, 15:21] == (0, 0, 5)).all()


def test_grid_refuses_what_is_no_picture():
    with pytest.raises(ValueError, match="float"):
        pictures.grid([[np.zeros((4, 4, 3))]])
    with pytest.raises(ValueError, match="empty"):
        pictures.grid([])


def test_wrap_keeps_the_words_and_the_width():
    text = "on a black background, a solid red circle is moving quickly to the left"
    lines = pictures.wrap(text, 120, 14)
    assert " ".join(lines) == text and len(lines) > 2
    assert all(pictures._font(14).getlength(line) <= 120 for line in lines)


def test_label_writes_something_different_for_different_texts():
    a, b = pictures.label("red circle", 200), pictures.label("blue cross", 200)
    assert a.shape == b.shape and (a != b).any()
    assert (a != 255).any(axis=-1).mean() > 0.005
    assert (pictures.label("", 50) == 255).all()
    assert pictures.label("red circle " * 9, 100).shape[0] > a.shape[0]


@pytest.mark.parametrize("count, shown, expected", [(11, 3, [0, 5, 10]), (2, 5, [0, 1]), (1, 4, [0]), (12, 2, [0, 11])])
def test_spread(count, shown, expected):
    assert pictures.spread(count, shown).tolist() == expected


def _count(picture, colour):
    return int((picture == np.array(colour, np.uint8)).all(-1).sum())


def test_sheet_shows_each_chosen_frame_of_each_clip_once():
    rng = np.random.default_rng(0)
    colours = rng.integers(30, 220, (2, 3, 11, 3))  # column, example, frame
    colours[..., 0] = np.arange(66).reshape(2, 3, 11) + 30  # all different
    clips = np.broadcast_to(colours[:, :, :, None, None], (2, 3, 11, 5, 7, 3)).astype(np.uint8)
    picture = pictures.sheet({"truth": clips[0], "generated": clips[1]}, frames=[0, 5, 10], captions=["a", "b", "c"],
                             scale=2)
    for column in range(2):
        for example in range(3):
            for frame in range(11):
                found = _count(picture, colours[column, example, frame])
                assert found == (5 * 7 * 4 if frame in (0, 5, 10) else 0)
    rows, places = [], []
    for column in range(2):
        y, x = np.nonzero((picture == colours[column, 1, 5].astype(np.uint8)).all(-1))
        rows.append(y.min())
        places.append(x.min())
    assert rows[0] == rows[1] and places[0] < places[1]


def test_sheet_refuses_columns_that_differ():
    with pytest.raises(ValueError, match="truth"):
        clip = solid((1, 1, 1), frames=3)[None]
        pictures.sheet({"truth": clip, "made": clip.repeat(2, 0)})


def test_captioned_keeps_every_pixel_and_changes_its_text_at_the_seam():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (7, 16, 16, 3)).astype(np.uint8)
    clip = pictures.captioned(frames, ["a red circle moves left", "it stops"], [0, 4], scale=8)
    np.testing.assert_array_equal(clip[:, :128, :128], frames.repeat(8, 1).repeat(8, 2))
    text = clip[:, 128:]
    assert clip.shape[1] % 2 == 0 and clip.shape[2] % 2 == 0
    assert (text[:4] == text[0]).all() and (text[4:] == text[4]).all() and (text[0] != text[4]).any()


def test_story_strip_shows_a_row_a_scene():
    frames = np.stack([solid((40 + i, 0, 0), 5, 5) for i in range(9)])
    picture = pictures.story_strip(frames, ["one", "two"], [0, 5], shown=2, scale=3)
    tops = [np.nonzero((picture == (40 + i, 0, 0)).all(-1))[0] for i in (0, 4, 5, 8)]
    assert [len(t) for t in tops] == [225] * 4
    assert tops[0].min() == tops[1].min() < tops[2].min() == tops[3].min()
    assert _count(picture, (42, 0, 0)) == 0


@pytest.mark.parametrize("starts", [[1, 4], [0, 9], [0], [4, 0], [0, 0]])
def test_scenes_must_fit_the_story(starts):
    with pytest.raises(ValueError, match="starts"):
        pictures.captioned(solid((1, 1, 1), frames=9), ["one", "two"], starts)
