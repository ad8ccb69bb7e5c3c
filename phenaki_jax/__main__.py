"""The command line: `phenaki VERB …`, also `python -m phenaki_jax VERB …`.

Exit codes: 0 done, or ended by SIGTERM (and saved); 1 doctor found something, a config does not fit, data that does not
come ended a run (which saved), a checker refused a video, frames made again are others, or a file tells nothing of its
origin; 2 a mistake of the user's, said in one sentence; 130 Ctrl-C (and saved).
"""

import argparse
import difflib
import errno
import io
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from phenaki_jax.errors import DataError, UserError
from phenaki_jax.memory import restart_keeping_memory


# What is wrong with a place that somebody named: missing, not theirs, no folder, a folder, too long a name, no room, …
PLACES = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG,
          errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ELOOP, errno.ENXIO}


class _Parser(argparse.ArgumentParser):
    """Mistakes as one sentence instead of a page of usage; options are never guessed from a prefix."""

    def __init__(self, **options):
        super().__init__(**{"allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (see {self.prog} --help).")


def make_parser() -> argparse.ArgumentParser:
    """All verbs and their options."""
    parser = _Parser(prog="phenaki", description="Text-to-video models that tell stories, trained and sampled in JAX.")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    def verb(name: str, summary: str) -> argparse.ArgumentParser:
        return verbs.add_parser(name, help=summary, description=summary)

    def add_model(to: argparse.ArgumentParser) -> None:
        to.add_argument("--model", required=True, metavar="DIR", help="a run's folder, or a quickstart's")

    def add_sampler(to: argparse.ArgumentParser) -> None:
        to.add_argument("--seed", type=int, default=0)
        to.add_argument("--preset", help="nuwa, ablation, showcase (the paper's), recommended (the model's; default)")
        to.add_argument("--guidance_scale", type=float, help="λ of (1 + λ)·cond − λ·uncond")
        to.add_argument("--image_guidance_scale", type=float, help="of given frames, apart from the prompt's (1: none)")
        to.add_argument("--guidance_schedule", help="constant, linear (rising)")
        to.add_argument("--num_inference_steps", type=int, help="passes of the decoder")
        to.add_argument("--temperature", type=float, help="of the choice of tokens, annealed to 0")
        to.add_argument("--mask_schedule", help="cosine, arccos, linear, square")
        to.add_argument("--order", help="of decided tokens: confidence, halton, random; critic for a critic's run")
        to.add_argument("--remask", type=float, help="share of decided tokens that each pass makes anew")
        to.add_argument("--noise_augmentation", type=float, help="share of given tokens that the model sees as random")
        to.add_argument("--motion", help="how much moves: low, medium, high, extreme, or %% of the frame a second")
        to.add_argument("--fps", type=float, help="of the file, and what a model with the condition fps is told")

    quickstart = verb("quickstart", "From nothing to a told story: data, both stages, story, report.")
    quickstart.add_argument("--workdir", default="runs/quickstart", metavar="DIR")
    quickstart.add_argument("--config", default="configs/quickstart.py", metavar="FILE", help="also --config.FIELD=…")

    train = verb("train", "Train a stage; the same command again goes on from the last checkpoint.")
    train.add_argument("--config", required=True, metavar="FILE[:ARG]", help="also --config.FIELD=…")
    train.add_argument("--workdir", required=True, metavar="DIR")
    train.add_argument("--profile_steps", metavar="FIRST:LAST", help="a profile of these, in DIR/profile")

    def add_files(to: argparse.ArgumentParser) -> None:
        to.add_argument("--output", required=True, metavar="PATH", help="FILE.mp4, .webm, .gif (.png, .jpg for one "
                        "frame), or a folder; beside each file FILE.json says how to make it again")
        to.add_argument("--form", help="in a folder: mp4 (default), webm, gif, or png for a folder of frames each")
        to.add_argument("--scale", type=int, default=1, help="enlarge pixels that often")
        to.add_argument("--sheet", default="", metavar="FILE.png", help="a picture of all, a row each")
        to.add_argument("--overwrite", action="store_true", help="make anew what is there already")
        to.set_defaults(config=None)  # the model's own, whose sampling. and provenance. --config.FIELD changes

    generate = verb("generate", "Make videos, or images, of prompts; tell a story; or make a file again by its "
                    "sidecar. What is there already is not made again.")
    generate.add_argument("--model", default="", metavar="DIR", help="a run's folder, a quickstart's, or an export's")
    what = generate.add_mutually_exclusive_group()
    what.add_argument("--prompt", action="append", metavar="TEXT", help="may be given several times; none for a model "
                      "without text")
    what.add_argument("--prompts", metavar="FILE", help="one prompt a line")
    what.add_argument("--story", metavar="FILE", help="YAML or JSON, a list of scenes; or a prompt a line")
    what.add_argument("--from", dest="sidecar", default="", metavar="FILE.json", help="the sidecar of a file, which is "
                      "made again; --model where that lies elsewhere by now")
    add_files(generate)
    generate.add_argument("--frames", type=int, help="how many (default: as many as the model was trained on)")
    generate.add_argument("--num_videos_per_prompt", type=int, default=1, metavar="N", help="each with its own seed")
    generate.add_argument("--batch_size", type=int, default=8, help="videos that are made at once")
    generate.add_argument("--devices", type=int, default=1, help="of this machine, over which a batch is spread")
    generate.add_argument("--preview_every", type=int, default=0, metavar="PASSES", help="shows how far it is in "
                          "OUTPUT.preview.gif; of a story after each scene")
    generate.add_argument("--keyframes", type=int, help="make so many first, then the --between frames between two")
    generate.add_argument("--between", type=int, help="with --keyframes (default: 3)")
    generate.add_argument("--negative_prompt", metavar="TEXT", help="what guidance leads away from")
    generate.add_argument("--context_frames", type=int, metavar="K", help="that a story's windows grow out of (5)")
    generate.add_argument("--parts", metavar="DIR", help="keeps a story's scenes; the same command goes on from them")
    generate.add_argument("--redo", type=int, action="append", metavar="N", help="another draw of scene N of --parts")
    add_sampler(generate)
    generate.set_defaults(seed=None)  # a story's file may have its own

    for name, summary, files in (
            ("animate", "Set a picture in motion under a prompt.", {"image": "the first frame"}),
            ("interpolate", "Make what happens between two pictures.", {"image": "the first frame",
                                                                        "last_image": "the last"}),
            ("extend", "Go on from a video under a prompt.", {"video": "whose last frames are gone on from"}),
            ("inpaint", "Make a region of a short video anew under a prompt.", {
                "video": "as many frames as the model was trained on at most",
                "mask": "an image or a video, white where anew"})):
        task = verb(name, summary)
        add_model(task)
        task.add_argument("--prompt", metavar="TEXT", help="none for a model without text")
        for file, meaning in files.items():
            task.add_argument(f"--{file}", required=True, metavar="FILE", help=meaning)
        add_files(task)
        task.add_argument("--fit", default="centre", help="how files come to the model's size: centre (cut), top, "
                          "bottom, left, right, pad, stretch")
        task.add_argument("--input_fps", type=float, help="take a video's frames by their times at this rate (default: "
                          "each of its frames)")
        if name != "inpaint":
            task.add_argument("--frames", type=int, help="of the video, or, to extend, how many more")
        add_sampler(task)

    verify = verb("verify", "What a file tells of its origin: label, watermark, content credentials, sidecar.")
    verify.add_argument("file", metavar="FILE")
    verify.add_argument("--anchors", metavar="FILE.pem", help="certificates whose signers are trusted")
    verify.add_argument("--json", action="store_true", help="print an object instead of lines")

    export = verb("export", "Write a trained run as one folder that is a whole model.")
    add_model(export)
    export.add_argument("--output", required=True, metavar="DIR")
    export.add_argument("--format", dest="form", default="safetensors", help="safetensors, orbax, stablehlo (runs with "
                        "jax and numpy alone)")
    export.add_argument("--dtype", default="float32", help="of what is stored: float32, bfloat16, int8")
    export.add_argument("--step", type=int, help="which checkpoint (default: the last)")
    export.add_argument("--batch_size", type=int, help="of stablehlo: fixed (default: any)")
    export.add_argument("--license", default="", metavar="TEXT", help="for the model card")
    export.add_argument("--with_text_encoder", action="store_true", help="copy the pretrained text encoder, too")
    export.add_argument("--overwrite", action="store_true", help="replace an older export")

    ingest = verb("ingest", "Turn images or videos with captions into records; the same command goes on where it was.")
    ingest.add_argument("--source", required=True, metavar="PATH", help="file or folder, here or remote; tfds:NAME")
    ingest.add_argument("--output", required=True, metavar="DIR", help="the data set's folder")
    ingest.add_argument("--form", default="auto", help="webdataset, parquet, tfrecord, urls, csv, jsonl, folder, tfds")
    ingest.add_argument("--kind", help="video or image (default: as the first sample)")
    ingest.add_argument("--name", help="that records have as their source (default: the folder's)")
    ingest.add_argument("--size", default="64", metavar="HxW", help="of records; with a comma several, for aspects")
    ingest.add_argument("--fps", type=float, default=8.0, help="of clips, by their time stamps")
    ingest.add_argument("--min_frames", type=int, default=11, help="of a clip")
    ingest.add_argument("--max_frames", type=int, default=256, help="of a clip; a longer scene becomes several")
    ingest.add_argument("--scene_threshold", type=float, default=0.4, help="0 to 1: change that begins a clip; 1: none")
    ingest.add_argument("--crop", default="centre", help="centre or random")
    ingest.add_argument("--codec", default="lossy", help="lossy (jpeg, H.264) or lossless")
    ingest.add_argument("--upscale", action="store_true", help="keep what is smaller than --size")
    ingest.add_argument("--filter", action="append", metavar="NAME>=VALUE", help="width, height, side, aspect, "
                        "duration, caption_length, language, similarity, aesthetic, … (docs/data.md)")
    ingest.add_argument("--keep_missing", metavar="NAMES", help="filters that keep samples without their field")
    ingest.add_argument("--test_share", type=float, default=0.01, help="of the samples, for the split test")
    ingest.add_argument("--videos", metavar="DIR", help="where a table's files lie (default: beside it)")
    ingest.add_argument("--data_dir", metavar="DIR", help="of tfds:NAME")
    ingest.add_argument("--media_feature", help="of tfds:NAME, the one with pictures")
    ingest.add_argument("--caption_feature", help="of tfds:NAME")
    ingest.add_argument("--workers", type=int, help="processes (default: a core each)")
    ingest.add_argument("--max_bad", type=float, default=0.2, help="share of damaged samples above which it stops")
    ingest.add_argument("--patience", type=float, default=60.0, help="seconds that one sample may take")
    ingest.add_argument("--host", type=int, default=0, help="number of this machine, of --hosts that share the work")
    ingest.add_argument("--hosts", type=int, default=1)

    precompute = verb("precompute", "Read captions and encode clips beforehand, for text.cache and data.token_cache.")
    of = precompute.add_mutually_exclusive_group(required=True)
    of.add_argument("--model", metavar="DIR", help="a run's folder: its data and its models")
    of.add_argument("--config", metavar="FILE[:ARG]", help="of a generator yet to be trained; also --config.FIELD=…")
    precompute.add_argument("--what", required=True, help="text, tokens; both with a comma")
    into = precompute.add_mutually_exclusive_group(required=True)
    into.add_argument("--output", metavar="DIR", help="the cache; what is there already stays")
    into.add_argument("--columns", action="store_true", help="as fields of the records, which `phenaki ingest` made")
    precompute.add_argument("--host", type=int, default=0, help="number of this machine, of --hosts, with --columns")
    precompute.add_argument("--hosts", type=int, default=1)

    reconstruct = verb("reconstruct", "Encode and decode videos and images: what the tokenizer keeps of them.")
    add_model(reconstruct)
    reconstruct.add_argument("--input", required=True, metavar="FILE", help="a video, an image, or a folder of them")
    reconstruct.add_argument("--output", required=True, metavar="FILE", help="a file, or a folder for a folder")
    reconstruct.add_argument("--size", default="", metavar="HxW", help="at which it goes through; or native (default: "
                             "shrunk to as many pixels as the training clips have)")

    evaluate = verb("evaluate", "Measure a model by a protocol, or in the sprite world; or two folders of videos.")
    evaluate.add_argument("--model", metavar="DIR", help="a run's folder, or a quickstart's")
    how = evaluate.add_mutually_exclusive_group(required=True)
    how.add_argument("--protocol", metavar="NAME", help="fvd_2048_16, kinetics600_5_11, bair_1_15, t2i_fid, "
                     "mit_reconstruction_10, zero_shot_t2v, sprite_attributes, story, or a file NAME.yaml")
    how.add_argument("--suite", help="of the sprite world: attributes, tokenizer, stories; with commas, or all of "
                     "these; also long, control, editing, critic")
    evaluate.add_argument("--report", required=True, metavar="DIR",
                          help="a folder; with --suite also FILE.json or FILE.md")
    evaluate.add_argument("--samples", type=int, help="how many of each (default: the protocol's, the quickstart's)")
    evaluate.add_argument("--data", default="", metavar="TASK", help="whose records are the real clips")
    evaluate.add_argument("--data_dir", default="data", metavar="DIR", help="where they lie")
    evaluate.add_argument("--real", default="", metavar="DIR", help="a folder of real videos instead")
    evaluate.add_argument("--generated", default="", metavar="DIR", help="a folder of any model's videos")
    evaluate.add_argument("--clip", default="", metavar="DIR", help="a CLIP model as Hugging Face keeps it")
    evaluate.add_argument("--force", action="store_true", help="also of too few clips; the report says so")
    add_sampler(evaluate)

    vote = verb("vote", "A page on which people choose between two models' videos, and the tally of their votes.")
    vote.add_argument("--a", default="", metavar="DIR", help="videos of one model")
    vote.add_argument("--b", default="", metavar="DIR", help="those of the other, called alike")
    vote.add_argument("--output", default="", metavar="FILE.html")
    vote.add_argument("--question", default="Which video is better?")
    vote.add_argument("--seed", type=int, default=0, help="of who stands left")
    vote.add_argument("--tally", default="", metavar="FILES", help="votes.json files, with commas; with --key")
    vote.add_argument("--key", default="", metavar="FILE", help="NAME.key.json of the page")

    reproduce = verb("reproduce", "Train and measure what a table of the paper compares, in small; resumes. "
                     "--config.FIELD=VALUE changes all of its models.")
    reproduce.add_argument("table", metavar="TABLE", help="table1: unseen captions; table2: mixes of images and "
                           "videos; table3: the tokenizers; table4, table5: prediction; figure3: what only images "
                           "show; story: scenes with context")
    reproduce.add_argument("--workdir", metavar="DIR", help="(default: runs/TABLE)")
    reproduce.add_argument("--scale", default="cpu", help="cpu (an hour or so on two cores) or accelerator")
    reproduce.set_defaults(config=None)  # its table's own, which --config.FIELD changes

    compiling = verb("compile", "Compile training's step for TPUs that are not here: memory, FLOPs, what is sent, MFU.")
    compiling.add_argument("--config", required=True, metavar="FILE[:ARG]", help="also --config.FIELD=…")
    compiling.add_argument("--topology", required=True, metavar="NAME", help="v5p:4x4x4, v5e:16x16, v6e:8x8, v4:4x4x4, "
                           "tpu7x:2x2x2, …, several with a comma; local for the devices that are here")
    compiling.add_argument("--slices", type=int, default=1, help="of that topology, joined by a slow network")
    compiling.add_argument("--rows_a_chip", type=int, metavar="N", help="instead of the config's batch_size")
    compiling.add_argument("--no_estimate", action="store_true", help="leave out the time, two compilations fewer")
    compiling.add_argument("--json", action="store_true", help="print an object instead of lines")

    benchmark = verb("benchmark", "How fast a model trains and runs here, and in how much memory.")
    benchmark.add_argument("what", metavar="WHAT",
                           help="tokenizer, generator, sampling; length: 600 frames beside 33; input: the loader; "
                           "networks: those of the evaluation; pipeline: opening a --model and its first clips; "
                           "watermark: what it survives")
    benchmark.add_argument("--model", default="", metavar="DIR", help="of pipeline: a run's folder, or an export's")
    benchmark.add_argument("--config", metavar="FILE", help="default: configs/benchmark.py; also --config.FIELD=…")
    benchmark.add_argument("--peer", metavar="PYTHON", help="an interpreter with phenaki-pytorch: both, side by side")
    benchmark.add_argument("--rounds", type=int, help="timed rounds of each (default: 5); the median counts")
    benchmark.add_argument("--workers", type=int, help="of input: processes (default: a core each)")
    benchmark.add_argument("--report", metavar="FILE", help="FILE.json, to which the figures go as well")

    doctor = verb("doctor", "What this machine has, and what a run or a data set suffers from.")
    doctor.add_argument("--run", metavar="DIR", help="a run's folder, or a quickstart's")
    doctor.add_argument("--data", metavar="DIR|MIXTURE", help="a data set's folder, or a mixture")
    doctor.add_argument("--data_dir", metavar="DIR", help="where a mixture's data sets lie")
    doctor.add_argument("--split", default="train")
    doctor.add_argument("--sheet", default="data.png", metavar="FILE", help="for samples with captions; '' for none")
    doctor.add_argument("--examples", type=int, default=10_000, help="that are drawn and looked at")
    return parser


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """The options, and the texts of --config.FIELD=VALUE by field. Raises: UserError for what is neither."""
    parser = make_parser()
    options, rest = parser.parse_known_args(arguments)
    takes_config = hasattr(options, "config")
    overrides: dict[str, str] = {}
    rest = list(rest)
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        if not (takes_config and name.startswith("--config.")):
            raise UserError(_unknown(name, options.verb, parser))
        if not equals:
            if not rest:
                raise UserError(f"{name} has no value; write {name}=VALUE.")
            value = rest.pop(0)
        overrides[name.removeprefix("--config.")] = value
    return options, overrides


def _unknown(name: str, verb: str, parser: argparse.ArgumentParser) -> str:
    subparsers = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    known = [option for option in subparsers.choices[verb]._option_string_actions if option.startswith("--")]
    near = difflib.get_close_matches(name, known, 1) or [", ".join(known)]
    return f"phenaki {verb} has no option {name!r}; it has {near[0]}."


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line (default: the process's own) and returns its exit code."""
    try:
        options, overrides = parse(sys.argv[1:] if arguments is None else arguments)
        if arguments is None:
            restart_keeping_memory()
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # a name need not be UTF-8
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow greets at length wherever it is imported
        from absl import logging

        from phenaki_jax import cli

        logging.set_verbosity(logging.ERROR)  # Orbax and TFDS report every file
        return getattr(cli, options.verb)(options, overrides)
    except UserError as error:
        print(f"phenaki: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except DataError as error:
        print(f"phenaki: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever read what is printed has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno not in PLACES:
            raise
        print(f"phenaki: {error.filename!r}: {error.strerror}.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
