"""The rules by which a picture is brought to another ratio."""

import numpy as np
import pytest

from phenaki_jax import media
from phenaki_jax.errors import UserError


def test_a_picture_is_cut_in_the_middle_to_fit():
    frames = np.zeros((1, 6, 10, 3), np.uint8)
    frames[:, :, 2:8] = 200
    np.testing.assert_array_equal(media.fit(frames, 3, 3), np.full((1, 3, 3, 3), 200))
    np.testing.assert_array_equal(media.fit(frames.swapaxes(1, 2), 12, 12), np.full((1, 12, 12, 3), 200))
    assert media.fit(frames[:, :1, :1], 4, 2).shape == (1, 4, 2, 3)


@pytest.mark.parametrize("rule, rows, columns", [
    ("centre", slice(0, 6), slice(2, 8)), ("left", slice(0, 6), slice(0, 6)), ("right", slice(0, 6), slice(4, 10)),
    ("top", slice(0, 6), slice(2, 8)), ("bottom", slice(0, 6), slice(2, 8))])
def test_the_rule_says_which_part_is_kept(rule, rows, columns):
    frames = np.random.default_rng(0).integers(0, 256, (3, 6, 10, 3)).astype(np.uint8)
    np.testing.assert_array_equal(media.fit(frames, 6, 6, rule), frames[:, rows, columns])
    other = {"left": "top", "right": "bottom", "top": "left", "bottom": "right"}.get(rule, rule)
    np.testing.assert_array_equal(media.fit(frames.swapaxes(1, 2), 6, 6, other),
                                  frames[:, rows, columns].swapaxes(1, 2))


def test_the_whole_picture_is_padded_or_stretched():
    frames = np.full((2, 6, 10, 3), 200, np.uint8)
    padded = media.fit(frames, 10, 10, "pad", (1, 2, 3))
    assert (padded[:, 2:8] == 200).all() and (padded[:, :2] == (1, 2, 3)).all() and (padded[:, 8:] == (1, 2, 3)).all()
    upright = media.fit(frames.swapaxes(1, 2), 5, 20, "pad")
    assert (upright[:, :, 8:11] == 200).all() and not upright[:, :, :8].any() and not upright[:, :, 11:].any()
    frames[:, :, :5] = 0
    stretched = media.fit(frames, 6, 6, "stretch")
    assert stretched.shape == (2, 6, 6, 3) and stretched[0, 0, 0, 0] < 5 and stretched[0, 0, 5, 0] > 195
    for rule in media.RULES:
        assert media.fit(frames, 6, 10, rule) is frames
        assert media.fit(frames, 1, 50, rule).shape == (2, 1, 50, 3)


def test_an_unknown_rule_is_the_users():
    with pytest.raises(UserError, match="rule='middle' is unknown; .*centre, top, bottom, left, right, pad, stretch"):
        media.fit(np.zeros((1, 4, 4, 3), np.uint8), 2, 2, "middle")
