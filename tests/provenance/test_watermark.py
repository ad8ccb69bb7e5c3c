"""The watermark: its code against brute force, its null distribution, frame by frame, bounds, and H.264."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from data.sprite_stories import world
from phenaki_jax import media
from phenaki_jax.benchmark import watermark as benchmark
from phenaki_jax.errors import UserError
from phenaki_jax.evaluation.distances import psnr_per_video
from phenaki_jax.provenance import codes, watermark

PAYLOADS = (0, 1, 0xDEADBEEF, 2**32 - 1)


def textured(seed: int, height: int = 128, width: int = 128, frames: int = 3) -> np.ndarray:
    """Smooth blobs and noise that move a little, uint8 [F, Y, X, 3]."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (1, 12, 12, 3), dtype=np.uint8)
    whole = media.resize(small, height, width + 2 * frames)[0].astype(np.float64)
    whole += rng.normal(0, 8, whole.shape)
    film = np.stack([whole[:, 2 * i:2 * i + width] for i in range(frames)])
    return np.clip(np.rint(film), 0, 255).astype(np.uint8)


def sprites(seed: int, frames: int = 11, size: int = 32) -> np.ndarray:
    rng = np.random.default_rng(seed)
    facts = world.sample_facts(rng, held_out=None, image_only=True)
    return media.enlarge(world.make_clip(rng, facts, frames=frames, size=size), 128 // size)


def flat(*colour: int) -> np.ndarray:
    return np.broadcast_to(np.array(colour, np.uint8), (11, 128, 128, 3)).copy()


# ------------------------------------------------------------------------------------------------- the code

def gf_multiply(a: int, b: int) -> int:
    """Bit by bit in GF(2^8) / (x^8 + x^4 + x^3 + x^2 + 1)."""
    product = 0
    while b:
        product ^= a * (b & 1)
        a, b = (a << 1) ^ (0x11D if a & 0x80 else 0), b >> 1
    return product


def test_words_have_the_roots_that_keep_them_91_bits_apart():
    powers = [1]
    for _ in range(254):
        powers.append(gf_multiply(powers[-1], 2))
    assert len(set(powers)) == 255  # the element is primitive
    rows = codes.generator_matrix()
    for row in rows:
        terms = len(row) - 1 - np.flatnonzero(row)  # the row as a polynomial, highest power first
        for root in range(1, codes.DISTANCE):
            assert np.bitwise_xor.reduce([powers[root * int(t) % 255] for t in terms]) == 0
    assert np.linalg.matrix_rank(rows.astype(float)) == codes.BITS and rows.shape == (32, 250)


def test_two_words_are_at_least_91_bits_apart():
    rng = np.random.default_rng(0)
    rows = codes.generator_matrix()
    few = [list(c) for n in (1, 2, 3) for c in itertools.combinations(range(32), n)]
    weights = [int((rows[c].sum(0) % 2).sum()) for c in few]
    weights += [int((rows[rng.random(32) < 0.5].sum(0) % 2).sum()) for _ in range(2000)]
    assert min(w for w in weights if w) >= codes.DISTANCE


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_message_comes_back_from_its_word(payload):
    word = codes.encode(payload)
    assert [int(bit) for bit in f"{payload:032b}"] == [int(sign < 0) for sign in word[:32]]
    message, again = codes.decode(word)
    assert message == payload and np.array_equal(again, word)


def test_decoding_is_as_good_as_trying_all_words_of_a_small_code():
    """(31, 11), all 2,048 words: bits that are wrong among the 11 surest are at most 3 in nearly all of these draws."""
    generator = np.zeros((11, 31), np.uint8)  # x^20 + ... of the BCH code (31, 11, 11), Lin & Costello, appendix C
    polynomial = [int(b) for b in f"{0o5423325:b}"]
    for i in range(11):
        generator[i, i:i + 21] = polynomial
    matrix = codes._reduced(generator)[0]
    words = codes.signs(np.array(list(itertools.product((0, 1), repeat=11))) @ matrix % 2)
    assert sorted({int((w < 0).sum()) for w in words})[1] == 11  # the code's distance: the polynomial is the right one
    rng, equal = np.random.default_rng(0), 0
    for _ in range(300):
        soft = words[rng.integers(2048)] * 0.6 + rng.normal(size=31)
        message, word = codes.decode(soft, matrix)
        best = words[np.argmax(words @ soft)]
        assert word @ soft <= best @ soft + 1e-5
        assert np.array_equal(codes.signs(np.array([int(b) for b in f"{message:011b}"]) @ matrix % 2), word)
        equal += np.array_equal(word, best)
    assert equal >= 297


def test_any_three_of_the_surest_bits_may_be_wrong_and_forty_others():
    rng, sureness = np.random.default_rng(2), np.linspace(1.1, 1, codes.LENGTH)  # the message's own bits are surest
    for _ in range(50):
        message = int(rng.integers(1 << 32))
        wrong = np.concatenate([rng.choice(32, 3, replace=False), 32 + rng.choice(218, 40, replace=False)])
        soft = codes.encode(message) * sureness
        soft[wrong] *= -1
        assert codes.decode(soft)[0] == message


def test_a_fifth_of_all_bits_wrong_by_gaussian_noise_is_mended():
    rng, wrong = np.random.default_rng(1), []
    for _ in range(50):
        message = int(rng.integers(1 << 32))
        soft = codes.encode(message) * 0.9 + rng.normal(size=codes.LENGTH)
        wrong.append(np.mean((soft < 0) != (codes.encode(message) < 0)))
        assert codes.decode(soft)[0] == message
    assert np.mean(wrong) > 0.17


# ------------------------------------------------------------------------------------------------- marking

@pytest.mark.parametrize("frames", [textured(0), sprites(0), flat(0, 0, 0), flat(255, 255, 255), flat(0, 0, 255),
                                    flat(95, 95, 95), textured(1, 131, 203), textured(2, 144, 250)],
                         ids=["texture", "sprites", "black", "white", "blue", "grey", "odd", "wide"])
def test_payloads_come_back_and_no_frame_loses_more_than_38_db(frames):
    for payload in PAYLOADS:
        marked = watermark.mark(frames, payload)
        found = watermark.find(marked)
        assert found.payload == payload and found.score > 13 and found.errors < 20
        assert found.chance == pytest.approx(2.0**32 * math.exp(-found.score**2 / 2))
        assert marked.dtype == np.uint8 and psnr_per_video(frames[:, None], marked[:, None]).min() >= 38
    assert watermark.find(frames) is None


def test_what_would_change_more_is_held_at_38_db():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (2, 128, 128, 3), dtype=np.uint8)
    checks = np.where(rng.random((2, 128, 128, 1)) < 0.5, 0, 255).astype(np.uint8).repeat(3, axis=-1)
    grain = np.clip(128 + rng.normal(0, 18, (2, 256, 256, 1)), 0, 255).astype(np.uint8).repeat(3, axis=-1)
    lowest = []
    for frames in (noise, checks, grain):
        lowest.append(psnr_per_video(frames[:, None], watermark.mark(frames, 7)[:, None]).min())
    assert min(lowest) >= 38 and min(lowest) < 38.2  # the bound is what stops one of them


