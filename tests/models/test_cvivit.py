"""C-ViViT: causality to the bit, images as first frames, shapes, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from phenaki_jax.errors import UserError
from phenaki_jax.models.cvivit import CViViT, CViViTConfig
from phenaki_jax.models.stem import from_patches, to_patches
from phenaki_jax.models.tree import Pure

SIZES = dict(frames=11, height=16, width=24, patch=(2, 8, 8), embed_dim=16, heads=2, mlp_dim=32, spatial_layers=1,
             temporal_layers=2, codebook_size=240, code_dim=8, levels=(8, 6, 5))


QUANTIZERS = {"fsq": {}, "vq": {}, "lfq": {"codebook_size": 256}, "bsq": {"codebook_size": 256},
              "vq, learned, rotation": {"codebook_update": "gradient", "gradient": "rotation"},
              "bsq, rotation": {"codebook_size": 256, "gradient": "rotation"}}
MODERN = dict(first_frame="repeated", blocks="interleaved", temporal_layers=1, rotary=True, qk_norm=True, stem=(8,))
QUANTIZERS |= {"fsq, modern": MODERN, "vq, modern": MODERN}


def quantizer_sizes(name):
    return CViViTConfig(**{**SIZES, "quantizer": name.split(",")[0], **QUANTIZERS[name]})


@pytest.fixture(scope="module", params=["fsq", "vq", "lfq", "bsq", "fsq, modern", "vq, modern"])
def codec(request):
    sizes = quantizer_sizes(request.param)
    pure = Pure(lambda rngs: CViViT(sizes, rngs=rngs))
    params, variables = jax.jit(pure.init)(jax.random.key(0))
    bind = lambda: pure.bind(params, variables)
    encode = jax.jit(lambda video: bind().encode(video))
    decode = jax.jit(lambda tokens: bind().decode(tokens))
    reconstruct = jax.jit(lambda video: bind()(video)[0])
    return encode, decode, reconstruct


@pytest.fixture(scope="module")
def video():
    return jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (3, 11, 16, 24, 3)), jnp.float32)


def test_patches_are_cut_and_put_back_in_order(video):
    patches = np.asarray(to_patches(video[:, 1:], (2, 8, 8)))
    np.testing.assert_array_equal(patches[1, 2, 1, 2].reshape(2, 8, 8, 3), video[1, 5:7, 8:16, 16:24])
    np.testing.assert_array_equal(from_patches(patches, (2, 8, 8)), video[:, 1:])


@pytest.mark.parametrize("step", range(5))
def test_nothing_before_a_change_moves_by_a_bit(codec, video, step):
    encode, decode, reconstruct = codec
    frames = 1 + 2 * step
    changed = video.at[:, frames:].set(-video[:, frames:])
    tokens, other = encode(video), encode(changed)
    np.testing.assert_array_equal(tokens[:, :step + 1], other[:, :step + 1])
    assert np.any(tokens[:, step + 1:] != other[:, step + 1:])
    np.testing.assert_array_equal(reconstruct(video)[:, :frames], reconstruct(changed)[:, :frames])
    mixed = jnp.concatenate([tokens[:, :step + 1], (tokens[:, step + 1:] + 1) % 240], axis=1)
    np.testing.assert_array_equal(decode(tokens)[:, :frames], decode(mixed)[:, :frames])


def test_an_image_has_the_tokens_of_the_same_first_frame(codec, video):
    encode, decode, _ = codec
    whole, alone = encode(video), encode(video[:, :1])
    np.testing.assert_array_equal(whole[:, :1], alone)
    np.testing.assert_allclose(decode(whole)[:, :1], decode(alone), atol=1e-5)


@pytest.mark.parametrize("change", [{}, {"blocks": "interleaved", "temporal_layers": 1, "stem": (8,)}])
def test_a_still_video_has_the_tokens_of_its_image_at_every_step(video, change):
    """Where the first frame is one of equal frames to the model too; apart, the tokens of an image are its own."""
    still = jnp.repeat(video[:, 3:4], 11, axis=1)
    for first_frame in ("repeated", "apart"):
        sizes = CViViTConfig(quantizer="fsq", first_frame=first_frame, **{**SIZES, **change})
        pure = Pure(lambda rngs: CViViT(sizes, rngs=rngs))
        model = pure.bind(*jax.jit(pure.init)(jax.random.key(0)))
        tokens = np.asarray(model.encode(still))
        assert np.all(tokens == tokens[:, :1]) == (first_frame == "repeated")
        if first_frame == "repeated" and not change:  # the image is the last frame of a patch
            frames = np.asarray(model.decode(jnp.asarray(tokens)))
            np.testing.assert_allclose(frames[:, 2::2], np.repeat(frames[:, :1], 5, 1), atol=1e-5)


def test_a_longer_clip_begins_with_the_tokens_of_a_shorter_one(codec, video):
    encode, decode, _ = codec
    longer = jnp.concatenate([video, video[:, ::-1]], axis=1)[:, :21]
    tokens = encode(longer)
    assert tokens.shape == (3, 11, 2, 3)
    np.testing.assert_array_equal(tokens[:, :6], encode(video))
    assert decode(tokens).shape == (3, 21, 16, 24, 3)


def test_decoding_the_tokens_is_the_reconstruction(codec, video):
    encode, decode, reconstruct = codec
    tokens = encode(video)
    assert tokens.dtype == jnp.int32 and tokens.shape == (3, 6, 2, 3)
    np.testing.assert_allclose(decode(tokens), jnp.clip(reconstruct(video), -1, 1), atol=2e-5)


@pytest.mark.parametrize("name", QUANTIZERS)
def test_every_quantizer_trains_what_comes_before_and_after_it(video, name):
    """Each parameter has a gradient of the reconstruction and the quantizer's loss, and codes are counted."""
    pure = Pure(lambda rngs: CViViT(quantizer_sizes(name), rngs=rngs))
    params, variables = jax.jit(pure.init)(jax.random.key(0))

    def loss(params):
        model = pure.bind(params, variables)
        reconstruction, quantized = model(video, train=True, key=jax.random.key(1))
        return jnp.mean((reconstruction - video) ** 2) + quantized.loss, pure.variables(model)

    grads, after = jax.jit(jax.grad(loss, has_aux=True))(params)
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        assert np.isfinite(grad).all() and np.any(grad != 0), path
    np.testing.assert_allclose(after["quantizer"]["counts"].sum(), 0.01 * 3 * 6 * 2 * 3, rtol=0.1)


