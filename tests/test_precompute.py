"""A pretrained text encoder, live and from a cache, tokens from a cache, and a model without text: tiny runs on files.

The encoder is models/t5's Hugging Face fixture over a small SentencePiece vocabulary.
"""

import dataclasses
import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import seqio

import phenaki_jax
from phenaki_jax import media, precompute
from phenaki_jax.__main__ import main
from phenaki_jax.config import to_json
from phenaki_jax.errors import UserError
from phenaki_jax.ingest.job import ingest
from phenaki_jax.ingest.prepare import Settings
from phenaki_jax.ingest.sources import find_units
from phenaki_jax.input import loader, mix, text
from phenaki_jax.digest import digest
from phenaki_jax.input.cache import Cache, Writer
from phenaki_jax.making import command
from phenaki_jax.parallel import make_mesh
from phenaki_jax.training import generator_stage, tokenizer_stage
from phenaki_jax.training.caches import check_caches
from phenaki_jax.training.checkpoints import Checkpoints, flatten, load_run
from phenaki_jax.training.loop import train
from phenaki_jax.training.metrics import read_lines
from phenaki_jax.training.optimizer import make_optimizer
from phenaki_jax.training.state import abstract_state, create_state

sys.path.insert(0, str(pathlib.Path(__file__).parent / "ingest"))
import worlds  # noqa: E402

T5 = pathlib.Path(__file__).parent / "models" / "t5"
TINY = {"tokenizer.embed_dim": 16, "tokenizer.heads": 2, "tokenizer.mlp_dim": 32, "tokenizer.spatial_layers": 1,
        "tokenizer.patch": (2, 8, 4), "tokenizer.levels": (8, 5, 5, 5), "tokenizer.codebook_size": 1000,
        "generator.embed_dim": 16, "generator.heads": 2, "generator.mlp_dim": 32, "generator.layers": 1,
        "generator.neighbours": 0, "generator.rotary": False, "generator.group": (1, 1), "optimizer.name": "adamw",
        "data.mixture": "sprite_tiny_80_20", "batch_size": 5, "train.steps": 2, "train.log_every": 1,
        "train.sample_every": 100, "mesh.data": 1, "sampling.num_inference_steps": 2}
WORDS = ("a an the on moves rests still left right up down slowly quickly red blue green yellow circle square cross "
         "solid striped outlined black navy gray").split()


