"""Scores of sets and of clips without facts, against brute force, closed forms, scipy and scikit-learn."""

import numpy as np
import pytest
from scipy import ndimage, stats

from phenaki_jax.errors import UserError
from phenaki_jax.evaluation import motion_stats, scores, sprites
from phenaki_jax.evaluation.features import frechet_distance
from phenaki_jax.input.motion import motion_score

# ------------------------------------------------------------------------------------------------- kernel distance


@pytest.fixture
def sets():
    rng = np.random.default_rng(0)
    return rng.normal(size=(12, 5)), rng.normal(size=(9, 5)) * 1.5 + 0.7


def test_kernel_mmd_is_the_double_loop(sets):
    a, b = sets
    kernel = lambda x, y: (sum(p * q for p, q in zip(x, y)) / 5 + 1) ** 3
    among = lambda s: np.mean([kernel(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j])
    between = np.mean([kernel(x, y) for x in a for y in b])
    assert scores.kernel_mmd(a, b) == pytest.approx(among(a) + among(b) - 2 * between, rel=1e-12)
    assert scores.kernel_mmd(b, a) == pytest.approx(scores.kernel_mmd(a, b), rel=1e-12)


def test_kernel_mmd_against_scikit_learn(monkeypatch):
    polynomial_kernel = pytest.importorskip("sklearn.metrics.pairwise").polynomial_kernel
    a, b = np.random.default_rng(1).normal(size=(2, 70, 40)) * 3
    aa, bb, ab = (polynomial_kernel(x, y, degree=3, coef0=1) for x, y in ((a, a), (b, b), (a, b)))
    expected = ((aa.sum() - np.trace(aa)) + (bb.sum() - np.trace(bb))) / (70 * 69) - 2 * ab.mean()
    assert scores.kernel_mmd(a, b) == pytest.approx(expected, rel=1e-10)
    monkeypatch.setattr(scores, "BLOCK", 70 * 11)  # blocks that do not divide the rows
    assert scores.kernel_mmd(a, b) == pytest.approx(expected, rel=1e-10)


def test_kernel_mmd_of_one_dimension_is_its_closed_form():
    """k(0, 0) = 1, k(1, 1) = 8, k(0, 1) = 1: nothing of the diagonals counts, for rows are all alike."""
    assert scores.kernel_mmd(np.zeros((3, 1)), np.ones((4, 1))) == pytest.approx(1 + 8 - 2)


def test_kernel_mmd_is_unbiased():
    rng = np.random.default_rng(2)
    found = np.array([scores.kernel_mmd(*rng.normal(size=(2, 20, 8))) for _ in range(2000)])
    error = found.std() / np.sqrt(len(found))
    assert abs(found.mean()) < 3 * error < 0.02  # with the diagonals left in it would be 0.8
    assert (found < 0).mean() > 0.3


def test_kernel_distance_is_of_subsets():
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(60, 4)), rng.normal(size=(80, 4)) + 1
    found = scores.kernel_distance(a, b, subsets=200, subset_size=15)
    assert found == scores.kernel_distance(a, b, subsets=200, subset_size=15)
    assert found != scores.kernel_distance(a, b, subsets=200, subset_size=15, seed=1)
    # Over all subsets the mean is the estimate of the whole sets.
    assert abs(found["value"] - scores.kernel_mmd(a, b)) < 4 * found["deviation"] / np.sqrt(200)
    wider = scores.kernel_distance(a, b, subsets=200, subset_size=5)
    assert wider["deviation"] > 1.3 * found["deviation"] > 0
    assert (found["subsets"], found["subset_size"]) == (200, 15)


def test_kernel_distance_of_whole_sets_has_one_value(sets):
    a, b = sets
    found = scores.kernel_distance(a[:9], b)
    assert found == {"value": pytest.approx(scores.kernel_mmd(a[:9], b)), "deviation": None, "subsets": 1,
                     "subset_size": 9}
    part = scores.kernel_distance(a, b, subsets=20)  # the larger set is drawn from
    assert part["subset_size"] == 9 and part["subsets"] == 20 and part["deviation"] > 0