def test_frames_are_marked_each_for_itself():
    one, other = textured(3), sprites(4, 2)
    parts = np.concatenate([watermark.mark(one, 5), watermark.mark(other, 5)])
    assert np.array_equal(watermark.mark(np.concatenate([one, other]), 5), parts)
    assert np.array_equal(watermark.mark(np.concatenate([one, other])[::-1], 5), parts[::-1])
    assert watermark.mark(one[:0], 5).shape == (0, 128, 128, 3)


@pytest.mark.parametrize("size", [32, 128])
def test_the_mark_is_grey_and_beside_an_edge_as_weak_as_elsewhere_in_the_flat(size):
    """A cell of which two quarters are flat is marked as one that is flat, whatever edge lies in the others."""
    frames = sprites(3, 2, size)
    change = watermark.mark(frames, 1).astype(int) - frames
    assert np.array_equal(change[..., 0], change[..., 2]) and change.std() > 0.9  # nothing is clipped here
    quarters = np.ptp(frames[..., 0].reshape(2, 16, 2, 4, 16, 2, 4).astype(int), axis=(3, 6)).swapaxes(2, 3)
    half_flat = (quarters == 0).sum((3, 4)) >= 2
    edges = half_flat & (np.ptp(frames[..., 0].reshape(2, 16, 8, 16, 8).astype(int), axis=(2, 4)) > 100)
    largest = np.abs(change[..., 0]).reshape(2, 16, 8, 16, 8).max((2, 4))
    assert edges.sum() > 8 and largest[half_flat].max() <= 4


def test_what_is_painted_over_a_part_is_outvoted():
    marked = watermark.mark(textured(10), 4)
    marked[:, 20:84, 30:94] = np.random.default_rng(0).choice(np.array([0, 255], np.uint8), (3, 64, 64, 1))
    assert watermark.find(marked).payload == 4


def test_a_mark_is_read_after_resizing():
    marked = watermark.mark(textured(5, 256, 256, 4), 99)
    for height, width in ((128, 128), (144, 320), (200, 100)):
        assert watermark.find(media.resize(marked, height, width)).payload == 99
    assert watermark.find(media.resize(marked, 60, 128)) is None  # cells of less than 4 pixels


def test_analysis_is_the_inverse_of_synthesis():
    table = np.random.default_rng(0).normal(size=(16, 2, 16, 2)).astype(np.float32)
    for height, width in ((128, 128), (131, 203), (720, 130)):
        back = watermark._analyse(watermark._synthesise(table, height, width))
        np.testing.assert_allclose(back[:, 2:, :, 2:], table, atol=1e-5)
        np.testing.assert_allclose(back[:, :2, :, :2].mean((1, 3)), 0, atol=0.05)