def pieces(path, seed=0):
    """A SentencePiece model with T5's ids of padding, end and unknown, fewer pieces than the fixture has rows."""
    import sentencepiece
    draw = np.random.default_rng(seed)
    with open(path, "wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(" ".join(draw.choice(WORDS, 6)) for _ in range(300)), model_writer=file, vocab_size=60,
            hard_vocab_limit=False, minloglevel=2, pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    return path


def save_tokenizer(folder):
    """A tokenizer's run that never took a step."""
    config = phenaki_jax.load_config("configs/quickstart.py:tokenizer", TINY)
    stage, mesh = tokenizer_stage.make_stage(config), make_mesh({}, jax.devices()[:1])
    with jax.set_mesh(mesh):
        state = create_state(stage, make_optimizer(config, stage.axes)[0], mesh, 0)
        checkpoints = Checkpoints(folder)
        checkpoints.save(1, state)
        checkpoints.close()
    (folder / "config.json").write_text(to_json(config))


def unseen(config, frozen):
    """The generator's stage without its samples, which are most of what there is to compile."""
    return dataclasses.replace(generator_stage.make_stage(config, frozen), samples=lambda *_: np.zeros((1, 1, 3), "u1"))


class Folder:
    """A tokenizer's run, records and a vocabulary; `config` is a generator's over them."""

    def __init__(self, root):
        self.root, self.vocabulary = root, pieces(root / "spiece.model")
        (root / "tokenizer").mkdir()
        mix.prepare(TINY["data.mixture"], root / "data", log=lambda line: None)
        save_tokenizer(root / "tokenizer")

    def config(self, **changes):
        changes = {name.replace("__", "."): value for name, value in changes.items()}
        return phenaki_jax.load_config("configs/quickstart.py:generator", {
            **TINY, "text.encoder": "t5", "text.path": str(T5 / "hugging_face"), "text.embed_dim": 32,
            "text.vocabulary": str(self.vocabulary), "text.length": 24, "data.data_dir": str(self.root / "data"),
            "tokenizer_run": str(self.root / "tokenizer"), **changes})

    def train(self, name, make_stage=unseen, **changes):
        """The losses of a run of two steps."""
        run = self.root / name
        assert train(self.config(**changes), run, make_stage=make_stage, devices=jax.devices()[:1],
                     tensorboard=False).finished
        return [[line[key] for key in ("loss", "video/cross_entropy", "image/cross_entropy", "grad_norm")]
                for line in read_lines(run / "metrics.jsonl")]

    def precompute(self, what, output, **changes):
        """The command line's exit code."""
        config = self.config(**changes)
        (self.root / "config.json").write_text(json.dumps(config.to_dict()))
        return main(["precompute", f"--config={self.root / 'config.json'}", f"--what={what}",
                     f"--output={self.root / output}"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return Folder(tmp_path_factory.mktemp("pretrained"))


@pytest.fixture(scope="module")
def live(folder):
    return folder.train("live", make_stage=None)


@pytest.fixture(scope="module")
def cache(folder):
    assert folder.precompute("text,tokens", "cache") == 0
    return folder.root / "cache"


def files(folder):
    """{path: content} of all that lies in a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(words, call, *arguments, **options):
    with pytest.raises(UserError, match=words) as error:
        call(*arguments, **options)
    assert "\n" not in str(error.value)


def test_caches_have_the_losses_of_live_training(folder, live, cache):
    cached = folder.train("cached", text__cache=str(cache), data__token_cache=str(cache))
    np.testing.assert_allclose(cached, live, rtol=1e-5)
    assert live[0] != live[1]


def test_a_run_carries_no_encoder_and_reads_it_again(folder, live):
    arrays = flatten(load_run(folder.root / "live").params)
    assert not [name for name in arrays if "text" in name]
    pipe = phenaki_jax.PhenakiPipeline.from_pretrained(folder.root / "live")
    made = pipe(["a red circle", "a blue cross"], num_frames=3, seed=1).tokens
    ids = text.encode_batch(["a red circle", "a blue cross"], 24, text.SentencePieceVocabulary(folder.vocabulary))
    embeds = np.asarray(phenaki_jax.T5Encoder.from_pretrained(T5 / "hugging_face")(ids))
    given = pipe(prompt_embeds=embeds[:, :12], prompt_attention_mask=ids[:, :12] > 0, num_frames=3, seed=1).tokens
    np.testing.assert_array_equal(given, made)
    assert np.any(pipe(prompt_embeds=-embeds, num_frames=3, seed=1, guidance_scale=9.0).tokens != made)
    for call, words in ((lambda: pipe("a", prompt_embeds=embeds), "both given"),
                        (lambda: pipe(prompt_embeds=embeds[..., :3]), r"shape .2, 24, 3."),
                        (lambda: pipe("a " * 30), "61 ids|3. ids"), (lambda: pipe(), "prompt is empty"),
                        (lambda: pipe("a", prompt_attention_mask=ids > 0), "goes with prompt_embeds")):
        with pytest.raises(UserError, match=words):
            call()
    pipe = phenaki_jax.PhenakiPipeline.from_pretrained(folder.root / "live")
    pipe.config.text.path = "nowhere"
    with pytest.raises(UserError, match="text.path='nowhere' is gone"):
        pipe("a red circle")
    assert pipe(prompt_embeds=embeds, num_frames=3).frames.shape == (2, 3, 32, 32, 3)


def test_ids_of_a_batch_are_those_of_the_vocabulary(folder):
    """Captions longer in bytes than text.length are read whole before they are encoded anew."""
    vocabulary = text.SentencePieceVocabulary(folder.vocabulary)
    options = dict(batch_size=5, seed=0, frames=11, height=32, width=32, data_dir=folder.root / "data")
    plain = loader.Loader("sprite_tiny_80_20", **options, text_length=200)
    ours = loader.Loader("sprite_tiny_80_20", **options, text_length=24, vocabulary=vocabulary)
    cut = 0
    for step in range(3):
        for stream, rows in plain.batch(step).items():
            captions = [text.BYTES.decode(ids) for ids in rows["text"]]
            cut += sum(len(caption) > 24 for caption in captions)
            np.testing.assert_array_equal(ours.batch(step)[stream]["text"], text.encode_batch(captions, 24, vocabulary))
    assert cut


def test_a_batch_from_caches_has_what_the_models_give(folder, cache):
    config = folder.config(text__cache=str(cache), data__token_cache=str(cache))
    load = loader.make_loader(config)
    encoder = phenaki_jax.T5Encoder.from_pretrained(T5 / "hugging_face")
    tokenizer = phenaki_jax.PhenakiPipeline.from_pretrained(folder.root / "tokenizer")
    for stream, rows in load.batch(1).items():
        assert {name: (rows[name].shape, rows[name].dtype) for name in rows} == load.shapes()[stream]
        there = rows["text"] > 0
        np.testing.assert_allclose(rows["text_embeds"][there], np.asarray(encoder(rows["text"]))[there], atol=1e-4)
        assert not rows["text_embeds"][~there].any()
        np.testing.assert_array_equal(rows["tokens"], tokenizer.encode(rows["video"]))
    held_out = loader.make_loader(config, train=False).batch(0)["video"]
    assert "text_embeds" in held_out and "tokens" not in held_out


def test_what_a_kill_leaves_is_gone_on_from(folder, monkeypatch):
    """Several shards, in one go and with a stop in between: the same bytes."""
    monkeypatch.setattr(precompute, "SHARD", {"text": 64, "tokens": 96})
    assert folder.precompute("text,tokens", "whole") == 0
    whole, write, left = files(folder.root / "whole"), Writer.write, [5]

    def stop(self, keys, arrays):
        left[0] -= 1
        if not left[0]:
            (self.folder / "00001.begun").mkdir()
            raise KeyboardInterrupt
        write(self, keys, arrays)

    monkeypatch.setattr(Writer, "write", stop)
    assert folder.precompute("text,tokens", "parts") == 130
    monkeypatch.setattr(Writer, "write", write)
    assert len(files(folder.root / "parts")) < len(whole)
    assert folder.precompute("text,tokens", "parts") == 0
    assert files(folder.root / "parts") == whole and "text/00002/values.npy" in whole


def test_a_cache_of_other_models_is_refused(folder, cache, tmp_path, capsys):
    run = load_run(folder.root / "tokenizer")
    frozen = {"params": run.params, "variables": run.variables}
    here, tokens = {"text__cache": str(cache)}, {"data__token_cache": str(cache)}
    about = json.loads((cache / "tokens" / "index.json").read_text())
    (tmp_path / "tokens").mkdir()
    (tmp_path / "tokens" / "index.json").write_text(json.dumps(about | {"codebook_size": 64}))
    for words, changes in (
            ("another encoder than text.path", {**here, "text__path": str(T5 / "t5x")}),
            ("not made in text.dtype='bfloat16'", {**here, "text__dtype": "bfloat16"}),
            ("another vocabulary than text.vocabulary", {
                **here, "text__vocabulary": str(pieces(tmp_path / "other.model", seed=1))}),
            ("not made for text.length=16", {**here, "text__length": 16}),
            ("is for a generator with text.encoder='t5'", {**here, "text__encoder": "none"}),
            ("does not have all of data.split='train' of 'another'", {**tokens, "data__mixture": "another"}),
            ("another vocabulary than tokenizer.codebook_size=1000", {"data__token_cache": str(tmp_path)})):
        refused(words, check_caches, folder.config(**changes), frozen)
    refused("another tokenizer than this generator's", check_caches, folder.config(**tokens),
            jax.tree.map(np.negative, frozen))
    check_caches(folder.config(**tokens, **here), frozen)
    refused("holds no text; make it with", lambda: folder.train("none", text__cache=str(tmp_path)))
    assert not (folder.root / "none").exists()
    for words, what, output, changes in (
            ("made by another model", "text", "cache", {"text__length": 16}),
            ("text.encoder='bytes' of a generator", "text", "new", {"text__encoder": "bytes"}),
            ("--what='pixels'", "pixels", "new", {}), ("data.data_dir is empty", "text", "new", {"data__data_dir": ""}),
            ("draws its clips anew", "tokens", "drawn", {"data__mixture": "sprite_tokenizer_tiny"})):
        if "drawn" in output:
            seqio.MixtureRegistry.add("sprite_tokenizer_tiny", [("sprite_sliding_32_tiny", 1.0)])
        assert folder.precompute(what, output, **changes) == 2
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 1


@pytest.mark.parametrize("words, changes", [
    ("text.path is empty", {"text__path": ""}), ("text.vocabulary is empty", {"text__vocabulary": ""}),
    ("text.path='nowhere' is gone", {"text__path": "nowhere"}),
    ("text.embed_dim=16 does not fit", {"text__embed_dim": 16}), ("text.dtype='half'", {"text__dtype": "half"}),
    ("text.vocabulary='bytes' has 259 ids", {"text__vocabulary": "bytes"}),
    ("text.encoder='t6' is unknown", {"text__encoder": "t6"})])
def test_an_encoder_that_does_not_fit_is_refused(folder, words, changes):
    refused(words, generator_stage.make_stage, folder.config(**changes))


def test_a_cache_keeps_arrays_of_any_length_in_bfloat16(tmp_path):
    draw = np.random.default_rng(0)
    arrays = {digest(i): draw.normal(size=(i % 5, 3)).astype(jnp.bfloat16) for i in range(40)}
    writer = Writer(tmp_path / "text", {"what": "text", "dtype": "bfloat16", "shape": [3]})
    for first in (0, 16):
        part = list(arrays.items())[first:first + 16 + first]
        writer.write([key for key, _ in part], [array for _, array in part])
    read = Cache(tmp_path, "text")
    for key, array in arrays.items():
        found = read.get(key)
        assert found.dtype == array.dtype and found.shape == array.shape and found.tobytes() == array.tobytes()
    assert read.get(digest("another")) is None
    with pytest.raises(UserError, match="no text of the caption 'a cat'"):
        read.embeddings(text.encode_cut("a cat", 9), text.BYTES)


def test_a_pretrained_encoder_is_split_over_the_mesh(folder):
    config = folder.config()
    config.mesh.update(data=1, fsdp=2, tensor=2)
    stage = generator_stage.make_stage(config)
    state = abstract_state(stage, make_optimizer(config, stage.axes)[0], make_mesh(config.mesh, jax.devices()[:4]))
    query = state.given["text_encoder"]["stack"]["layers"]["attention"]["query"]
    assert query.shape == (2, 32, 32) and query.sharding.shard_shape(query.shape) == (2, 16, 16)


def test_fields_of_the_records_themselves(folder, tmp_path, capsys):
    """Made by two hosts, one after the other, on clips of two windows: the losses of live training."""
    for name, kind in (("films", "video"), ("stills", "image")):
        samples = {f"{i:02}": worlds.video_sample(i, height=32, width=32) if kind == "video" else worlds.image_sample(i)
                   for i in range(12)}
        worlds.write_tar(tmp_path / f"{name}_source" / "0.tar", dict(list(samples.items())[:6]))
        worlds.write_tar(tmp_path / f"{name}_source" / "1.tar", dict(list(samples.items())[6:]))
        source = str(tmp_path / f"{name}_source")
        ingest(find_units(source), Settings(kind, name, ((32, 32),), scene_threshold=1.0, test_share=0.3),
               str(tmp_path / name), source=source, workers=0)
    where = {"data__mixture": "films:0.8,stills:0.2", "data__data_dir": str(tmp_path)}
    live = folder.train("live_records", **where)
    (folder.root / "config.json").write_text(json.dumps(folder.config(**where).to_dict()))
    command = ["precompute", f"--config={folder.root / 'config.json'}", "--what=text,tokens", "--columns", "--hosts=2"]
    assert main([*command, "--host=1"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "--config." in line]
    fields = dict(line.split("--config.")[1].split("=") for line in lines)
    cached = where | {"text__cache": fields["text.cache"], "data__token_cache": fields["data.token_cache"]}
    refused("lacks 2 of 4 shards|lacks 1 of 2 shards", folder.train, "half", **cached)
    assert main(command) == 0
    before = files(tmp_path / "films")
    assert main(command) == 0 and files(tmp_path / "films") == before  # all is there
    np.testing.assert_allclose(folder.train("from_records", **cached), live, rtol=1e-5)
    refused("another encoder than text.path", folder.train, "other", **cached | {"text__path": str(T5 / "t5x")})
    refused("is for data sets of `phenaki ingest`", folder.train, "other", text__cache=fields["text.cache"])
    assert main([*command[:3], "--output=x", "--hosts=2"]) == 2
    assert "--hosts=2 is for --columns" in capsys.readouterr().err


def test_a_model_without_text(folder, tmp_path, monkeypatch, capsys):
    """It learns, makes clips and goes on from them; a prompt is refused, and so is what would weigh one."""
    config = folder.config(text__encoder="none", text__path="", text__vocabulary="")
    tokenizer, generator = phenaki_jax.create_tokenizer(config), phenaki_jax.create_generator(config)
    assert "null" not in str(jax.tree_util.tree_structure(generator.params))
    stage = generator_stage.make_stage(config, {"params": tokenizer.params, "variables": tokenizer.variables})
    batch = loader.make_loader(config).batch(0)["image"]
    batch["tokens"] = np.zeros((1, 1, 4, 8), np.int32)  # nothing to encode, less to compile
    loss = jax.jit(lambda params: stage.loss(params, {}, stage.frozen, {"image": batch}, jax.random.key(0), 0)[0])
    assert np.isfinite(loss(generator.params))
    pipe = phenaki_jax.PhenakiPipeline(config, tokenizer, generator)
    both = pipe(num_frames=3, num_videos_per_prompt=2, seed=3)
    assert both.frames.shape == (2, 3, 32, 32, 3) and np.any(both.tokens[0] != both.tokens[1])
    longer = pipe.extend(None, both.frames, num_frames=2)
    np.testing.assert_array_equal(longer.frames[:, :3], both.frames)
    pictures = both.frames[:, 0]
    between = pipe.interpolate(None, pictures, pictures[::-1], num_frames=5)
    np.testing.assert_array_equal(between.frames[:, 0], pictures)
    for call in (lambda: pipe("a cat"), lambda: pipe(negative_prompt="a cat"),
                 lambda: pipe.extend("a cat", both.frames[0], num_frames=2)):
        with pytest.raises(UserError, match="was trained without text"):
            call()
    with pytest.raises(UserError, match="guidance_scale=2 weighs a prompt"):
        pipe(guidance_scale=2)
    (tmp_path / "config.json").write_text(to_json(config))
    monkeypatch.setattr(command, "load_pipeline", lambda *_: pipe)
    generate = ["generate", f"--model={tmp_path}", f"--output={tmp_path / 'out.gif'}", "--frames=3"]
    assert main([*generate, "--prompt=a cat"]) == 2
    said = capsys.readouterr().err
    assert "prompt 'a cat' cannot be read" in said and said.count("\n") == 1
    assert main([*generate[:2], f"--output={tmp_path / 'out'}", "--form=png", *generate[3:],
                 "--num_videos_per_prompt=2", "--seed=3"]) == 0
    np.testing.assert_array_equal(media.read_video(tmp_path / "out" / "00001")[0], both.frames[1])
