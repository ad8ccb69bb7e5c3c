"""From three tiny runs to files: training all stages for a step, then everything that a user does with the folder."""

import json

import jax
import numpy as np
import pytest

import phenaki_jax
from phenaki_jax import media
from phenaki_jax.__main__ import main
from phenaki_jax.errors import UserError

TINY = {"tokenizer.embed_dim": 16, "tokenizer.heads": 2, "tokenizer.mlp_dim": 32, "tokenizer.spatial_layers": 1,
        "generator.embed_dim": 16, "generator.heads": 2, "generator.mlp_dim": 32, "generator.layers": 1,
        "text.embed_dim": 16, "text.heads": 2, "text.head_dim": 8, "text.mlp_dim": 32, "text.layers": 1,
        "data.mixture": "sprite_tiny_80_20", "batch_size": 5, "train.steps": 2, "train.sample_every": 100,
        "optimizer.name": "adamw", "mesh.data": 1, "sampling.num_inference_steps": 2,
        "generator.conditions": ("motion", "fps", "noise"), "train.noise_augmentation": 0.5,
        "critic.embed_dim": 16, "critic.heads": 2, "critic.mlp_dim": 32, "critic.layers": 1,
        "tokenizer.patch": (2, 8, 4), "tokenizer.levels": (8, 5, 5, 5), "tokenizer.codebook_size": 1000}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from phenaki_jax.training.loop import train
    folder = tmp_path_factory.mktemp("run")
    for stage in ("tokenizer", "generator", "critic"):
        config = phenaki_jax.load_config(f"configs/quickstart.py:{stage}", TINY)
        config.data.data_dir = str(folder / "data")
        config.tokenizer_run = str(folder / "tokenizer") if stage == "generator" else ""
        config.generator_run = str(folder / "generator") if stage == "critic" else ""
        assert train(config, folder / stage, devices=jax.devices()[:1], tensorboard=False).finished
    return folder


@pytest.fixture(scope="module")
def pipe(folder):
    return phenaki_jax.PhenakiPipeline.from_pretrained(folder)


def test_clips_images_and_seeds(pipe):
    result = pipe(["a red circle", "a blue cross"], num_frames=11, seed=1)
    assert result.frames.shape == (2, 11, 32, 32, 3) and result.frames.dtype == np.uint8
    assert result.tokens.shape == (2, 6, 4, 8) and 0 <= result.tokens.min() and result.tokens.max() < 1000
    np.testing.assert_array_equal(result.frames, pipe(["a red circle", "a blue cross"], seed=1).frames)
    assert np.any(result.frames != pipe(["a red circle", "a blue cross"], seed=2).frames)
    decoded = media.to_uint8(pipe.tokenizer.decode(result.tokens))  # by another program: a rounding may differ
    assert np.abs(result.frames.astype(int) - decoded).max() <= 1
    assert pipe("a red circle", num_frames=1).frames.shape == (1, 1, 32, 32, 3)
    assert pipe("a red circle", num_frames=21, num_videos_per_prompt=2).frames.shape == (2, 21, 32, 32, 3)


def test_any_number_of_frames_is_the_beginning_of_whole_steps(pipe):
    np.testing.assert_array_equal(pipe("a red circle", num_frames=10, seed=1).frames,
                                  pipe("a red circle", num_frames=11, seed=1).frames[:, :10])
    assert pipe("a red circle", num_frames=2).frames.shape == (1, 2, 32, 32, 3)


def test_output_types_are_the_same_frames(pipe):
    plain = pipe("a red circle", seed=1)
    pictures = pipe("a red circle", seed=1, output_type="pil").frames
    assert len(pictures) == 1 and len(pictures[0]) == 11 and pictures[0][0].mode == "RGB"
    np.testing.assert_array_equal(np.stack([np.asarray(picture) for picture in pictures[0]]), plain.frames[0])
    on_device = pipe("a red circle", seed=1, output_type="jax")
    assert type(on_device.frames).__name__ == type(on_device.tokens).__name__ == "ArrayImpl"
    np.testing.assert_array_equal(on_device.frames, plain.frames)
    alone = pipe("a red circle", seed=1, output_type="tokens")
    assert alone.frames is None
    np.testing.assert_array_equal(alone.tokens, plain.tokens)


def test_smaller_pictures(pipe):
    small = pipe("a red circle", height=16, width=32, seed=1)
    assert small.frames.shape == (1, 11, 16, 32, 3) and small.tokens.shape == (1, 6, 2, 8)