def test_coefficients_are_scipys():
    from scipy import fft
    frame = textured(6)[0]
    luma = frame @ watermark.LUMA
    x, _ = watermark._coefficients(luma)
    cells = fft.dctn(luma.reshape(16, 8, 16, 8), axes=(1, 3), norm="ortho")
    expected = np.concatenate([cells[:, v, :, h].ravel() for v, h in watermark.FREQUENCIES])
    np.testing.assert_allclose(x, expected, atol=1e-3)


# ------------------------------------------------------------------------------------------------- what is not marked

def test_the_key_spreads_signs_and_bits_evenly():
    sign, bit = watermark._key()
    assert abs(sign.mean()) < 4 / math.sqrt(len(sign)) and set(np.unique(sign)) == {-1, 1}
    assert set(np.bincount(bit)) <= {3, 4} and len(np.bincount(bit)) == 250
    assert sign[:8].tolist() == [1, -1, 1, 1, -1, 1, 1, -1]  # never to be changed, or old files are not read
    assert bit[:8].tolist() == [24, 128, 89, 243, 160, 107, 1, 163]


@pytest.mark.parametrize("frames", [textured(8, frames=1), sprites(4, 1, 128)], ids=["texture", "sprites"])
def test_without_a_mark_scores_are_as_stated_whatever_the_clip_shows(frames):
    """One clip, 3,000 keys: a payload's score is a sum of coins of norm 1, near a standard normal, below its bound."""
    scores = np.array([watermark.soft_bits(frames, b"%d" % k) @ codes.encode(12345) for k in range(3000)])
    assert stats.kstest(scores, "norm").pvalue > 0.001
    assert abs(scores.mean()) < 4 / math.sqrt(3000) and abs(scores.std() - 1) < 4 / math.sqrt(6000)
    for t in (1, 2, 2.5, 3):
        assert np.mean(scores >= t) <= math.exp(-t * t / 2)


def test_the_best_of_all_payloads_scores_as_coins_do():
    """Unmarked clips under the real key beside soft bits whose signs are tossed."""
    rng, best, coins = np.random.default_rng(0), [], []
    for seed in range(200):
        soft = watermark.soft_bits(textured(100 + seed, frames=1))
        tossed = soft * rng.choice([-1, 1], soft.shape)
        for list_, values in ((best, soft), (coins, tossed)):
            list_.append(values @ codes.decode(values)[1])
    assert stats.ks_2samp(best, coins).pvalue > 0.001
    assert max(best) < watermark.THRESHOLD


def test_the_threshold_is_that_of_the_stated_rate():
    assert 2.0**watermark.PAYLOAD_BITS * math.exp(-watermark.THRESHOLD**2 / 2) == pytest.approx(
        watermark.FALSE_POSITIVE_RATE)


def test_a_mark_of_another_key_is_none():
    frames = watermark.mark(textured(9), 3)
    other = watermark.soft_bits(frames, b"another key")
    assert other @ codes.decode(other)[1] < watermark.THRESHOLD


# ------------------------------------------------------------------------------------------------- files

@pytest.mark.parametrize("frames", [sprites(11), sprites(12), flat(0, 0, 0), flat(10, 10, 10), flat(255, 0, 0),
                                    textured(13, frames=11)],
                         ids=["sprites", "sprites2", "black", "dark", "red", "texture"])
def test_h264_at_crf_23_keeps_it(frames):
    found = watermark.find(benchmark.written(watermark.mark(frames, 0xC0FFEE)))
    assert found.payload == 0xC0FFEE and found.score > 10
    assert watermark.find(benchmark.written(frames)) is None


def test_what_does_not_fit_is_said():
    frames = textured(0)
    with pytest.raises(UserError, match="120 x 128 are too small for a watermark; both sides should be at least 128"):
        watermark.mark(frames[:, :120], 0)
    assert watermark.fits(128, 128) and not watermark.fits(128, 127)
    for payload in (-1, 2**32, 1.5):
        with pytest.raises(UserError, match="payload="):
            watermark.mark(frames, payload)
    for wrong in (frames.astype(np.float32), frames[0], frames[..., :2]):
        with pytest.raises(UserError, match="are no video"):
            watermark.mark(wrong, 0)
        with pytest.raises(UserError, match="are no video"):
            watermark.find(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("kind", benchmark.KINDS)
def test_the_bars(kind):
    """Those of docs/watermark.md on fewer clips; the films need the extra `clips`."""
    row = benchmark.read_back(kind, 60)
    assert row["read"] >= 59 and row["wrong"] == 0 and row["psnr"][0] >= 38
    unmarked = benchmark.scores(kind, 150)
    assert unmarked["found"] == 0 and unmarked["p_best"] > 0.001 and unmarked["p_one"] > 0.001
