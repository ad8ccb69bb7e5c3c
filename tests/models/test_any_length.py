"""Videos of any length and shape: in stretches as at once, at other resolutions, in frames that do not fit."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from phenaki_jax.errors import UserError
from phenaki_jax.layers.positions import GridPositions
from phenaki_jax.models.cvivit import CViViT, CViViTConfig, causal_mask
from phenaki_jax.models.tree import Pure
from phenaki_jax.bound import Tokenizer

SIZES = dict(frames=5, height=8, width=12, patch=(2, 4, 4), embed_dim=16, heads=2, mlp_dim=32, spatial_layers=2,
             temporal_layers=2, quantizer="fsq", codebook_size=240, levels=(8, 6, 5))
PRESETS = {"paper": {}, "interleaved": dict(blocks="interleaved", rotary=True, qk_norm=True),
           "window": dict(window=2, first_frame="repeated"),
           "convolutions": dict(stem=(6, 8), blocks="interleaved", qk_norm=True, first_frame="repeated"),
           "frames": dict(patch=(1, 4, 4), temporal_layers=0, stem=(6,), stem_frames=1)}


@pytest.fixture(scope="module", params=PRESETS)
def tokenizer(request):
    sizes = CViViTConfig(**{**SIZES, **PRESETS[request.param]})
    pure = Pure(lambda rngs: CViViT(sizes, rngs=rngs), sizes)
    return Tokenizer(pure, *jax.jit(pure.init)(jax.random.key(0)))


def clip(frames, height=8, width=12, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (2, frames, height, width, 3)).astype(np.float32)


def whole(tokenizer, method, x):
    """All at once: `_encode` and `_decode` are compiled calls of the model's own encode and decode."""
    return getattr(tokenizer, f"_{method}")(tokenizer.params, tokenizer.variables, x)


@pytest.mark.parametrize("reach, past", [(1, 0), (3, 2), (9, 4)])
def test_the_mask_is_what_its_sentence_says(reach, past):
    for known in range(past + 1):
        mask = np.asarray(causal_mask(4, reach, past, known))
        for i, column in itertools.product(range(4), range(past + 4)):
            j = column - past
            assert mask[i, column] == (i - reach < j <= i and j >= -known)


@pytest.mark.parametrize("cuts", [[1, 3, 5, 13], [5, 9, 13]])
def test_stretches_give_the_tokens_and_frames_of_the_whole(tokenizer, cuts):
    video = clip(13)
    tokens = whole(tokenizer, "encode", video)
    frames = whole(tokenizer, "decode", tokens)
    arrays = tokenizer.params, tokenizer.variables
    memory = restored = None
    parts, pictures = [], []
    for start, end in zip([0, *cuts], cuts):
        part, memory = tokenizer._encode_chunk(*arrays, video[:, start:end], memory)
        picture, restored = tokenizer._decode_chunk(*arrays, part, restored)
        parts, pictures = [*parts, part], [*pictures, picture]
    np.testing.assert_array_equal(np.concatenate(parts, 1), tokens)
    np.testing.assert_allclose(np.concatenate(pictures, 1), frames, atol=1e-5)


@pytest.mark.parametrize("frames", [1, 4, 12])
def test_any_number_of_frames_goes_in_and_comes_out(tokenizer, frames):
    """Frames are filled up with the last one; a long video goes through in stretches, whatever its length."""
    video = clip(frames)
    missing = -(frames - 1) % tokenizer.config.patch[0]
    padded = np.concatenate([video, video[:, -1:]], 1) if missing else video
    tokens = tokenizer.encode(video)
    np.testing.assert_array_equal(tokens, whole(tokenizer, "encode", padded))
    restored = tokenizer.decode(tokens, frames)
    assert restored.shape == video.shape
    np.testing.assert_allclose(restored, whole(tokenizer, "decode", tokens)[:, :frames], atol=1e-5)


def test_uint8_and_float_are_the_same_video(tokenizer):
    pixels = np.random.default_rng(1).integers(0, 256, (1, 5, 8, 12, 3), np.uint8)
    np.testing.assert_array_equal(tokenizer.encode(pixels), tokenizer.encode(pixels.astype(np.float32) / 127.5 - 1))