def test_a_callback_sees_the_rounds_and_may_change_them(pipe):
    seen = []

    def watch(pipeline, step, steps, given):
        assert pipeline is pipe and set(given) == {"tokens", "confidence"}
        seen.append((step, steps, int((given["tokens"] == pipe.mask_id).sum())))
        assert ((given["confidence"] >= 0) & (given["confidence"] <= 1 + 1e-5)).all()

    options = dict(seed=1, num_inference_steps=4)
    plain = pipe("a red circle", **options)
    np.testing.assert_array_equal(pipe("a red circle", callback_on_step_end=watch, **options).tokens, plain.tokens)
    assert [entry[:2] for entry in seen] == [(i, 4) for i in range(4)]
    masked = [entry[2] for entry in seen]
    assert masked == sorted(masked, reverse=True) and masked[0] < 6 * 4 * 8 and masked[-1] == 0

    def fix(pipeline, step, steps, given):  # a corner is somebody's own from the first pass on
        given["tokens"][:, :, 0, 0] = 7
        return {"tokens": given["tokens"]} if step == 0 else None

    changed = pipe("a red circle", callback_on_step_end=fix, **options).tokens
    assert (changed[:, :, 0, 0] == 7).all() and changed.max() < pipe.mask_id

    def fill(pipeline, step, steps, given):  # all is decided after the first pass: nothing is left to draw
        return {"tokens": np.full_like(given["tokens"], 5)} if step == 0 else None

    assert (pipe("a red circle", callback_on_step_end=fill, **options).tokens == 5).all()


def test_a_story_takes_a_callback_and_an_output_type(pipe):
    steps = []
    told = pipe.story(["a red circle", "a blue cross"], num_frames=5, num_inference_steps=2, output_type="pil",
                      callback_on_step_end=lambda _, step, *rest: steps.append(step))
    assert steps == [0, 1, 0, 1] and len(told.frames[0]) == 10


def test_a_mesh_makes_the_same_tokens(folder, pipe):
    spread = phenaki_jax.PhenakiPipeline.from_pretrained(folder, mesh={"data": 2, "fsdp": 2, "tensor": 2})
    prompts = ["a red circle", "a blue cross", "a red cross"]  # three rows on two times two devices
    made, plain = (p(prompts, seed=3, num_frames=1).tokens for p in (spread, pipe))
    np.testing.assert_array_equal(made, plain)
    kernels = [leaf.sharding for leaf in jax.tree.leaves(spread.generator.params)]
    assert all(len(place.device_set) == 8 for place in kernels)
    assert any(not place.is_fully_replicated for place in kernels)


def test_a_video_depends_on_its_own_seed_alone(pipe):
    both = pipe(["a red circle", "a blue cross"], seed=4).tokens
    np.testing.assert_array_equal(both[1:], pipe("a blue cross", seed=5).tokens)
    np.testing.assert_array_equal(both[::-1], pipe(["a blue cross", "a red circle"], seed=[5, 4]).tokens)
    told = [[{"prompt": prompt, "num_frames": 11}, {"prompt": prompt, "num_frames": 6}] for prompt in "ab"]
    np.testing.assert_array_equal(pipe.stories(told, seed=4).tokens[1], pipe.story(told[1], seed=5).tokens[0])


def test_a_negative_prompt_and_a_preset_have_their_say(pipe):
    plain = pipe("a red circle", preset="nuwa").tokens
    np.testing.assert_array_equal(plain, pipe("a red circle", num_inference_steps=12, guidance_scale=0.1,
                                              temperature=4.0).tokens)
    away = pipe(["a red circle"] * 2, preset="nuwa", guidance_scale=9.0, negative_prompt=["red", "blue"], seed=[0, 0])
    assert np.any(away.tokens[0] != away.tokens[1])
    halton = pipe("a red circle", order="halton", remask=0.2, mask_schedule="arccos", guidance_schedule="linear")
    assert halton.frames.shape == (1, 11, 32, 32, 3)


def test_a_story_goes_on_from_its_last_frames(pipe):
    scenes = [{"prompt": "a red circle moves left", "num_frames": 11}, {"prompt": "it is blue", "num_frames": 4}]
    told = pipe.story(scenes, seed=3).frames
    assert told.shape == (1, 15, 32, 32, 3)
    other = pipe.story([scenes[0], {"prompt": "on gray", "num_frames": 4}], seed=3).frames
    np.testing.assert_array_equal(told[:, :11], other[:, :11])
    apart = pipe.story(scenes, seed=3, image_guidance_scale=3.0).frames  # the first scene is given nothing
    np.testing.assert_array_equal(told[:, :11], apart[:, :11])
    assert np.any(told[:, 11:] != apart[:, 11:])