# --------------------------------------------------------------------------------------------- precision and recall


def brute_force(real, generated, k):
    def covered(rows, centres):
        inside = []
        for row in rows:
            reach = [sorted(np.linalg.norm(c - d) for j, d in enumerate(centres) if j != i)[k - 1]
                     for i, c in enumerate(centres)]
            inside.append(any(np.linalg.norm(row - c) <= r for c, r in zip(centres, reach)))
        return np.mean(inside)
    return covered(generated, real), covered(real, generated)


@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_by_brute_force(k, monkeypatch):
    rng = np.random.default_rng(k)
    real, generated = rng.normal(size=(25, 3)), rng.normal(size=(18, 3)) * 0.6 + 0.8
    precision, recall = brute_force(real, generated, k)
    assert 0 < precision < 1 and 0 < recall < 1 and precision != recall
    for block in (scores.BLOCK, 25 * 4):
        monkeypatch.setattr(scores, "BLOCK", block)
        assert scores.precision_recall(real, generated, k=k) == pytest.approx((precision, recall))


def test_precision_and_recall_of_sets_that_are_alike_apart_or_part_of_each_other():
    rng = np.random.default_rng(4)
    two = np.concatenate([rng.normal(size=(50, 6)), rng.normal(size=(50, 6)) + 1000])
    shares = scores.precision_recall
    assert shares(two, two) == (1, 1)
    assert shares(two, two[::-1] + 1e5) == (0, 0)
    assert shares(two, two[:50]) == (1, 0.5)  # one of two modes
    assert shares(two[:50], two) == (0.5, 1)
    same = np.repeat(rng.normal(size=(1, 6)) * 1e4, 5, axis=0)  # radii of 0 still hold their own centre
    assert shares(same, same) == (1, 1) and shares(same, same + 1e-6) == (0, 0)


# ------------------------------------------------------------------------------------------------------- intervals


@pytest.mark.parametrize("function", [scores.bootstrap_interval, scores.half_sample_interval])
def test_intervals_of_a_gaussian_mean_hold_it_as_often_as_they_say(function):
    rng = np.random.default_rng(5)
    held, widths = [], []
    for seed in range(300):
        found = function(np.mean, rng.normal(2, 3, 60), level=0.9, seed=seed, paired=False)
        held.append(found["interval"][0] <= 2 <= found["interval"][1])
        widths.append(np.diff(found["interval"])[0])
    assert 0.85 <= np.mean(held) <= 0.95  # three deviations of 300 draws
    assert np.mean(widths) == pytest.approx(2 * 1.645 * 3 / np.sqrt(60), rel=0.05)


def test_rows_are_drawn_together_or_apart():
    rng = np.random.default_rng(6)
    a = rng.normal(size=(50, 2))
    b = a + rng.normal(size=(50, 2)) * 0.01
    difference = lambda x, y: float(np.mean(x - y))
    together, apart = (scores.bootstrap_interval(difference, a, b, paired=paired) for paired in (True, False))
    assert np.diff(together["interval"])[0] < 0.1 * np.diff(apart["interval"])[0]
    assert together["value"] == apart["value"] == difference(a, b) and together["resamples"] == 200
    assert together == scores.bootstrap_interval(difference, a, b, paired=True)
    assert together != scores.bootstrap_interval(difference, a, b, paired=True, seed=1)
    scores.bootstrap_interval(difference, a, b[:1], paired=False)  # each by its own number


