"""What a pipeline asks of its hooks, and what it says, over random weights."""

import numpy as np
import pytest

import phenaki_jax
from phenaki_jax.errors import UserError
from phenaki_jax.models.build import make_generator, make_tokenizer
from tests.export.untrained import TINY, arrays, write_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    config = phenaki_jax.load_config("configs/quickstart.py:generator", TINY)
    tokenizer, generator = (dict(zip(("params", "variables"), arrays(make(config), seed)))
                            for seed, make in enumerate((make_tokenizer, make_generator)))
    return write_run(tmp_path_factory.mktemp("hooks") / "model", config, **generator, frozen=tokenizer)


@pytest.fixture(scope="module")
def pipe(folder):
    return phenaki_jax.PhenakiPipeline.from_pretrained(folder)


def test_what_changes_no_model_changes_no_fingerprint(folder, pipe):
    again = phenaki_jax.PhenakiPipeline.from_pretrained(folder, overrides={"sampling.temperature": 1.0})
    assert again.fingerprint == pipe.fingerprint and again.config.sampling.temperature == 1.0
    for overrides, words in (({"text.path": "x"}, "pretrained text encoder"), ({"tokenizer.height": 64}, "cannot be"),
                             ("x", "overrides='x' has to be a dict")):
        with pytest.raises(UserError, match=words):
            phenaki_jax.PhenakiPipeline.from_pretrained(folder, overrides=overrides)
    with pytest.raises(UserError, match="mesh='x' has to be a dict"):
        phenaki_jax.PhenakiPipeline.from_pretrained(folder, mesh="x")


def test_hooks_can_be_replaced(pipe, monkeypatch):
    monkeypatch.setattr(pipe, "prompt_filter", lambda prompt: "no circles" if "circle" in prompt else None)
    with pytest.raises(UserError, match="'a red circle' is refused: no circles"):
        pipe(["a cross", "a red circle"])
    with pytest.raises(UserError, match="no circles"):
        pipe.story(["a cross", "a red circle"])
    monkeypatch.setattr(pipe, "prompt_filter", None)
    plain = pipe(["a red circle", "a blue cross"], seed=1)
    first = plain.frames[0]
    monkeypatch.setattr(pipe, "safety_checker",
                        lambda frames: "seen before" if np.array_equal(frames, first) else None)
    made = pipe(["a red circle", "a blue cross"], seed=1)
    assert made.refused == ("seen before", None) and not made.frames[0].any()
    np.testing.assert_array_equal(made.frames[1], plain.frames[1])


def test_what_is_compiled_is_said_once(pipe, monkeypatch):
    said = []
    monkeypatch.setattr(pipe, "say", said.append)
    monkeypatch.setattr(pipe, "_compiled", set())
    for prompts in (["a"], ["b"], ["a", "b"]):
        pipe(prompts, num_frames=1)
    assert len(said) == 2 and "compiling for 2 x 1 frames of 32 x 32" in said[1]
    for steps, scale in ((3, 2.0), (3, 5.0), (4, 5.0), (4, 0.0)):  # passes and whether it is guided are of a program
        pipe("a", num_frames=1, num_inference_steps=steps, guidance_scale=scale)
    assert len(said) == 5