def test_a_picture_is_set_in_motion_and_a_video_goes_on(pipe):
    """What is given comes back: the picture as the tokenizer gives it, the video as it is."""
    video = np.random.default_rng(0).integers(0, 256, (2, 7, 32, 32, 3), dtype=np.uint8)
    moving = pipe.animate(["a red circle moves left"] * 2, video[:, 0], num_frames=15, seed=3)
    assert moving.frames.shape == (2, 15, 32, 32, 3)
    np.testing.assert_array_equal(moving.frames[:, :1], pipe.reconstruct(video[:, :1]))
    np.testing.assert_array_equal(moving.tokens[:, :1], pipe.encode(video[:, :1]))
    longer = pipe.extend("a red circle moves left", video[0], num_frames=9, seed=3)
    assert longer.frames.shape == (1, 16, 32, 32, 3)
    np.testing.assert_array_equal(longer.frames[0, :7], video[0])
    changed = np.concatenate([255 - video[0, :2], video[0, 2:]])
    other = pipe.extend("a red circle moves left", changed, num_frames=9, seed=3)
    np.testing.assert_array_equal(longer.frames[:, 7:], other.frames[:, 7:])  # the last five frames are what counts


def test_what_is_told_beside_the_text_has_its_say(pipe):
    plain = pipe("a red circle", seed=1).tokens
    for told in ({"motion": "high"}, {"motion": 3}, {"fps": 24.0}):
        assert np.any(pipe("a red circle", seed=1, **told).tokens != plain)
    np.testing.assert_array_equal(pipe("a red circle", seed=1, motion=30.0).tokens,
                                  pipe("a red circle", seed=1, motion="high").tokens)
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    clean, noisy = (pipe.animate("a red circle", picture, seed=1, noise_augmentation=share).tokens
                    for share in (0.0, 0.9))
    np.testing.assert_array_equal(clean[:, 0], noisy[:, 0])  # what is given comes out as it is
    assert np.any(clean[:, 1:] != noisy[:, 1:])


def test_previews_come_from_the_same_rounds(pipe):
    steps = list(pipe.stream("a red circle", every=2, num_inference_steps=5, seed=3))
    assert len(steps) == 3 and all(step.frames.shape == (1, 11, 32, 32, 3) for step in steps)
    np.testing.assert_array_equal(steps[-1].tokens, pipe("a red circle", num_inference_steps=5, seed=3).tokens)
    assert np.any(steps[0].tokens != steps[-1].tokens)
    with pytest.raises(UserError, match="every=0"):
        pipe.stream("a", every=0)


def test_between_two_pictures_and_between_key_frames(pipe):
    """The two pictures are there as they are; the first step's tokens are the first picture's."""
    first, last = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    for count in (None, 5):
        made = pipe.interpolate(["a", "b"], first, last, num_frames=count, seed=1)
        assert made.frames.shape[:2] == (2, count or 11)
        np.testing.assert_array_equal(made.frames[:, [0, -1]], np.stack([np.stack([first, last])] * 2))
        np.testing.assert_array_equal(made.tokens[:, :1], pipe.encode(np.stack([first[None]] * 2)))
    sparse = pipe.animate("a", first, seed=1, fps=2.0).frames
    video = pipe.keyframes("a", num_keyframes=3, between=3, fps=8.0, image=first, seed=1)
    assert video.frames.shape == (1, 9, 32, 32, 3)
    np.testing.assert_array_equal(video.frames[:, ::4], sparse[:, :3])


def test_a_critic_is_sampled_with_where_it_is_trained(folder, pipe):
    with_critic = phenaki_jax.PhenakiPipeline.from_pretrained(folder / "critic")
    assert with_critic.config.sampling.order == "critic"
    made = with_critic("a red circle", num_inference_steps=4, seed=2).tokens
    assert made.shape == (1, 6, 4, 8) and made.max() < 1000
    confident = with_critic("a red circle", num_inference_steps=4, order="confidence", temperature=2.0, seed=2).tokens
    np.testing.assert_array_equal(confident, pipe("a red circle", num_inference_steps=4, seed=2).tokens)
    assert np.any(made != confident)
    with pytest.raises(UserError, match="order='critic' needs a critic"):
        pipe("a", order="critic")


