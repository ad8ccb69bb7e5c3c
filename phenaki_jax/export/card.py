"""The model card, README.md: what a run's own files say of a model, and that they do not say it where they do not."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from phenaki_jax import config as configs
from phenaki_jax.config import read_run_config
from phenaki_jax.errors import UserError
from phenaki_jax.evaluation import sprite_world
from phenaki_jax.evaluation.report import markdown_table, show
from phenaki_jax.training.checkpoints import checkpoint_steps
from phenaki_jax.training.metrics import EVALUATIONS, FILE, quiet_stderr, read_lines

Lines = list[str]
SPRITES = "sprite_"  # how the mixtures of data/sprite_stories begin
WHAT = {"tokenizer": "a tokenizer of videos: it encodes them into tokens and decodes these",
        "generator": "a generator of videos with its tokenizer",
        "critic": "a generator of videos with its tokenizer and a token critic"}


def card(title: str, config: Any, step: int, folder: Path, about: Mapping[str, Any], licence: str) -> str:
    """The card's text.

    Args:
      config, step: of the run, with the places of its files; they are looked into and not told.
      folder: the run's. about: the manifest. licence: "" where none was given.
    """
    runs = {config.stage: folder, **_earlier(config)}
    sections = {
        "What it is": _what(config, about),
        "How to use it": _use(title, config, about),
        "Sampling": _sampling(config),
        **{f"How the {stage} was trained": _training(stage, where, step if where == folder else None)
           for stage, where in runs.items()},
        "What was measured": _measured(config.stage, step, folder, about),
        "Limits": _limits(config, about["form"]),
        "Licence": [licence or "Not stated."],
        "Provenance": _provenance(config, step, about),
    }
    lines = [f"# {title}"]
    for name, section in sections.items():
        if section:
            lines += ["", f"## {name}", "", *section]
    return f"---\n{_front_matter(config, licence)}---\n\n" + "\n".join(lines) + "\n"


def _front_matter(config: Any, licence: str) -> str:
    """What Hugging Face reads of a card; its name for a licence that is not stated is unknown."""
    one = licence.lower() if len(licence.split()) == 1 else "other"
    fields = {"license": one if licence else "unknown"}
    if licence and one == "other":
        fields["license_name"] = licence
    fields["library_name"] = "phenaki_jax"
    if reads_text(config):
        fields["pipeline_tag"] = "text-to-video"
    fields["tags"] = ["phenaki", "jax", "c-vivit", *(["maskgit"] if config.stage != "tokenizer" else []),
                      *(["video-generation"] if config.stage != "tokenizer" else ["video-tokenizer"])]
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)


def reads_text(config: Any) -> bool:
    """Whether a model makes videos of texts."""
    return config.stage != "tokenizer" and config.text.encoder != "none"


def _what(config: Any, about: Mapping[str, Any]) -> Lines:
    sizes = config.tokenizer
    rows = {"tokenizer": (
        f"C-ViViT, {sizes.frames} frames of {sizes.height} x {sizes.width}, patches of {_list(sizes.patch)}, "
        f"{sizes.codebook_size} codes ({sizes.quantizer}), width {sizes.embed_dim}, {sizes.spatial_layers} + "
        f"{sizes.temporal_layers} layers each way, {sizes.heads} heads")}
    for name in ("generator", "critic"):
        if name in about["parts"]:
            part = config[name]
            rows[name] = (f"transformer over tokens, {part.layers} layers of width {part.embed_dim}, {part.heads} "
                          f"heads, MLPs of {part.mlp_dim}")
    lines = [f"This is {WHAT[config.stage]}, as in [Phenaki](https://arxiv.org/abs/2210.02399), made by phenaki_jax.",
             "", *markdown_table(["part", "parameters", "sizes"], [
                 [name, f"{part['parameters']:,}", rows[name]] for name, part in about["parts"].items()])]
    if reads_text(config):
        text = config.text
        lines += ["", f"Texts are read by a small T5 encoder over bytes that was trained along ({text.layers} layers "
                  f"of width {text.embed_dim}, counted with the generator)." if text.encoder == "bytes" else
                  f"Texts are read by a pretrained T5, {about['text_encoder']['name']}, which is "
                  f"{'in text_encoder/' if about['text_encoder']['carried'] else 'not in this folder'}."]
    kept = {"float32": "They are float32.", "bfloat16": "They were rounded to bfloat16.",
            "int8": "Kernels and tables were rounded to int8, a scale for each channel; the rest is float32."}
    return [*lines, "", f"The parameters are averages over training (EMA). {kept[about['dtype']]}"]


def _use(title: str, config: Any, about: Mapping[str, Any]) -> Lines:
    version = about["versions"].get("phenaki_jax", "")
    if about["form"] == "stablehlo":
        asked = f'--prompt="{_prompt(config)}" --output=clip.png' if reads_text(
            config) and config.text.encoder == "bytes" else "--help"
        return ["The programs here need jax and numpy alone:", "", "```", f"python generate.py {asked}", "```"]
    load = ["import phenaki_jax", f'pipe = phenaki_jax.PhenakiPipeline.from_pretrained({title!r})']
    if config.stage == "tokenizer":
        ways = ([f"phenaki reconstruct --model={shlex.quote(title)} --input=clip.mp4 --output=again.mp4"],
                [*load, "again = pipe.reconstruct(video)    # uint8 [N, F, Y, X, 3], both"])
    else:
        prompt = f'"{_prompt(config)}"' if reads_text(config) else ""
        told = f" --prompt={prompt}" if prompt else ""
        ways = ([f"phenaki generate --model={shlex.quote(title)}{told} --output=clip.mp4"],
                [*load, f"frames = pipe({prompt}{', ' if prompt else ''}seed=0).frames    # uint8 [N, F, Y, X, 3]"])
    missing = reads_text(config) and not about.get("text_encoder", {}).get("carried", True)
    return [f"With phenaki_jax {version} installed, in the folder that holds `{title}`:".replace("  ", " "), "",
            "```", *ways[0], "```", "", "```python", *ways[1], "```",
            *(["", 'It needs that T5: from_pretrained takes overrides={"text.path": FOLDER}.'] if missing else [])]


def _prompt(config: Any) -> str:
    return "a solid red circle moves left quickly on black" if _is_sprites(config) else "…"


def _is_sprites(config: Any) -> bool:
    return any(name.startswith(SPRITES) for _, name in configs.mixtures(config))


def _sampling(config: Any) -> Lines:
    if config.stage == "tokenizer":
        return []
    return ["Recommended, and used where nothing else is said:", "",
            *markdown_table(["choice", "value"], config.sampling.items())]


def _earlier(config: Any) -> dict[str, Path | None]:
    """The runs that a run was built on, None where they are no longer there."""
    fields = {"generator": {"tokenizer": "tokenizer_run"}, "critic": {"generator": "generator_run"}}
    found: dict[str, Path | None] = {}
    for stage, field in fields.get(config.stage, {}).items():
        place = Path(config.get(field) or "")
        there = bool(config.get(field)) and (place / configs.RUN_CONFIG).is_file()
        found[stage] = place if there else None
        found |= _earlier(read_run_config(place)) if there else {
            name: None for name in fields.get(stage, {})}
    return found


def _training(stage: str, folder: Path | None, step: int | None) -> Lines:
    if folder is None:
        return ["Not stated: its run was not there when this folder was made."]
    config = read_run_config(folder)
    if step is None:
        step = max(checkpoint_steps(folder), default=config.train.steps)
    rows = [["mixture", "; ".join(_mixture(config, first, name) for first, name in configs.mixtures(config))],
            ["frame rate", f"{config.data.fps:g} a second"], ["rows in a batch", config.batch_size],
            ["steps", f"{step} of {config.train.steps}"],
            ["optimizer", ", ".join(f"{name} {value}" if name != "name" else value for name, value in sorted(
                config.optimizer.items(), key=lambda item: item[0] != "name"))],
            ["average of parameters (EMA)", config.train.ema_decay], ["seed", config.seed]]
    if stage == "tokenizer":
        rows.append(["losses", ", ".join(f"{name} {config.loss[name]:g}" for name in (
            "l2", "perceptual", "image_perceptual", "video_perceptual", "adversarial", "quantizer")
            if config.loss.get(name))])
    else:
        rows += [["text left out", f"{100 * config.data.text_drop:g} % of the rows"],
                 ["masked by", config.train.mask_schedule]]
    return [*markdown_table(["what", "value"], rows), "", *_metrics(folder, step)]


def _mixture(config: Any, first: int, name: str) -> str:
    """A mixture with the rates of its data sets, as they are registered here."""
    said = name if not first else f"from batch {first} {name}"
    try:
        with quiet_stderr():
            from phenaki_jax.input.mix import find_mixture  # brings TensorFlow, which greets at length
            _, rates = find_mixture(name, tuple(config.data.modules), data_dir=config.data.data_dir)
    except (ImportError, UserError):
        return f"{said} (rates not stated: it is not registered here)"
    return f"{said}: " + ", ".join(f"{task} {100 * rate / sum(rates.values()):g} %" for task, rate in rates.items())


def _metrics(folder: Path, step: int) -> Lines:
    lines = [line for line in _lines(folder / FILE) if line["step"] <= step]
    if not lines:
        return [f"What it logged is absent: there was no {FILE}."]
    last = {name: value for name, value in lines[-1].items() if name not in ("step", "time")}
    return [f"Logged last, means of the steps up to {lines[-1]['step']}:", "",
            *markdown_table(["metric", "value"], [[name, f"{value:.4g}"] for name, value in last.items()])]


def _measured(stage: str, step: int, folder: Path, about: Mapping[str, Any]) -> Lines:
    lines = []
    for where in (folder, *([folder.parent] if folder.name == stage else [])):
        found = _json(where / "report.json")
        if "table" in found and found.get("circumstances", {}).get("steps", {}).get(stage) == step:
            lines += ["The run's report:", "", *markdown_table(["what", "bar", "measured"], [
                [row["what"], row["bar"], row["measured"] + (" (missed)" if row["met"] is False else "")]
                for row in found["table"]]), ""]
    for found in _protocols(folder, about["run_fingerprint"]):
        counts = ", ".join(f"{count} {which}" for which, count in found["counts"].items())
        lines += [f"{found['protocol']['name']} ({found['protocol']['about']}; clips: {counts}):", "", *markdown_table(
            ["figure", "value", "95 %", "floor: real against real"], [
                [name, show(entry["value"]), _interval(entry.get("interval")), show(entry.get("floor"))]
                for name, entry in found["figures"].items()]), "",
            *(f"- {sentence}" for sentence in found["too_small"]), *([""] if found["too_small"] else [])]
    for line in _lines(folder / EVALUATIONS):
        if line["step"] == step:
            lines += ["Evaluated while it trained, at this step:", "", *markdown_table(["figure", "value"], [
                [name, f"{value:.4g}"] for name, value in line.items() if name not in ("step", "time")]), ""]
    if not lines:
        return ["Nothing that could be read here: no report of this checkpoint was with the run."]
    return [*lines[:-1], *(["", f"All of it of the float32 parameters, before they were rounded to {about['dtype']}."]
                           if about["dtype"] != "float32" else [])]


def _protocols(folder: Path, fingerprint: str) -> Iterator[Mapping[str, Any]]:
    """Reports of `phenaki evaluate --protocol` that lie with a run and are of the model of this fingerprint."""
    seen = set()
    for path in sorted([*folder.glob("*/report.json"), *folder.glob("evaluation/*/*/report.json")]):
        found = _json(path)
        if found.get("made_by", {}).get("fingerprint") == fingerprint and found["protocol"]["name"] not in seen:
            seen.add(found["protocol"]["name"])
            yield found


def _limits(config: Any, form: str) -> Lines:
    sizes, data = config.tokenizer, config.data
    lines = [f"It was trained on clips of {sizes.frames} frames of {sizes.height} x {sizes.width} at {data.fps:g} a "
             "second" + ("." if config.stage == "tokenizer" or form == "stablehlo" else
                         "; longer videos are made window by window, each out of the last frames before it.")]
    if reads_text(config):
        unit = "bytes" if config.text.encoder == "bytes" else "ids of its vocabulary"
        lines.append(f"A prompt has at most {config.text.length - 1} {unit}.")
    elif config.stage != "tokenizer":
        lines.append("It reads no text.")
    if _is_sprites(config):
        lines.append("It knows the sprite world alone" + (", and its captions: one object, " if reads_text(config)
                                                           else ": one object, ")
                     + f"{_or(sprite_world.COLOURS)}, {_or(sprite_world.SHAPES)} or, in the mixtures with digits, a "
                     f"digit, {_or(sprite_world.STYLES)}, moving {_or(sprite_world.DIRECTIONS)}, "
                     f"{_or(sprite_world.SPEEDS)}, or still, on {_or(sprite_world.BACKGROUNDS)}. Captions of videos "
                     f"never have {' or '.join(sprite_world.IMAGE_ONLY.values())}; those of images do.")
    return [f"- {line}" for line in lines]


def _provenance(config: Any, step: int, about: Mapping[str, Any]) -> Lines:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    lines = [f"Exported by `phenaki export --format={about['form']} --dtype={about['dtype']}` ({versions}) from step "
             f"{step} of a run of seed {config.seed}; its parameters and sizes have the fingerprint "
             f"{about['run_fingerprint']}." + (
                 f" As they are read from this folder it is {about['fingerprint']}."
                 if about["fingerprint"] != about["run_fingerprint"] else ""),
             "model.json has the size and the SHA-256 of every file, and "
             f"{'generate.py' if about['form'] == 'stablehlo' else 'phenaki_jax'} refuses the folder where one "
             "differs."]
    return [f"- {line}" for line in lines]


# ----------------------------------------------------------------------------------------------------- small forms

def _list(values: Sequence) -> str:
    return " x ".join(map(str, values))


def _or(words: Any) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}"


def _interval(pair: Sequence[float] | None) -> str:
    return f"{show(pair[0])} to {show(pair[1])}" if pair else "–"


def _lines(path: Path) -> list[dict[str, Any]]:
    return read_lines(path) if path.is_file() else []


def _json(path: Path) -> dict[str, Any]:
    """The object in a file; {} where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