def test_half_samples_hold_the_frechet_distance_where_the_bootstrap_does_not():
    rng = np.random.default_rng(7)
    draw = lambda: (rng.normal(size=(100, 10)), rng.normal(size=(100, 10)) + 1 / np.sqrt(10))
    expected = np.mean([frechet_distance(*draw()) for _ in range(300)])
    held = {"bootstrap": [], "half": []}
    extrapolated = []
    for _ in range(20):
        pair = draw()
        half = scores.half_sample_interval(frechet_distance, *pair, resamples=60, paired=False)
        bootstrap = scores.bootstrap_interval(frechet_distance, *pair, resamples=60, paired=False)
        assert half["value"] == bootstrap["value"] == frechet_distance(*pair)
        for name, found in (("half", half), ("bootstrap", bootstrap)):
            held[name].append(found["interval"][0] <= expected <= found["interval"][1])
        extrapolated.append(half["extrapolated"])
    assert np.mean(held["half"]) >= 0.85 and np.mean(held["bootstrap"]) <= 0.5
    assert expected > 1.5 and np.mean(extrapolated) == pytest.approx(1, abs=0.25)  # of endlessly many rows: 1


@pytest.mark.parametrize("n, m, d", [(60, 40, 8), (9, 7, 20), (7, 9, 20), (30, 9, 20), (9, 30, 20), (4, 4, 1)])
def test_the_interval_of_frechet_distances_is_that_of_half_samples(n, m, d):
    rng = np.random.default_rng(n)
    a, b = rng.normal(size=(n, d)) * rng.uniform(1, 5, d), rng.normal(size=(m, d)) @ rng.normal(size=(d, d)) + 1
    found = scores.frechet_interval(a, b, resamples=20)
    expected = scores.half_sample_interval(frechet_distance, a, b, resamples=20)
    for key in expected:
        assert found[key] == pytest.approx(expected[key], rel=1e-5)
    itself = scores.frechet_interval(a, a, resamples=5, paired=True)
    assert itself["value"] == pytest.approx(0, abs=1e-5 * a.var(0).sum())
    with pytest.raises(UserError, match="generated has the shape"):
        scores.frechet_interval(a, b[:3])


# --------------------------------------------------------------------------------------------------- distributions


@pytest.mark.parametrize("n, m", [(1, 1), (7, 7), (7, 5), (12, 18), (1, 9)])
def test_wasserstein_against_scipy(n, m):
    rng = np.random.default_rng(n)
    a, b = rng.normal(size=n), rng.normal(size=m) * 2 + 0.5
    assert scores.wasserstein(a, b) == pytest.approx(stats.wasserstein_distance(a, b), rel=1e-12)
    assert scores.wasserstein(a, a + 3) == pytest.approx(3) and scores.wasserstein(a, np.repeat(a, 4)) == 0


def test_features_and_options_of_other_forms_are_refused():
    a = np.ones((5, 3))
    for wrong, words in ((a[0], r"shape \(3,\)"), (a[:1], "N at least"), (a[:, :2], "3 and 2 dimensions"),
                         (a * np.nan, "15 values that are not finite")):
        for function in (scores.kernel_mmd, scores.kernel_distance, scores.precision_recall):
            with pytest.raises(UserError, match=words):
                function(a, wrong)
    for call, words in (
            (lambda: scores.precision_recall(a, a, k=5), "real .* N at least 6"),
            (lambda: scores.precision_recall(a, a, k=0), "k=0"),
            (lambda: scores.kernel_distance(a, a, subsets=0), "subsets=0"),
            (lambda: scores.kernel_distance(a, a, subset_size=1), "subset_size=1"),
            (lambda: scores.bootstrap_interval(np.mean, paired=True), r"arrays have \[\]"),
            (lambda: scores.bootstrap_interval(np.mean, a, a[:2], paired=True), r"\[5, 2\] rows; with paired=True"),
            (lambda: scores.bootstrap_interval(np.mean, a, resamples=1, paired=True), "resamples=1"),
            (lambda: scores.bootstrap_interval(np.mean, a, level=95, paired=True), "level=95"),
            (lambda: scores.half_sample_interval(np.mean, a[:3], paired=True), "at least 4 rows"),
            (lambda: scores.wasserstein(a[:, 0], []), "b has the shape"),
            (lambda: scores.wasserstein([np.inf], [1]), "finite")):
        with pytest.raises(UserError, match=words):
            call()


# --------------------------------------------------------------------------------------------- flicker and motion


def noise(count, frames, seed=0, high=256):
    return np.random.default_rng(seed).integers(0, high, (count, frames, 12, 16, 3)).astype(np.uint8)