def test_a_region_is_made_anew_and_the_rest_stays(pipe):
    """Tokens of 2 x 8 x 4 pixels, the first frame's of 1 x 8 x 4: those to which a masked pixel belongs, and no other.
    """
    video = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
    tokens = pipe.encode(video[None])[0]
    mask = np.zeros((7, 32, 32), bool)
    mask[2, 9, 13] = mask[5, 31, 0] = True  # latent steps 1 and 3
    made = pipe.inpaint("a red circle", video, mask, seed=1).tokens[0]
    kept = np.ones((4, 4, 8), bool)
    kept[1, 1, 3] = kept[3, 3, 0] = False
    np.testing.assert_array_equal(made[kept], tokens[kept])
    everywhere = pipe.inpaint(["a", "b"], video, np.ones((32, 32), bool), seed=2)
    assert everywhere.frames.shape == (2, 7, 32, 32, 3) and np.mean(everywhere.tokens != tokens) > 0.5


@pytest.mark.parametrize("call, words", [
    (lambda p, v: p.animate("a", v[0] / 255), "image is float64"),
    (lambda p, v: p.animate("a", v[0, :8]), "image is uint8"), (lambda p, v: p.animate("a", v[0, 0, 0, 0]), "image is"),
    (lambda p, v: p.animate("a", v[0, :, :, 0]), "image is uint8 of shape .32, 32.;"),
    (lambda p, v: p.animate("a", v[0], num_frames=1), "num_frames=1"),
    (lambda p, v: p.animate("", v[0]), "prompt is empty"),
    (lambda p, v: p.extend(["a", "b", "c"], np.stack([v, v]), num_frames=2), "for 3 prompts"),
    (lambda p, v: p.extend("a", v, num_frames=0), "num_frames=0"),
    (lambda p, v: p.extend("a", v[:0], num_frames=2), "video"),
    (lambda p, v: p.interpolate("a", v[0], v[0], num_frames=3), "num_frames=3"),
    (lambda p, v: p.interpolate("a", v[0], v[0], num_frames=13), "num_frames=13"),
    (lambda p, v: p.interpolate("a", v[0], v[0, :8]), "last_image is"),
    (lambda p, v: p.keyframes("a", num_keyframes=12), "num_keyframes=12"),
    (lambda p, v: p.keyframes("a", fps=3), "fps=3 leaves"), (lambda p, v: p.keyframes("a", fps="quick"), "fps='quick'"),
    (lambda p, v: p.keyframes("a", between=0), "between=0"), (lambda p, v: p.keyframes("a", between=2), "between=2"),
    (lambda p, v: p("a", motion="fast"), "low, medium, high"), (lambda p, v: p("a", motion=-1), "motion=-1"),
    (lambda p, v: p("a", fps=0), "fps=0"),
    (lambda p, v: p("a", noise_augmentation=2), "noise_augmentation=2"),
    (lambda p, v: p.inpaint("a", v[:6], np.ones((32, 32))), "frames=6"),
    (lambda p, v: p.inpaint("a", np.concatenate([v, v[1:]]), np.ones((32, 32))), "in 11 at most"),
    (lambda p, v: p.inpaint("a", v, np.ones((8, 8))), "mask has shape"),
    (lambda p, v: p.inpaint("a", v, np.zeros((32, 32))), "mask is empty")])
def test_what_cannot_be_gone_on_from_is_one_sentence(pipe, call, words):
    with pytest.raises(UserError, match=words):
        call(pipe, np.zeros((7, 32, 32, 3), np.uint8))


def test_reconstruction_is_decoding_of_encoding(pipe):
    video = np.random.default_rng(0).integers(0, 256, (2, 5, 32, 32, 3), dtype=np.uint8)
    np.testing.assert_array_equal(pipe.reconstruct(video), media.to_uint8(pipe.tokenizer.decode(pipe.encode(video))))


