"""Table 3: the tokenizers of the paper in small, trained by the same stage and measured alike."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from phenaki_jax import evaluation, media, pictures
from phenaki_jax.digest import digest
from phenaki_jax.errors import UserError
from phenaki_jax.evaluation.clips import save
from phenaki_jax.evaluation.features import FEWEST_CLIPS
from phenaki_jax.ledger import Ledger
from phenaki_jax.reproduce import common
from phenaki_jax.reproduce.common import SEED, show
from phenaki_jax.training.metrics import count_parameters

CONFIG = "configs/table3.py"
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


def main(workdir: pathlib.Path, scale: str, overrides: Mapping[str, Any] | None, sizes: Scale) -> int:
    """See `reproduce.main`; features/ has what I3D makes of clips."""
    common.check_installed("table3", ("metrics", "train"))
    runs = {name: common.run_config(f"{CONFIG}:{name},{scale}", workdir, overrides) for name in sizes.models}
    ledger = Ledger(workdir / "ledger.json")

    common.heading("data", workdir / "data")
    with ledger.timed("data"):
        clips = held_out(runs["cvivit"], sizes)
    common.heading("real clips against each other", workdir / "features")
    with ledger.timed("real clips"):
        controls = measure_controls(clips, workdir / "features")
    print(f"  FVD: {common.figures(controls, controls)}", flush=True)

    models = {}
    for name, config in runs.items():
        if not common.train(config, workdir / name, MODELS[name][0], ledger):
            return common.STOPPED
        with ledger.timed(f"{name}: measuring"):
            models[name] = measure(config, workdir / name, clips, sizes, workdir / "features")
        print(f"  {common.figures(models[name], ('tokens', *QUALITY, 'fvd'))}", flush=True)

    measured = {"models": models, "controls": controls, "clips": clips.counts(), "directions": directions(models)}
    measured["circumstances"] = common.circumstances(
        runs["cvivit"], scale, ledger, mixture=runs["cvivit"].data.mixture, fvd=evaluation.FVD_PROTOCOL)
    draw_samples(workdir, clips, sizes)
    return common.finish(workdir, measured, report(measured), ["samples.png"], ledger)


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
        return digest(self.real, *(clips for _, clips in sorted(self.films.items())))


def held_out(config: Any, sizes: Scale) -> Clips:
    """Builds the records that are absent and reads the held-out ones; without the extra `clips` there are no films."""
    from phenaki_jax.input import mix  # brings TensorFlow
    data = config.data
    where = {"data_dir": data.data_dir, "modules": tuple(data.modules)}

    def read(task: str, split: str, count: int) -> list:
        mix.prepare(task, **where)
        return mix.eval_records(task, split, count, **where)

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


# ------------------------------------------------------------------------------------------------- measuring

def measure_controls(clips: Clips, folder: pathlib.Path) -> dict:
    """FVD of what is no reconstruction: other real clips, the first frame of each clip held, its frames shuffled."""
    real, others = common.video_features(clips.real, folder), {"floor": clips.other} | {
        kind: evaluation.controls(clips.real, kind, seed=[SEED, 0]) for kind in ("static", "shuffled")}
    return {name: evaluation.frechet_distance(real, common.video_features(other, folder))
            for name, other in others.items()}


def measure(config: Any, run: pathlib.Path, clips: Clips, sizes: Scale, folder: pathlib.Path) -> dict:
    """The figures of a trained run, from its measured.json where they were made by this very checkpoint and settings.

    Returns:
      parameters, tokens (a clip), psnr, ssim, lpips, fvd, fvd_interval (95 %), fvd_resamples, codebook, films (psnr,
      ssim, lpips of each source), made_by.
    """
    made_by = common.made_by(config, run, clips.digest(), sizes.resamples, sizes.shown, evaluation.FVD_PROTOCOL)
    shown = run / "shown.npy"

    def figures() -> dict:
        from phenaki_jax.pipeline import PhenakiPipeline
        tokenizer = PhenakiPipeline.from_pretrained(run).tokenizer
        restored, tokens = reconstruct(tokenizer, clips.real)
        films = {source: (truth, reconstruct(tokenizer, truth)[0]) for source, truth in clips.films.items()}
        draws = np.random.default_rng([SEED, 1]).integers(len(restored), size=(sizes.resamples, len(restored)))
        real, ours = common.video_features(clips.real, folder), common.video_features(restored, folder)
        resamples = [evaluation.frechet_distance(real[draw], ours[draw]) for draw in draws]
        save(shown, _rows(restored, {source: pair[1] for source, pair in films.items()}, sizes.shown))
        return _quality(clips.real, restored) | {
            "parameters": count_parameters(tokenizer.params), "tokens": int(np.prod(tokens.shape[1:])),
            "fvd": evaluation.frechet_distance(real, ours), "fvd_resamples": resamples,
            "fvd_interval": [float(bound) for bound in np.percentile(resamples, (2.5, 97.5))],
            "codebook": evaluation.codebook_use(tokens, tokenizer.codebook_size),
            "films": {source: _quality(*pair) for source, pair in films.items()}}

    return common.once(run, made_by | {"clips": len(clips.real)}, [shown], figures)


def reconstruct(tokenizer: Any, clips: np.ndarray, batch_size: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """What a tokenizer keeps of clips uint8 [N, F, Y, X, 3]: the same shape, and tokens int32 [N, T, H, W]."""
    tokens = [np.asarray(tokenizer.encode(clips[i:i + batch_size])) for i in range(0, len(clips), batch_size)]
    frames = [media.to_uint8(tokenizer.decode(part, clips.shape[1])) for part in tokens]
    return np.concatenate(frames), np.concatenate(tokens)


def _quality(truth: np.ndarray, restored: np.ndarray) -> dict:
    return {name: getattr(evaluation, name)(truth, restored) for name in QUALITY}


# ------------------------------------------------------------------------------------------------- the report

def directions(models: Mapping[str, Mapping]) -> list[dict]:
    """Whether the paper's directions hold: [{"what", "bar", "measured", "met" (None: not measured)}].

    Beside a difference of FVD stands in how many resamples of the clips, the same for both models, it has that sign.
    """
    rows = []

    def compare(what: str, name: str, other: str, key: str, higher: bool = False) -> None:
        ours, theirs = (models.get(model, {}).get(key) for model in (name, other))
        met, text = None, "–"
        if ours is not None and theirs is not None:
            met, text = bool(ours > theirs if higher else ours < theirs), f"{show(ours)} against {show(theirs)}"
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
    rows = []
    for name, entry in models.items():
        title, paper = MODELS[name]
        between = " to ".join(map(show, entry["fvd_interval"]))
        rows.append([title, f"{entry['parameters']:,}", entry["tokens"], show(entry["fvd"]), between,
                     *(show(entry[key]) for key in QUALITY), f"{100 * entry['codebook']['usage']:.0f} %", "–",
                     *(paper or "–––")])
    return "\n".join([
        "# Table 3 in small", "",
        f"{how['steps']} steps of {how['batch_size']} rows of {how['mixture']} each, the same batches and seed, "
        f"parameters within {100 * (max(sizes) / min(sizes) - 1):.1f} % of one another, {N} held-out clips.", "",
        *common.table(columns, rows), "",
        f"- FVD is between the {N} clips and their own reconstructions{few}; 95 %: over resamples of these pairs.",
        f"- FVD of other things: {counts['other']} other real clips ({counts['other_split']} split; floor), the first "
        f"frame held (static), frames shuffled: {common.figures(controls, controls)}.",
        "- Codes: share of the codebook in use. FID of frames is not measured yet.",
        "- The paper's figures are of Moments in Time, 10 frames of 128 x 128: only their order can be compared.", "",
        "## Directions", "", *common.directions_table(measured["directions"]), "",
        "## Real clips", "", *_film_table(models, counts), "",
        "## Circumstances", "", *common.circumstances_list(how)]) + "\n"


def _film_table(models: Mapping[str, Mapping], counts: Mapping) -> list[str]:
    films = counts["films"]
    if not films:
        return [f"Not measured: {counts['no_films']}"]
    return ["PSNR / SSIM / LPIPS of held-out clips of films that no model has seen and nothing was tuned on.", "",
            *common.table(["model", *(f"{source} ({count})" for source, count in films.items())],
                          [[MODELS[name][0], *(" / ".join(show(entry["films"][source][key]) for key in QUALITY)
                                               for source in films)] for name, entry in models.items()])]


def draw_samples(workdir: pathlib.Path, clips: Clips, sizes: Scale) -> None:
    """samples.png: held-out clips and one of each film, and what each model keeps of them."""
    columns = {"truth": _rows(clips.real, clips.films, sizes.shown)}
    columns |= {MODELS[name][0]: np.load(workdir / name / "shown.npy") for name in sizes.models}
    names = [f"sprites {i + 1}" for i in range(min(sizes.shown, len(clips.real)))] + list(clips.films)
    scale = max(1, 96 // clips.real.shape[3])
    media.write_image(workdir / "samples.png", pictures.sheet(columns, 3, names, scale))


def _rows(sprites: np.ndarray, films: Mapping[str, np.ndarray], count: int) -> np.ndarray:
    return np.concatenate([sprites[:count], *(clips[:1] for clips in films.values())])