def test_flicker_of_a_level_that_alternates_is_its_closed_form():
    """Levels 100 and 100 + 7: each step changes 7; uint8 does not wrap where the level falls."""
    levels = np.array([[100, 107, 100, 107], [50, 50, 50, 50]], np.uint8)
    video = np.broadcast_to(levels[:, :, None, None, None], (2, 4, 12, 16, 3))
    static = motion_stats.controls(video, "static")
    found = motion_stats.temporal_error(video, static)
    assert {name: values.tolist() for name, values in found.items()} == {
        "change": [7, 0], "reference": [0, 0], "excess": [7, 0], "error": [7, 0]}
    found = motion_stats.temporal_error(static, video)
    assert found["excess"].tolist() == [-7, 0] and found["error"].tolist() == [7, 0]
    assert motion_stats.temporal_error(video, video[:, ::-1])["error"].tolist() == [14, 0]
    np.testing.assert_array_equal(motion_stats.frame_changes(video), [[7, 7, 7], [0, 0, 0]])


def test_temporal_error_leaves_out_motion_and_what_stays():
    video = noise(3, 5, high=200)
    picture = noise(3, 1, seed=1, high=50)
    found = motion_stats.temporal_error(video + picture, video)
    np.testing.assert_allclose(found["error"], 0)
    np.testing.assert_allclose(found["change"], found["reference"])
    other = motion_stats.temporal_error(video, noise(3, 5, seed=2))
    assert (other["error"] >= np.abs(other["excess"])).all()
    each = [abs(int(video[0, f + 1, y, x, c]) - int(video[0, f, y, x, c]))
            for f in range(4) for y in range(12) for x in range(16) for c in range(3)]
    assert other["change"][0] == pytest.approx(np.mean(each))


def test_motion_statistics_of_a_square_that_steps_are_its_closed_form():
    video = np.zeros((2, 4, 12, 16, 3), np.uint8)
    for frame in range(4):
        video[0, frame, 2:8, 3 * frame:3 * frame + 4, 1] = 200  # 6 rows, 4 columns, 3 to the right a frame
    found = motion_stats.motion_statistics(video, fps=8)
    pixels = 2 * 6 * 3  # uncovered and covered
    np.testing.assert_allclose(found["moving"], [pixels / (12 * 16), 0])
    np.testing.assert_allclose(found["change"], [pixels * 200 / (12 * 16 * 3), 0])
    np.testing.assert_allclose(found["motion"], [motion_score(video[0], 8), 0])
    faint = np.zeros((1, 2, 12, 16, 3), np.uint8)
    faint[0, 1, 0, 0], faint[0, 1, 1, 1, 2] = motion_stats.MOVING - 1, motion_stats.MOVING
    assert motion_stats.motion_statistics(faint)["moving"][0] == pytest.approx(1 / (12 * 16))


def test_sets_are_compared_as_distributions():
    real = motion_stats.motion_statistics(noise(6, 4), fps=8)
    same = {name: values[::-1] for name, values in real.items()}
    assert all(row["wasserstein"] == 0 and row["generated"] == pytest.approx(row["real"])
               for row in motion_stats.compare_motion(real, same).values())
    held = motion_stats.motion_statistics(motion_stats.controls(noise(4, 4), "static"), fps=8)
    for name, row in motion_stats.compare_motion(real, held).items():
        mean = real[name].mean()
        assert row == pytest.approx({"real": mean, "generated": 0, "wasserstein": mean})
    with pytest.raises(UserError, match="'change'.*both should"):
        motion_stats.compare_motion(real, {"change": real["change"]})


# --------------------------------------------------------------------------------------------------------- stories


