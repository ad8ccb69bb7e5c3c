"""The benchmark: what it counts, what it says, and how it answers what cannot be measured. Never how fast it is."""

import json
import os
import stat
import sys

import jax
import jax.numpy as jnp
import pytest

from phenaki_jax import benchmark
from phenaki_jax.__main__ import main
from phenaki_jax.benchmark import side
from phenaki_jax.benchmark.generator import Sampling, Training
from phenaki_jax.benchmark.tokenizer import matrix_flops
from phenaki_jax.config import load_config
from phenaki_jax.errors import UserError
from phenaki_jax.models.build import tokenizer_config
from phenaki_jax.parallel import product_flops

TINY = {"tokenizer.frames": 3, "tokenizer.height": 8, "tokenizer.width": 8, "tokenizer.patch": (2, 4, 4),
        "tokenizer.embed_dim": 16, "tokenizer.heads": 2, "tokenizer.mlp_dim": 64, "tokenizer.spatial_layers": 1,
        "tokenizer.temporal_layers": 1, "tokenizer.codebook_size": 8, "tokenizer.code_dim": 4, "batch_size": 2}
TINY_GENERATOR = {"generator.embed_dim": 16, "generator.layers": 2, "generator.heads": 2, "generator.mlp_dim": 64,
                  "text.length": 3, "text.embed_dim": 8, "sampling.num_inference_steps": 2}


def config(source="tokenizer", **changes):
    tiny = TINY | (TINY_GENERATOR if source == "generator" else {})
    changes = {name.replace("__", "."): value for name, value in changes.items()}
    return load_config(f"configs/benchmark.py:{source}", tiny | changes)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A product that takes no time, and one device: the mesh of eight would not divide two clips."""
    monkeypatch.setattr(side, "PRODUCT", 16)
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")


def encoder_flops(sizes, clips):
    """By hand: patches, per layer four projections, two products of attention and the MLP, then code and codebook."""
    T, H, W = sizes.latent_frames(sizes.frames), sizes.height // sizes.patch[1], sizes.width // sizes.patch[2]
    D, tokens, pixels = sizes.embed_dim, clips * T * H * W, sizes.patch[1] * sizes.patch[2] * 3
    patches = 2 * clips * H * W * pixels * D * (1 + (T - 1) * sizes.patch[0])
    layer = lambda reach: tokens * (4 * 2 * D * D + 2 * 2 * reach * D + 2 * 2 * D * sizes.mlp_dim)
    code = 2 * tokens * sizes.code_dim
    layers = sizes.spatial_layers * layer(H * W) + sizes.temporal_layers * layer(T)
    return patches + layers, code * D, code * sizes.codebook_size


@pytest.mark.parametrize("changes", [{}, {"tokenizer__unroll": False, "tokenizer__spatial_layers": 3}])
def test_flops_are_those_counted_by_hand(changes):
    resolved = config(batch_size=8, **changes)
    transformer, projection, nearest = encoder_flops(tokenizer_config(resolved), 8)
    counted = matrix_flops(resolved)
    assert counted["encode"] == pytest.approx(transformer + projection + nearest, rel=0.05)
    assert counted["decode"] == pytest.approx(transformer + projection, rel=0.05)
    # Backward costs twice as much again; the nearest code has no gradient.
    assert counted["train"] == pytest.approx(3 * (2 * transformer + 2 * projection) + nearest, rel=0.05)


def test_flops_of_a_generator_are_those_counted_by_hand():
    """A layer: four projections, attention to all tokens, two projections across, attention to text, the MLP."""
    resolved = config("generator")
    D, V, S, P, E, L = 16, 8, 8, 3 + 1, 8, 2

    def forward(rows):
        layer = rows * S * (4 * 2 * D * D + 2 * 2 * S * D + 2 * 2 * D * D + 2 * 2 * P * D + 2 * 2 * D * 4 * D)
        return L * layer + rows * S * 2 * D * V, L * 2 * 2 * rows * P * E * D

    training = Training(resolved)
    transformer, text = forward(2)
    assert training.flops["train"] == pytest.approx(3 * transformer + 2 * text, rel=0.02)  # text needs no gradient
    training.train()
    assert int(training.train.state.step) == 1

    sampling = Sampling(resolved)
    sampling.sample()
    sampling.decode()
    # Two rows, with text and without; the text is read once, for one of them.
    transformer, (_, text) = forward(2)[0], forward(1)
    assert sampling.flops["sample"] == pytest.approx(2 * transformer + text + sampling.flops["decode"], rel=0.01)
    assert sampling.parameters == training.parameters
    assert sampling.tokens == {"sample": S, "decode": S} and training.tokens == {"train": 2 * S}


def test_flops_of_scans_choices_and_convolutions():
    a, image = jnp.ones((3, 3)), jnp.ones((1, 8, 8, 2))
    count = lambda f, *args: product_flops(jax.make_jaxpr(f)(*args).jaxpr)
    product = 2 * 3 ** 3
    assert count(lambda a: a @ a, a) == product
    assert count(lambda a: jax.lax.scan(lambda x, _: (x @ x, None), a, None, length=5)[0], a) == 5 * product
    assert count(lambda a: jax.lax.cond(a[0, 0] > 0, lambda: a @ a @ a, lambda: a @ a), a) == 2 * product
    assert count(jax.jit(lambda a: jax.checkpoint(jnp.matmul)(a, a)), a) == product
    kernel = jnp.ones((3, 3, 2, 5))
    layout = ("NHWC", "HWIO", "NHWC")
    convolve = lambda x, k: jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=layout)
    assert count(convolve, image, kernel) == 2 * 8 * 8 * 5 * 3 * 3 * 2


def interpreter(folder, answers: str) -> str:
    """A program that takes the place of a Python interpreter with the peer."""
    path = folder / "python"
    path.write_text(f"#!{sys.executable}\nimport json, sys\nsizes = json.loads(sys.stdin.readline())\n{answers}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_a_tiny_run_beside_a_peer(tmp_path, capfd):
    """Both take turns on one core; what is reported follows from what was measured."""
    cores, report = os.sched_getaffinity(0), tmp_path / "new" / "report.json"
    peer = interpreter(tmp_path, f"""