@pytest.mark.parametrize("call, words", [
    (lambda p: p("", num_frames=11), "prompt is empty"),
    (lambda p: p("a", width=12), "width=12 has to be a multiple of 8"),
    (lambda p: p("a", height=40), "height=40 has to be a multiple of 16, and at most 32"),
    (lambda p: p("a", output_type="gif"), "output_type='gif' is unknown; it is one of np, pil, jax, tokens"),
    (lambda p: p("a\udc80"), "is no Unicode text"), (lambda p: p("child porn"), "is refused: the deny list"),
    (lambda p: p("a", callback_on_step_end=lambda *_: {"tokens": np.zeros(3)}), "gave tokens float64"),
    (lambda p: p("a", callback_on_step_end=lambda *_: {"tokens": np.full((1, 6, 4, 8), 1001)}), "from 0 to 1000"),
    (lambda p: p("a", callback_on_step_end=lambda *_: [1]), "gave a list; it has to be None, or a dict"),
    (lambda p: p.stories(None), "stories=None has to be a list"), (lambda p: p("a", negative_prompt=5), "to be a text"),
    (lambda p: p("a", guidance_scale=float("inf")), "guidance_scale=inf"),
    (lambda p: p("a", num_frames=0), "num_frames=0"), (lambda p: p("a", num_inference_steps=0), "num_inference_steps"),
    (lambda p: p("a", num_frames="many"), "num_frames='many'"), (lambda p: p.story([]), "scenes"),
    (lambda p: p("a", num_frames=11.0), "num_frames=11.0"), (lambda p: p([]), "prompt=\\[\\] has to be"),
    (lambda p: p(5), "prompt=5 has to be"),
    (lambda p: p.story([{"num_frames": 3}]), "prompt"), (lambda p: p("a" * 88), "88 bytes"),
    (lambda p: p("a", seed=-1), "seed=-1"), (lambda p: p("a", seed=[1, 2]), "seed has 2 numbers; there are 1 videos"),
    (lambda p: p("a", seed=1.5), "seed=1.5"), (lambda p: p("a", steps=3), "sampling.steps"),
    (lambda p: p("a", negative_prompt="b", guidance_scale=0), "negative_prompt needs"),
    (lambda p: p("a", negative_prompt=["b", "c"]), "negative_prompt has 2"),
    (lambda p: p("a", negative_prompt=[3]), "or a list of texts"),
    (lambda p: p("a", negative_prompt="b" * 99), "99 bytes"), (lambda p: p("a", preset="best"), "preset='best'"),
    (lambda p: p.tokenizer.decode(np.full((1, 1, 4, 8), 1000)), "0..999"),
    (lambda p: p.encode(np.zeros((1, 11, 42, 32, 3), np.uint8)), "42 x 32"),
    (lambda p: p.stories([[{"prompt": "a", "num_frames": 11}], [{"prompt": "a", "num_frames": 12}]]), "same")])
def test_wrong_calls_are_one_sentence(pipe, call, words):
    with pytest.raises(UserError, match=words):
        call(pipe)


def test_fresh_models_are_ready_to_call():
    import jax.numpy as jnp
    config = phenaki_jax.load_config("configs/quickstart.py:generator", TINY)
    tokenizer, generator = phenaki_jax.create_tokenizer(config, seed=0), phenaki_jax.create_generator(config, seed=0)
    tokens = tokenizer.encode(np.zeros((2, 3, 32, 32, 3), np.float32))
    assert tokens.shape == (2, 2, 4, 8) and tokenizer.decode(tokens).shape == (2, 3, 32, 32, 3)
    ids = jnp.asarray([[70, 80, 1, 0], [70, 1, 0, 0]])
    logits = generator(tokens, ids)
    assert logits.shape == (2, 2, 4, 8, 1000)
    np.testing.assert_allclose(logits[1], generator(tokens[1:], ids[1:, :2])[0], atol=1e-4)  # padding is masked
    assert generator(tokens).shape == logits.shape  # without text: the unconditional model


def test_a_tokenizer_alone_reconstructs_and_says_that_it_cannot_generate(folder):
    alone = phenaki_jax.PhenakiPipeline.from_pretrained(folder / "tokenizer")
    video = np.zeros((1, 1, 32, 32, 3), np.uint8)
    assert alone.reconstruct(video).shape == video.shape
    for call in (alone, alone.keyframes, alone.stream):
        with pytest.raises(UserError, match="reconstruct only"):
            call("a red circle")