def test_seam_jump_is_the_measure_of_stories_with_facts():
    """Steps of 2 within scenes, of 10 and 6 at the seams; and what story_scores finds where nothing is to change."""
    levels = np.array([[0, 2, 4, 14, 16, 18, 24, 26], [9, 11, 13, 15, 17, 19, 21, 23]], np.uint8)
    video = np.broadcast_to(levels[:, :, None, None, None], (2, 8, 32, 32, 3)).copy()
    found = motion_stats.seam_jump(video, [3, 6])
    assert found["at_seams"] == 10 and found["inside"] == 2 and found["ratio"] == 5
    assert found["worst_story"] == 5 and found["median_story"] == 3 and found["stories_at_most_1.5"] == 0.5
    assert found["per_video"][1] == {"at_seams": 2, "inside": 2}
    assert motion_stats.seam_jump(video, np.array([0, 3, 6])) == found
    story = [{"num_frames": count, "facts": {"colour": "red"}} for count in (3, 3, 2)]
    expected = sprites.story_scores(video, [story] * 2)["seam"]["pixels"]
    assert {name: value for name, value in found.items() if name != "per_video"} == expected
    assert motion_stats.seam_jump(video[:, :3], [1, 2])["ratio"] is None


def test_drift_of_one_story_against_scipy():
    y = np.random.default_rng(8).normal(size=9) - 0.3 * np.arange(9)
    line = stats.linregress(np.arange(9), y)
    found = motion_stats.drift(y, level=0.9)
    half = stats.t.ppf(0.95, 7) * line.stderr
    assert found["slope"] == pytest.approx(line.slope) and found["per_story"] == [pytest.approx(line.slope)]
    assert found["interval"] == pytest.approx([line.slope - half, line.slope + half])
    exact = motion_stats.drift([5, 3, 1])
    assert exact["slope"] == -2 and exact["interval"] == pytest.approx([-2, -2])
    assert motion_stats.drift([1, 4])["interval"] is None


def test_drift_of_stories_is_the_mean_of_their_slopes():
    rng = np.random.default_rng(9)
    held = 0
    for _ in range(200):
        y = rng.normal(size=(6, 5)).cumsum(1) + 0.5 * np.arange(5)  # noise that a line's residuals would understate
        found = motion_stats.drift(y)
        held += found["interval"][0] <= 0.5 <= found["interval"][1]
    assert 0.90 <= held / 200 <= 0.99
    interval = stats.ttest_1samp(found["per_story"], 0).confidence_interval(0.95)
    assert found["interval"] == pytest.approx([interval.low, interval.high])
    assert found["slope"] == pytest.approx(stats.linregress(np.arange(5), y.mean(0)).slope) and found["stories"] == 6


def test_switch_latency_counts_until_what_stays():
    shows = np.array([c == "1" for c in "1111" "0011" "0101" "1110" "00"])
    found = motion_stats.switch_latency(shows, [0, 4, 8, 12, 16])
    assert found == {"latency": [0, 2, 3, None, None], "never": 2, "median": 3}
    assert motion_stats.switch_latency(shows, [12, 16])["median"] is None
    assert motion_stats.switch_latency(shows, [4, 12])["latency"] == [7, None]  # a scene of eight frames, one of six
    for length in range(1, 6):  # switches at every possible frame
        for wait in range(length + 1):
            shows = np.arange(length) >= wait
            expected = wait if wait < length else None
            assert motion_stats.switch_latency(shows, [0])["latency"] == [expected]


# -------------------------------------------------------------------------------------------------------- controls


def test_controls_are_their_closed_forms():
    video = noise(3, 6)
    kept = video.copy()
    static, backward = (motion_stats.controls(video, kind) for kind in ("static", "reversed"))
    for f in range(6):
        np.testing.assert_array_equal(static[:, f], video[:, 0])
        np.testing.assert_array_equal(backward[:, f], video[:, 5 - f])
    held = motion_stats.controls(video, "copy_last", given=4)
    np.testing.assert_array_equal(held[:, :4], video[:, :4])
    np.testing.assert_array_equal(held[:, 4:], video[:, [3, 3]])
    np.testing.assert_array_equal(motion_stats.controls(video, "copy_last", given=6), video)
    np.testing.assert_array_equal(motion_stats.controls(video, "copy_last", given=1), static)
    for kind in motion_stats.CONTROLS:
        made = motion_stats.controls(video, kind, given=3)
        assert made.dtype == np.uint8 and made.shape == video.shape and not np.shares_memory(made, video)
    np.testing.assert_array_equal(video, kept)


