"""The motion score against what is known of how things move."""

import numpy as np
import pytest

from phenaki_jax.input.motion import motion_score


def blob(speed, angle, frames=9, size=64, contrast=200.0, offset=20.0):
    """A soft round blob that moves `speed` pixels a frame."""
    rows, columns = np.mgrid[:size, :size]
    away = (np.arange(frames) - (frames - 1) / 2) * speed
    y, x = (size / 2 + away[:, None, None] * f(angle) for f in (np.sin, np.cos))
    return np.rint(offset + contrast * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 2 / 9.0**2)).astype(
        np.uint8)[..., None].repeat(3, axis=-1)


@pytest.mark.parametrize("angle", [0.0, 0.6, np.pi / 2])
@pytest.mark.parametrize("speed", [0.5, 1.0, 2.0])
def test_it_is_the_speed_of_a_round_thing_in_per_cent_a_second(speed, angle):
    assert motion_score(blob(speed, angle), 10.0) == pytest.approx(100 * speed / 64 * 10, rel=0.2)


def test_it_knows_no_size_brightness_or_resolution_and_counts_seconds():
    base = motion_score(blob(1.0, 0.3), 8.0)
    assert motion_score(blob(1.0, 0.3, contrast=90.0, offset=100.0), 8.0) == pytest.approx(base, rel=0.05)
    assert motion_score(blob(1.0, 0.3).repeat(2, 1).repeat(2, 2), 8.0) == pytest.approx(base, rel=0.05)
    assert motion_score(blob(1.0, 0.3), 16.0) == pytest.approx(2 * base, rel=1e-5)


def test_what_rests_has_none_and_an_image_has_no_motion_to_speak_of():
    assert motion_score(blob(0.0, 0.0), 8.0) == 0.0
    assert motion_score(np.full((5, 20, 12, 3), 7, np.uint8), 8.0) == 0.0  # nothing to be seen at all
    assert np.isnan(motion_score(blob(1.0, 0.0)[:1], 8.0))