def test_a_long_video_needs_the_memory_of_a_stretch(tokenizer):
    """Two shapes are compiled for any length, the first stretch and each after it, and what is carried is bounded."""
    tokenizer._encode_chunk.clear_cache(), tokenizer._decode_chunk.clear_cache()
    for frames in (9, 150):
        tokenizer.decode(tokenizer.encode(clip(frames)), frames)
    assert tokenizer._encode_chunk._cache_size() == tokenizer._decode_chunk._cache_size() == 2
    sizes = tokenizer.config
    _, ((keys, values, known), frames) = tokenizer._encode_chunk(tokenizer.params, tokenizer.variables, clip(5), None)
    assert keys.shape == values.shape == (sizes.temporal_layers, 2 * 2 * 3, sizes.reach - 1, 2, 8)
    assert known == sizes.latent_frames(5)
    assert {x.shape[1] for x in jax.tree.leaves(frames)} == ({sizes.stem_frames - 1} if sizes.stem else set())


def test_attention_sees_as_far_as_its_window():
    """One layer: what lies a window back moves nothing, what lies inside it does."""
    sizes = CViViTConfig(**{**SIZES, "temporal_layers": 1, "spatial_layers": 1, "window": 3})
    pure = Pure(lambda rngs: CViViT(sizes, rngs=rngs), sizes)
    model = pure.bind(*pure.init(jax.random.key(0)))
    video = clip(13)  # latent steps 0..6
    vectors = jax.jit(lambda video: model.encoder(model._patches(video, True)[0]))
    changed = video.copy()
    changed[:, 3:5] *= -1  # latent step 2
    before, after = vectors(video), vectors(changed)
    moved = np.abs(np.asarray(before - after)).max(axis=(0, 2, 3, 4)) > 0
    np.testing.assert_array_equal(moved, [False, False, True, True, True, False, False])


def test_other_resolutions_go_through(tokenizer):
    video = clip(3, height=20, width=4)
    tokens = tokenizer.encode(video)
    assert tokens.shape == (2, tokenizer.config.latent_frames(3), 5, 1)
    assert tokenizer.decode(tokens).shape == video.shape
    np.testing.assert_array_equal(tokens[:, :1], tokenizer.encode(video[:, :1]))


def test_positions_are_stretched_evenly():
    """Twice as many places: each old one is met at a quarter before and after its centre, as linear ramps show."""
    positions = GridPositions((4, 2), 3, stretch=True, rngs=nnx.Rngs(0))
    positions.axis_0[...] = jnp.arange(4.0)[:, None] * jnp.ones(3)
    positions.axis_1[...] = jnp.zeros((2, 3))
    np.testing.assert_allclose(positions(8, 2)[:, 0, 0], [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3], atol=1e-6)
    np.testing.assert_allclose(positions(2, 2)[:, 0, 0], [0.5, 2.5], atol=1e-6)
    np.testing.assert_array_equal(positions(4, 2), positions())


@pytest.mark.parametrize("shape, words", [
    ((1, 5, 8, 13, 3), "8 x 13.*8 x 16"), ((1, 0, 8, 12, 3), "at least 1 frame"), ((5, 8, 12, 3), "B, F, Y, X, 3")])
def test_what_fits_no_patch_is_refused(tokenizer, shape, words):
    with pytest.raises(UserError, match=words):
        tokenizer.encode(np.zeros(shape, np.float32))


@pytest.mark.parametrize("tokenizer", ["paper"], indirect=True)
def test_a_stretch_that_ends_inside_a_patch_is_refused(tokenizer):
    model = tokenizer.pure.bind(tokenizer.params, tokenizer.variables)
    memory = model.encoder.no_past(2 * 2 * 3)
    with pytest.raises(UserError, match="frames=3 do not continue"):
        model.encode_chunk(clip(3), (memory, ()))
    with pytest.raises(UserError, match="frames=4"):
        model.encode_chunk(clip(4), None)
    with pytest.raises(UserError, match="at least 1 step"):
        tokenizer.decode(np.zeros((1, 0, 2, 3), np.int32))


@pytest.mark.parametrize("change, words", [
    ({"window": -1}, "tokenizer.window=-1"), ({"blocks": "mixed"}, "tokenizer.blocks='mixed'"),
    ({"blocks": "interleaved", "spatial_layers": 1}, "tokenizer.spatial_layers=1"),
    ({"spatial_layers": 0}, "tokenizer.spatial_layers=0"), ({"stem": (8, 8, 8)}, "at most 2 fit"),
    ({"stem": (8,), "stem_frames": 0}, "tokenizer.stem_frames=0")])
def test_sizes_that_do_not_fit_are_refused(change, words):
    with pytest.raises(UserError, match=words):
        CViViTConfig(**{**SIZES, **change})