def test_shuffled_clips_have_their_own_frames_in_orders_of_their_own():
    video = np.broadcast_to(np.arange(11, dtype=np.uint8)[None, :, None, None, None], (4, 11, 2, 2, 3))
    orders = motion_stats.controls(video, "shuffled", seed=3)[:, :, 0, 0, 0]
    np.testing.assert_array_equal(np.sort(orders, axis=1), video[:, :, 0, 0, 0])
    assert len(np.unique(orders, axis=0)) == 4
    np.testing.assert_array_equal(orders, motion_stats.controls(video, "shuffled", seed=3)[:, :, 0, 0, 0])
    assert (orders != motion_stats.controls(video, "shuffled", seed=4)[:, :, 0, 0, 0]).any()


def test_blurred_frames_are_smoothed_each_by_itself():
    point = np.zeros((1, 3, 21, 21, 3), np.uint8)
    point[0, 1, 10, 10, 2] = 255
    made = motion_stats.controls(point, "blurred", sigma=1.5)
    weight = np.exp(-np.arange(-6, 7) ** 2 / (2 * 1.5 ** 2))
    weight = np.outer(weight, weight) / weight.sum() ** 2
    np.testing.assert_array_equal(made[0, 1, 4:17, 4:17, 2], np.rint(255 * weight))
    assert made[0, [0, 2]].max() == 0 and made[..., :2].max() == 0
    flat = np.full((1, 2, 5, 5, 3), 255, np.uint8)
    np.testing.assert_array_equal(motion_stats.controls(flat, "blurred", sigma=3.0), flat)
    frame = noise(1, 1)
    expected = ndimage.gaussian_filter(frame[0, 0, :, :, 1].astype(float), 1.0)
    np.testing.assert_array_equal(motion_stats.controls(frame, "blurred")[0, 0, :, :, 1], np.rint(expected))


def test_clips_and_scenes_of_other_forms_are_refused():
    video, shows = noise(2, 4), np.ones(4, bool)
    for wrong in (video / 255.0, video[0], video[..., :1], video[:0]):
        for call in (lambda v: motion_stats.controls(v, "static"), motion_stats.motion_statistics,
                     lambda v: motion_stats.temporal_error(v, v), lambda v: motion_stats.seam_jump(v, [1])):
            with pytest.raises(UserError):
                call(wrong)
    for call, words in (
            (lambda: motion_stats.motion_statistics(video[:, :1]), "1 frames; it should have at least 2"),
            (lambda: motion_stats.motion_statistics(video, fps=0), "fps=0"),
            (lambda: motion_stats.temporal_error(video, video[:, :3]), "shapes"),
            (lambda: motion_stats.seam_jump(video, [0]), "names no seam"),
            (lambda: motion_stats.seam_jump(video, [2, 1]), r"starts=\[2, 1\]"),
            (lambda: motion_stats.seam_jump(video, [4]), "from 0 to 3"),
            (lambda: motion_stats.switch_latency(shows, [0.5]), r"starts=\[0.5\]"),
            (lambda: motion_stats.switch_latency(shows, 1), "starts=1"),
            (lambda: motion_stats.switch_latency(shows.astype(int), [0]), "shows_new is int64"),
            (lambda: motion_stats.drift([1]), r"shape \(1,\)"),
            (lambda: motion_stats.drift([[1, np.nan]]), "finite"),
            (lambda: motion_stats.drift([1, 2, 3], level=1), "level=1"),
            (lambda: motion_stats.controls(video, "still"), "kind='still' is unknown; it is one of static, shuffled"),
            (lambda: motion_stats.controls(video, "copy_last"), "given=None"),
            (lambda: motion_stats.controls(video, "copy_last", given=5), "given=5 .* at most 4"),
            (lambda: motion_stats.controls(video, "blurred", sigma=0), "sigma=0")):
        with pytest.raises(UserError, match=words):
            call()