def test_the_command_line_on_a_run(folder, tmp_path, capsys):
    story = tmp_path / "story.json"
    story.write_text(json.dumps([{"prompt": "a red circle", "num_frames": 11}, {"prompt": "blue", "num_frames": 6}]))
    assert main(["generate", f"--model={folder}", f"--story={story}", f"--output={tmp_path / 'story.gif'}"]) == 0
    assert media.read_video(tmp_path / "story.gif")[0].shape[0] == 17
    media.write_video(tmp_path / "clip.mp4", np.zeros((11, 32, 32, 3), np.uint8), 8.0)
    assert main(["reconstruct", f"--model={folder}", f"--input={tmp_path / 'clip.mp4'}",
                 f"--output={tmp_path / 'again.mp4'}"]) == 0
    assert media.read_video(tmp_path / "again.mp4")[0].shape == (11, 32, 32, 3)
    media.write_image(tmp_path / "picture.png", np.full((40, 64, 3), 200, np.uint8))
    base = [f"--model={folder}", "--prompt=a red circle moves left"]
    assert main(["animate", *base, f"--image={tmp_path / 'picture.png'}", f"--output={tmp_path / 'moves.gif'}"]) == 0
    assert main(["interpolate", *base, f"--image={tmp_path / 'picture.png'}", "--motion=2.5",
                 f"--last_image={tmp_path / 'picture.png'}", f"--output={tmp_path / 'between.gif'}"]) == 0
    assert main(["generate", *base, "--keyframes=2", "--fps=12", f"--output={tmp_path / 'keys.mp4'}"]) == 0
    assert media.read_video(tmp_path / "keys.mp4")[0].shape[0] == 5
    assert main(["extend", *base, f"--video={tmp_path / 'moves.gif'}", f"--output={tmp_path / 'on.gif'}"]) == 0
    media.write_image(tmp_path / "mask.png", np.full((64, 64, 3), 200, np.uint8))
    assert main(["inpaint", *base, f"--video={tmp_path / 'moves.gif'}", f"--mask={tmp_path / 'mask.png'}",
                 f"--output={tmp_path / 'anew.mp4'}", "--scale=2"]) == 0
    assert [media.read_video(tmp_path / name)[0].shape[:3] for name in ("moves.gif", "on.gif", "anew.mp4")] == [
        (11, 32, 32), (21, 32, 32), (11, 64, 64)]
    assert main(["evaluate", f"--model={folder}", "--suite=all", "--samples=2",
                 f"--report={tmp_path / 'report'}"]) == 0
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert {"tokenizer", "prompts", "image_only", "stories", "stories_truth"} <= set(report["measurements"])
    assert report["measurements"]["stories_truth"]["motion"]["share"] == 1.0
    for model, suites in ((folder, {"control", "editing"}), (folder / "critic", {"critic"})):
        assert main(["evaluate", f"--model={model}", f"--suite={','.join(sorted(suites))}", "--samples=2",
                     f"--report={tmp_path / 'more.json'}"]) == 0
        report = json.loads((tmp_path / "more.json").read_text())
        assert set(report["measurements"]) == suites
        exact = {row["key"]: row["value"] for row in report["table"] if row["key"].endswith("_exact")}
        assert all(value == 1 for value in exact.values())


@pytest.mark.parametrize("arguments, words", [
    (["--prompt= "], "--prompt"),
    (["--prompt=a", "--model=nowhere"], "nowhere"), (["--prompt=a", "--between=4"], "--between goes with --keyframes"),
    (["--prompt=a", "--keyframes=3", "--between=0"], "between=0"), (["--prompt=a", "--motion=nan"], "motion=nan"),
    (["--story=x.yaml", "--keyframes=3"], "--keyframes=3 does not go with --story"),
    (["--prompt=a", "--order=critic"], "needs a critic")])
def test_mistakes_end_with_two_and_leave_the_old_file(folder, tmp_path, capsys, arguments, words):
    output = tmp_path / "out.gif"
    output.write_bytes(b"mine")
    assert main(["generate", f"--model={folder}", f"--output={output}", "--overwrite", *arguments]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1 and "Traceback" not in said
    assert output.read_bytes() == b"mine"


def test_control_is_measured_at_motions_of_its_own(folder, tmp_path, capsys):
    assert main(["evaluate", f"--model={folder}", "--suite=control", "--motion=3", "--samples=1",
                 f"--report={tmp_path / 'r.json'}"]) == 2
    assert "motion=3.0 is what this suite varies itself" in capsys.readouterr().err


def test_another_codebook_is_a_vocabulary_mismatch(folder, tmp_path):
    from phenaki_jax.training.loop import train
    config = phenaki_jax.load_config("configs/quickstart.py:generator",
                                     {**TINY, "tokenizer.levels": (4, 4), "tokenizer.codebook_size": 16})
    config.data.data_dir, config.tokenizer_run = str(folder / "data"), str(folder / "tokenizer")
    with pytest.raises(UserError, match="Vocabulary mismatch"):
        train(config, tmp_path / "run", devices=jax.devices()[:1], tensorboard=False)
    assert not (tmp_path / "run").exists()