import os
assert len(os.sched_getaffinity(0)) == 1 and sizes["threads"] == 1 and sizes["tokenizer"]["embed_dim"] == 16
slower = 2.0 if sizes["autocast"] else 1.0
print(json.dumps({{"parameters": 7, "versions": {{"theirs": "1"}}, "device": "it"}}), flush=True)
log = open({str(tmp_path / 'log')!r} + str(sizes["autocast"]), "w")
for line in sys.stdin:
    do = json.loads(line)["do"]
    log.write(do + " ")
    log.flush()
    slow = slower * {{"train": 1e6, "encode": 2e6}}.get(do, 3e6)
    answer = {{"peak_bytes": 10 ** 15}} if do == "memory" else {{"seconds": slow, "cpu_seconds": slow}}
    print(json.dumps(answer), flush=True)
""")
    assert benchmark.main("tokenizer", config(), peer, 2, str(report)) == 0
    out = capfd.readouterr().out
    assert str(report) in out and "times as fast as phenaki-pytorch: train" in out and "16 autocast: train" in out
    assert os.sched_getaffinity(0) == cores
    for peer in ("logFalse", "logTrue"):
        asked = (tmp_path / peer).read_text().split()
        twice = [call for call in ("train", "encode", "decode", "product") for _ in range(2)]
        assert asked == ["train", "encode", "decode", *twice * 2, "memory"]

    figures = json.loads(report.read_text())
    assert figures["circumstances"]["rounds"] == 2 and figures["config"]["tokenizer"]["embed_dim"] == 16
    ours = figures["ours"]
    assert ours["parameters"] > 0 and ours["memory"]["peak_bytes"] > 1e7
    assert figures["ratios"]["peer"]["memory"] == pytest.approx(1e15 / ours["memory"]["peak_bytes"])
    for call, theirs in {"train": 1e6, "encode": 2e6, "decode": 3e6}.items():
        row = ours[call]
        assert 0 < row["fastest"] <= row["seconds"] <= row["slowest"] and row["cpu_seconds"] > 0
        assert row["tokens_per_second"] == pytest.approx(2 * 8 / row["seconds"])
        assert row["frames_per_second"] == pytest.approx(2 * 3 / row["seconds"])
        assert row["share_of_peak"] == pytest.approx(
            row["flops"] / row["seconds"] / ours["product"]["flops_per_second"])
        assert row["first_seconds"] > 0 and figures["peer"][call]["seconds"] == theirs
        assert figures["ratios"]["peer"][call] == pytest.approx(theirs / row["seconds"])
        assert figures["ratios"]["peer_autocast"][call] == pytest.approx(2 * theirs / row["seconds"])
        assert figures["ratios"]["peer"]["cpu"][call] == pytest.approx(theirs / row["cpu_seconds"])


def one_sentence(capsys, *arguments: str) -> str:
    assert main(["benchmark", *arguments]) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and err.startswith("phenaki: ")
    return err


def test_mistakes_are_said_in_one_sentence(tmp_path, capsys):
    assert "'speed'" in one_sentence(capsys, "speed")
    assert "--rounds=0" in one_sentence(capsys, "tokenizer", "--rounds=0")
    assert ".json" in one_sentence(capsys, "tokenizer", "--report=figures.txt")
    assert "generator" in one_sentence(capsys, "tokenizer", "--config=configs/quickstart.py:generator")
    assert "needs a generator's" in one_sentence(capsys, "sampling", "--config=configs/quickstart.py")
    assert "has no argument 'x'" in one_sentence(capsys, "tokenizer", "--config=configs/benchmark.py:x")
    missing = str(tmp_path / "python")
    assert f"--peer={missing!r} cannot be run" in one_sentence(capsys, "tokenizer", f"--peer={missing}")
    assert "'float32'" in one_sentence(capsys, "tokenizer", f"--peer={missing}", "--config.tokenizer.dtype=bfloat16")
    for name in ("generator", "sampling"):
        assert "'cosine'" in one_sentence(capsys, name, f"--peer={missing}", "--config.train.mask_schedule=uniform")
    assert "1024" in one_sentence(capsys, "tokenizer", f"--peer={missing}", "--config.tokenizer.mlp_dim=512")


@pytest.mark.parametrize("answers, said", [
    ("print(json.dumps({'error': 'no torch here'}))", "no torch here"),
    ("sys.exit('broken build')", "broken build"),
    ("", "ends at once"),
])
def test_a_peer_that_does_not_serve_is_named(tmp_path, monkeypatch, answers, said):
    class Ours(side.Side):  # saves the start of a process that is not what is tested
        def __init__(self, command, sizes, environment, peer=None):
            if peer:
                super().__init__(command, sizes, environment, peer)

        def __exit__(self, *_):
            pass

    peer = interpreter(tmp_path, answers)
    with pytest.raises(UserError, match=f"--peer='{peer}' does not serve .*{said}.*phenaki-pytorch 0.5.0"):
        monkeypatch.setattr(benchmark, "Side", Ours)
        benchmark.measure("tokenizer", config(), peer, 1)


def test_an_interpreter_without_the_package_is_told_so(tmp_path):
    with pytest.raises(UserError, match="phenaki_pytorch"):
        side.Side([sys.executable, "-S", str(side.PEER_PROGRAM)], {"threads": 1}, os.environ, sys.executable)


def test_a_mistake_in_the_model_comes_back_from_its_process():
    with pytest.raises(UserError, match="tokenizer.height=9"):
        benchmark.measure("tokenizer", config(tokenizer__height=9), None, 1)


def test_the_networks_of_the_evaluation_are_timed_by_rows(monkeypatch, tmp_path, capsys):
    """Sleeping networks whose speed is known."""
    import json
    import time

    from phenaki_jax import evaluation
    from phenaki_jax.__main__ import main
    from phenaki_jax.benchmark import networks
    for name, seconds in (("video_features", 0.08), ("inception_features", 0.064), ("lpips_per_video", 0.032)):
        monkeypatch.setattr(evaluation, name, lambda *arrays, seconds=seconds: time.sleep(seconds))
    report = tmp_path / "report.json"
    assert main(["benchmark", "networks", "--rounds=2", f"--report={report}"]) == 0
    found = json.loads(report.read_text())
    assert 0.01 <= found["i3d"]["seconds_a_clip"] < 0.1  # 8 clips
    assert 50 < found["inception"]["images_a_second"] <= networks.IMAGES / 0.064
    assert "bar: at most 2" in capsys.readouterr().out
    assert main(["benchmark", "networks", "--peer=python"]) == 2
    assert "`phenaki benchmark networks` takes neither --peer nor --config" in capsys.readouterr().err


def test_opening_a_model_is_timed_in_processes_of_their_own(tmp_path, capsys, monkeypatch):
    from phenaki_jax.benchmark import pipeline
    caches, seconds = [], iter(range(1, 9))

    def process(model, cache):
        caches.append(cache)
        return dict.fromkeys(("import", "load", "first_call", "warm_call"), float(next(seconds)))

    monkeypatch.setattr(pipeline, "_process", process)
    report = tmp_path / "r.json"
    assert main(["benchmark", "pipeline", "--model=m", "--rounds=3", f"--report={report}"]) == 0
    figures = json.loads(report.read_text())
    assert (figures["first_call"], figures["first_call_again"]) == (3.0, 4.0)  # of rounds 1, 2; 3, 4; 5, 6
    assert len(set(caches)) == 3 and caches[0] == caches[1] and "bar: at most 30" in capsys.readouterr().out
    assert main(["benchmark", "pipeline"]) == 2 and "--model is missing" in capsys.readouterr().err
    assert main(["benchmark", "input", "--model=m"]) == 2 and "--model is for" in capsys.readouterr().err
    monkeypatch.undo()
    assert main(["benchmark", "pipeline", f"--model={tmp_path}", "--rounds=1"]) == 2
    said = capsys.readouterr().err
    assert "could not make a clip" in said and said.count("\n") == 1
