"""Generating commands over random weights: what the tests of this folder share."""

import pytest

import phenaki_jax
from phenaki_jax import config as configs
from phenaki_jax.__main__ import main
from phenaki_jax.making import command
from phenaki_jax.pipeline import PhenakiPipeline

TINY = {"tokenizer.embed_dim": 16, "tokenizer.heads": 2, "tokenizer.mlp_dim": 32, "tokenizer.height": 8,
        "tokenizer.width": 8, "tokenizer.patch": (2, 4, 4), "generator.embed_dim": 16, "generator.heads": 2,
        "generator.mlp_dim": 32, "generator.layers": 1, "text.embed_dim": 16, "text.heads": 2, "text.head_dim": 8,
        "text.mlp_dim": 32, "text.layers": 1, "sampling.num_inference_steps": 2}


class Pipes:
    """Pipelines over the same arrays, and what they were called with."""

    def __init__(self):
        self.config = phenaki_jax.load_config("configs/quickstart.py:generator", TINY)
        self.models = phenaki_jax.create_tokenizer(self.config), phenaki_jax.create_generator(self.config)
        self.calls, self._pipes, self.killed_at = [], {}, None

    def load(self, model, overrides=None, devices=1):
        config = command.model_config(model, overrides)
        key = configs.to_json(config), devices
        if key not in self._pipes:
            self._pipes[key] = Watched(config, *self.models, mesh=command.mesh_of(devices))
            self._pipes[key].calls = self.calls
        self._pipes[key].owner = self
        return self._pipes[key]


class Watched(PhenakiPipeline):
    def __call__(self, prompts, **options):
        if self.owner.killed_at is not None and len(self.calls) >= self.owner.killed_at:
            raise KeyboardInterrupt
        self.calls.append((tuple(prompts), tuple(options["seed"])))
        return super().__call__(prompts, **options)


@pytest.fixture(scope="module")
def pipes():
    return Pipes()


@pytest.fixture
def run(pipes, tmp_path, monkeypatch):
    """run(verb, option, ...) -> exit code, on random weights."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(configs.to_json(pipes.config))
    monkeypatch.setattr(command, "load_pipeline", pipes.load)
    monkeypatch.setattr(command.PhenakiPipeline, "from_pretrained", classmethod(
        lambda cls, model, overrides=None, mesh=None: pipes.load(
            model, {name: str(value) for name, value in (overrides or {}).items()}, mesh.size if mesh else 1)))
    pipes.calls.clear()
    pipes.killed_at = None

    def run(verb, *options):
        return main([verb, f"--model={tmp_path / 'model'}", *map(str, options)])

    return run