@pytest.mark.parametrize("shape, words", [((1, 10, 16, 24, 3), "9 or 11"), ((1, 11, 20, 24, 3), "20 x 24.*24 x 24")])
def test_a_clip_that_does_not_fit_is_refused_in_one_sentence(codec, shape, words):
    with pytest.raises(UserError, match=words):
        codec[0](jnp.zeros(shape))


@pytest.mark.parametrize("change, words", [
    ({"height": 20}, "tokenizer.height=20"), ({"frames": 12}, "frames=12"),
    ({"quantizer": "pq"}, "tokenizer.quantizer='pq'"),
    ({"first_frame": "same"}, "tokenizer.first_frame='same' is unknown; it is one of apart, repeated"),
    ({"quantizer": "fsq", "levels": (8, 8)}, "64 codes")])
def test_sizes_that_do_not_fit_are_refused(change, words):
    with pytest.raises(UserError, match=words):
        sizes = CViViTConfig(**{**SIZES, "quantizer": "fsq", **change})
        Pure(lambda rngs: CViViT(sizes, rngs=rngs))


def test_code_noise_disturbs_training_and_nothing_else(video):
    sizes = [CViViTConfig(quantizer="fsq", code_noise=noise, **SIZES) for noise in (0.0, 1.0)]
    clean, noisy = [Pure(lambda rngs, s=s: CViViT(s, rngs=rngs)) for s in sizes]
    arrays = clean.init(jax.random.key(0))
    call = lambda pure, train: pure.bind(*arrays)(video, train=train, key=jax.random.key(1))
    np.testing.assert_array_equal(call(noisy, False)[0], call(clean, False)[0])
    np.testing.assert_array_equal(call(noisy, True)[1].tokens, call(clean, True)[1].tokens)
    assert np.any(call(noisy, True)[0] != call(clean, True)[0])
    with pytest.raises(UserError, match="tokenizer.code_noise=-0.1"):
        CViViTConfig(code_noise=-0.1, **SIZES)


@pytest.mark.parametrize("preset", ["paper", "modern"])
def test_codes_of_nothing_but_zeros_do_not_blow_up_the_gradient(preset):
    """A norm of a zero vector has a gradient of 1 / sqrt(eps), and each norm behind it multiplies that."""
    sizes = CViViTConfig(**{**SIZES, "quantizer": "fsq", **(MODERN if preset == "modern" else {})})
    model = CViViT(sizes, rngs=nnx.Rngs(0))
    pull = jax.jit(jax.grad(lambda codes: jnp.mean(model._frames(model.decoder(codes), True)[0] ** 2)))
    codes = jax.random.normal(jax.random.key(1), (1, 6, 2, 3, 16))
    assert jnp.linalg.norm(pull(jnp.zeros_like(codes))) < 1e3 * jnp.linalg.norm(pull(codes))


def test_single_frames_are_tokenized_alike(video):
    """The baselines of table 3: no frame knows of another, and the first is like all others."""
    sizes = CViViTConfig(**{**SIZES, "quantizer": "fsq", "patch": (1, 8, 8), "temporal_layers": 0, "stem": (8,),
                            "stem_frames": 1})
    encode = jax.jit(CViViT(sizes, rngs=nnx.Rngs(0)).encode)
    tokens = encode(video)
    assert tokens.shape == (3, 11, 2, 3)
    np.testing.assert_array_equal(encode(video[:, ::-1]), tokens[:, ::-1])


def test_precision_is_the_configs_own():
    """matmul_precision does what JAX's setting of that name does, and holds against it."""
    def pure(precision):
        sizes = CViViTConfig(**{**SIZES, "frames": 3, "temporal_layers": 1, "quantizer": "fsq",
                                "matmul_precision": precision})
        return Pure(lambda rngs: CViViT(sizes, rngs=rngs))

    arrays = jax.jit(pure("default").init)(jax.random.key(0))

    def decoder(precision):
        return jax.jit(lambda tokens: pure(precision).bind(*arrays).decode(tokens))

    tokens = jax.random.randint(jax.random.key(1), (1, 2, 2, 3), 0, 240)
    plain, rounded, exact = (decoder(precision) for precision in ("default", "bfloat16", "float32"))
    with jax.default_matmul_precision("bfloat16"):
        asked, kept = plain(tokens), exact(tokens)
    np.testing.assert_array_equal(rounded(tokens), asked)
    np.testing.assert_allclose(kept, plain(tokens), atol=1e-6)
    apart = np.abs(asked - kept).max()
    assert 1e-4 < apart < 0.05, apart


def test_an_unknown_precision_is_refused():
    with pytest.raises(UserError, match="tokenizer.matmul_precision='half' is unknown; it is one of default, bfloat16"):
        CViViTConfig(matmul_precision="half")
