"""`phenaki evaluate --protocol`: a model, or two folders of videos, measured as a protocol says; resumes."""

import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from phenaki_jax import config as configs
from phenaki_jax import evaluation, media, pictures
from phenaki_jax.digest import digest
from phenaki_jax.errors import UserError
from phenaki_jax.evaluation import harness, page
from phenaki_jax.evaluation.clips import PIECE, Clips, of_folder, of_records, once
from phenaki_jax.evaluation.protocols import WITH_TRUTH, Protocol, read_protocol
from phenaki_jax.evaluation.report import markdown_table, show
from phenaki_jax.ledger import Ledger

SHOWN = 6  # clips on the contact sheet
FILES = ("report.json", "report.md", "report.html")
NAMES = {"fvd": "FVD", "kvd": "KVD", "fid": "FID", "kid": "KID", "psnr": "PSNR, dB", "ssim": "SSIM", "lpips": "LPIPS",
         "clip": "CLIP score, cosine", "motion": "motion, % of the frame's side a frame",
         "flicker": "temporal error, grey levels", "precision": "precision", "recall": "recall"}


@dataclasses.dataclass(frozen=True)
class Sources:
    """Where clips come from.

    Attributes:
      data, data_dir, modules: a task of records. real, generated: folders of videos instead; "" for none.
    """
    data: str = ""
    data_dir: str = ""
    modules: tuple[str, ...] = ("data.mixtures",)
    real: str = ""
    generated: str = ""


def main(protocol: Protocol, sources: Sources, report: str | os.PathLike, pipe: Any = None, *, model: str = "",
         seed: int = 0, sampler: Mapping[str, Any] | None = None, force: bool = False, clip: str = "",
         cache: str = "", seen_by: Mapping[str, harness.Network] | None = None, resamples: int = 100) -> dict[str, Any]:
    """Measures what is not measured yet and writes report.json, report.md, report.html and sheet.png into a folder.

    Args:
      pipe: the model, for all tasks but 'compare'. model: its name, for the report.
      force: measures sets that are too small as well; the report says so.
      clip: a local CLIP folder, for the metric 'clip', which is left out without one.
      cache: where what networks see of clips is kept, by content (default: $PHENAKI_CACHE/evaluation, else
        ~/.cache/phenaki_jax/evaluation).
      seen_by: networks in place of `harness.networks()`.

    Returns:
      What report.json holds.

    Raises: UserError for sources or a model that the protocol cannot use, and for too few clips.
    """
    folder = pathlib.Path(report)
    if folder.suffix or folder.is_file():
        raise UserError(f"--report={str(report)!r} has to be a folder, for {', '.join(FILES)}")
    seen_by = seen_by or harness.networks()
    harness.check_installed(protocol, seen_by)
    folder.mkdir(parents=True, exist_ok=True)
    kept = pathlib.Path(cache or os.path.join(os.environ.get("PHENAKI_CACHE", os.path.expanduser(
        "~/.cache/phenaki_jax")), "evaluation"))
    sampler, ledger = dict(sampler or {}), Ledger(folder / "ledger.json")
    real, other = _real(protocol, sources, pipe)
    made, ceiling = _made(protocol, sources, pipe, real, folder / "made", seed, sampler)
    small = harness.check_sizes(protocol, real.count, made.count, seen_by, force)
    score, clip_about = _clip_score(protocol, clip)
    with ledger.timed("measuring", folder):
        found = harness.measure(protocol, real, made, folder=kept, seen_by=seen_by, other=other, ceiling=ceiling,
                                clip_score=score, resamples=resamples, seed=seed, log=_say)
    missing = [name for name in protocol.metrics if name not in found["figures"]]
    found |= {
        "protocol": dataclasses.asdict(protocol), "too_small": small, "not_measured": missing,
        "made_by": {
            "model": model, "fingerprint": pipe.fingerprint if pipe is not None else "", "seed": seed,
            "sampling": _sampling(pipe) | sampler, "real": real.about, "made": made.about, "size": [
                int(side) for side in real.read(0, 1).shape[2:4]], "other": f"as many others of {other.about}" if other
            else "the real clips' own halves", "prompts_sha": digest(list(real.captions)) if real.captions else "",
            "networks": {name: dict(seen_by[name].about) for name in harness.needed(protocol)}, "clip": clip_about},
        "circumstances": evaluation.circumstances() | {
            "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}", "minutes": ledger.seconds / 60}}
    sheet = _sheet(real, made, ceiling, protocol)
    media.write_image(folder / "sheet.png", sheet)
    media.write_text(folder / "report.md", markdown(found))
    media.write_text(folder / "report.html", html(found, sheet))
    media.write_text(folder / "report.json", json.dumps(found, indent=1) + "\n")
    columns, lines = rows(found)
    for line in lines:
        cells = "; ".join(f"{column} {cell}" for column, cell in zip(columns[2:], line[2:]) if cell != "–")
        _say(f"{line[0]}: {line[1]}" + (f" ({cells})" if cells else ""))
    print(*(folder / name for name in FILES), sep="\n")
    return found


def in_training(config: Any, workdir: str | os.PathLike) -> Callable[..., dict[str, float]] | None:
    """What `training.loop.train` asks as `evaluate`, None where config.train.evaluate names no protocol.

    The protocols are read now, so that a mistake is said before anything is trained. Their real clips are records of
    train.evaluate_data, else of the protocol's own data; train.evaluate_clips says how many, 0 leaves the protocol's
    number. Reports lie in evaluation/PROTOCOL/STEP of the run's folder; sets that are too small are measured and told.

    Raises: UserError for a protocol that is none, compares folders, or has no data.
    """
    wanted = config.train.get("evaluate", ())
    if not wanted:
        return None
    protocols = [read_protocol(name, clips=config.train.evaluate_clips or None) for name in wanted]
    resolved = configs.resolve(config, pathlib.Path(workdir))
    for protocol in protocols:
        of_tokenizers = protocol.task == "reconstruction" or protocol.suites == ("tokenizer",)
        if protocol.task == "compare" or (config.stage == "tokenizer" and not of_tokenizers):
            raise UserError(f"train.evaluate={wanted} has {protocol.name}, which a {config.stage} in training cannot "
                            f"be measured by; its task is {protocol.task}")
        if protocol.task != "sprites" and not (config.train.evaluate_data or protocol.data):
            raise UserError(f"train.evaluate={wanted} has {protocol.name}, which names no data; set "
                            "train.evaluate_data to a task of records")

    def evaluate(step: int, params: Any, variables: Any, frozen: Any) -> dict[str, float]:
        from phenaki_jax.pipeline import PhenakiPipeline
        pipe = PhenakiPipeline.of_arrays(resolved, params, variables, frozen)
        figures: dict[str, float] = {}
        for protocol in protocols:
            folder = pathlib.Path(workdir) / "evaluation" / protocol.name / str(step)
            if protocol.task == "sprites":
                figures |= _of_sprites(protocol, pipe, resolved)
                continue
            found = main(protocol, Sources(resolved.train.evaluate_data, resolved.data.data_dir,
                                           tuple(resolved.data.modules)), folder, pipe, model=str(workdir),
                         seed=resolved.seed, force=True)
            shutil.rmtree(folder / "made", ignore_errors=True)
            figures |= {f"{protocol.name}/{name}": entry["value"] for name, entry in found["figures"].items()
                        if entry["value"] is not None}
        return figures

    return evaluate


def _of_sprites(protocol: Protocol, pipe: Any, config: Any) -> dict[str, float]:
    """The shares of attributes that the suites of the sprite world find."""
    from phenaki_jax import quickstart as world
    sizes = world.Sizes.of_each(config.train.evaluate_clips) if config.train.evaluate_clips else world.Sizes()
    found = world.evaluate(pipe, config, sizes, protocol.suites, config.seed)
    return {f"{protocol.name}/{suite}/{name}": value for suite, part in found.items() if isinstance(part, Mapping)
            for name, value in part.get("agreement", {}).items() if value is not None}


# ------------------------------------------------------------------------------------------------- sets of clips

def _real(protocol: Protocol, sources: Sources, pipe: Any) -> tuple[Clips, Clips | None]:
    """The real clips, and as many others for the floor where there are."""
    size = (protocol.height, protocol.width)
    if pipe is not None:
        trained = pipe.config.tokenizer.height, pipe.config.tokenizer.width
        if all(size) and size != trained:
            raise UserError(f"the protocol {protocol.name} is of {size[0]} x {size[1]} pixels, and the model of "
                            f"{trained[0]} x {trained[1]}; take another model, or change height and width")
        size = trained
    if sources.real:
        clips = of_folder(sources.real, protocol, size if all(size) else None, "--real")
    elif sources.data or protocol.data:
        if not all(size):
            raise UserError(f"the protocol {protocol.name} gives records no height and width; set both")
        clips = of_records(sources.data or protocol.data, protocol, size, 2 * protocol.clips, sources.data_dir,
                           sources.modules, "--data")
    else:
        raise UserError(f"the protocol {protocol.name} names no data; give --data=TASK or --real=FOLDER")
    if clips.count < 2:
        raise UserError(f"{clips.about} has {clips.count} clips; a set has at least 2")
    rest = clips.rest(min(clips.count, protocol.clips)).first(protocol.clips)
    real = clips.first(protocol.clips)
    return real, rest if rest.count == real.count else None


def _made(protocol: Protocol, sources: Sources, pipe: Any, real: Clips, folder: pathlib.Path, seed: int,
          sampler: Mapping[str, Any]) -> tuple[Clips, Clips | None]:
    """What is measured, and the real clips as the model's tokenizer gives them back."""
    if protocol.task == "compare":
        if not sources.generated:
            raise UserError(f"the protocol {protocol.name} compares two sets; give --generated=FOLDER")
        size = real.read(0, 1).shape[2:4]
        return of_folder(sources.generated, protocol, size, "--generated").first(protocol.clips), None
    if pipe is None:
        raise UserError(f"the protocol {protocol.name} is of a model; give --model")
    if protocol.task != "reconstruction" and pipe.generator is None:
        raise UserError(f"the protocol {protocol.name} wants a generator; this run is a tokenizer's")
    if protocol.task.startswith("text_to") and not real.captions:
        raise UserError(f"the protocol {protocol.name} reads captions, and {real.about} has none; a video's is the "
                        "text of NAME.txt beside it")
    again = _once(folder, real.count, real.read, (pipe.fingerprint, "reconstructed"),
                  lambda a, b, video: pipe.reconstruct(video))
    restored = Clips(f"{real.about}, reconstructed", real.count, again)
    if protocol.task == "reconstruction":
        return restored, None
    times, told = protocol.repeats, pipe.generator.config.is_told

    def generate(start: int, stop: int, asked: Any) -> np.ndarray:
        seeds = [int(np.random.SeedSequence([seed, i]).generate_state(1)[0] >> 1) for i in range(start, stop)]
        if protocol.task == "prediction":
            prompts = [real.captions[i // times] if real.captions else "" for i in range(start, stop)] if told else None
            given, more = asked[:, :protocol.given], protocol.frames - protocol.given
            return pipe.extend(prompts, given, num_frames=more, seed=seeds, **sampler).frames
        return pipe(list(asked), num_frames=protocol.frames, seed=seeds, **sampler).frames

    def asked(start: int, stop: int) -> Any:
        if protocol.task != "prediction":
            return [real.captions[i // times] for i in range(start, stop)]
        first, last = start // times, (stop - 1) // times + 1
        return np.repeat(real.read(first, last), times, axis=0)[start - first * times:stop - first * times]

    settings = pipe.fingerprint, protocol.task, protocol.given, protocol.frames, seed, dict(sampler)
    count = real.count * times
    return Clips("generated", count, _once(folder, count, asked, settings, generate)), restored


def _once(folder: pathlib.Path, count: int, asked: Callable, settings: tuple,
          make: Callable) -> Callable[[int, int], np.ndarray]:
    """read(start, stop) of `count` clips: make(a, b, asked(a, b)) of whole pieces, each once for its content and
    settings."""
    def piece(first: int) -> np.ndarray:
        last = min(first + PIECE, count)
        of = asked(first, last)
        return once(folder, digest(of, first, last, *settings), lambda: make(first, last, of))

    def read(start: int, stop: int) -> np.ndarray:
        firsts = range(start - start % PIECE, stop, PIECE)
        return np.concatenate([piece(first)[max(start - first, 0):stop - first] for first in firsts])
    return read


def _sampling(pipe: Any) -> dict[str, Any]:
    """How a model samples where nothing else is said."""
    return pipe.config.sampling.to_dict() if getattr(pipe, "generator", None) else {}


def _clip_score(protocol: Protocol, folder: str) -> tuple[Callable | None, dict]:
    if "clip" not in protocol.metrics or not folder:
        return None, {}
    from phenaki_jax.evaluation import image_features
    scorer = image_features.ClipScore(folder)
    return scorer, scorer.about


def _say(line: str) -> None:
    print(f"  {line}", flush=True)


# ------------------------------------------------------------------------------------------------- the report

def rows(found: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The table of figures: columns and rows, in words."""
    paper = found["protocol"]["paper"]
    columns = ["figure", "value", "95 %", "floor: real against real", "controls", "ceiling: reconstructed"] + (
        ["published"] if paper else [])
    lines = []
    for name, entry in found["figures"].items():
        between = " to ".join(map(show, entry["interval"])) if "interval" in entry else "–"
        controls = ", ".join(f"{kind} {show(value)}" for kind, value in entry.get("controls", {}).items()) or "–"
        equal = f" (without {entry['equal']} equal clips)" if entry.get("equal") else ""
        lines.append([NAMES[name] + equal, show(entry["value"]), between, show(entry.get("floor")), controls,
                      show(entry.get("ceiling"))] + ([show(paper.get(name))] if paper else []))
    return columns, lines


def remarks(found: Mapping[str, Any]) -> list[str]:
    """What a reader has to know of the figures, a sentence each."""
    made, counts = found["made_by"], found["counts"]
    lines = [f"{found['protocol']['about']}.",
             f"{counts['real']} real clips ({made['real']}) and {counts['made']} made ones ({made['made']}); the floor "
             f"is of {made['other']}."]
    if counts["real"] < found["protocol"]["clips"]:
        lines.append(f"Fewer: the protocol has {found['protocol']['clips']} clips.")
    lines += [f"Forced: {words}." for words in found["too_small"]]
    if "with loss" in made["real"] + made["made"]:
        lines.append("Files compressed with loss change FVD and FID.")
    lines += [f"Not measured: {', '.join(found['not_measured'])}."] if found["not_measured"] else []
    return lines


def markdown(found: Mapping[str, Any]) -> str:
    """report.md."""
    lines = [f"# {found['protocol']['name']}", "", *(f"- {line}" for line in remarks(found)), "",
             *markdown_table(*rows(found)), "", "## Made by", ""]
    lines += [f"- {name}: {json.dumps(value)}" for name, value in (found["made_by"] | {
        "protocol": found["protocol"]}).items()]
    lines += ["", "## Circumstances", ""]
    lines += [f"- {name}: {json.dumps(value)}" for name, value in found["circumstances"].items()]
    return "\n".join(lines) + "\n"


def html(found: Mapping[str, Any], sheet: np.ndarray) -> str:
    """report.html: what report.md has, curves and the contact sheet."""
    parts = [page.paragraph(line, bad=line.startswith(("Fewer", "Forced", "Files"))) for line in remarks(found)]
    parts.append(page.table(*rows(found)))
    for name, entry in found["figures"].items():
        if len(entry.get("curve", ())) > 1:
            parts.append(page.curves(f"{NAMES[name]} by the number of clips", "clips", {NAMES[name]: entry["curve"]}))
    for name, values in found["per_clip"].items():
        ordered = sorted(value for value in values if value is not None)
        points = [(100 * (i + 0.5) / len(ordered), value) for i, value in enumerate(ordered)]
        parts.append(page.curves(f"{NAMES[name]}, clip by clip in order", "% of the clips", {NAMES[name]: points[
            ::max(1, len(points) // 100)]}))
    parts += [page.heading("Clips"), page.picture(sheet, "the first clips: real, made"), page.heading("Made by"),
              page.terms(found["made_by"] | {"protocol": found["protocol"]}), page.heading("Circumstances"),
              page.terms(found["circumstances"])]
    return page.page(found["protocol"]["name"], parts)


def _sheet(real: Clips, made: Clips, ceiling: Clips | None, protocol: Protocol) -> np.ndarray:
    count = min(SHOWN, real.count, made.count // protocol.repeats)
    columns = {"real": real.read(0, count),
               "made": made.read(0, (count - 1) * protocol.repeats + 1)[::protocol.repeats]}
    if ceiling and protocol.task in WITH_TRUTH:
        columns["reconstructed"] = ceiling.read(0, count)
    captions = list(real.captions[:count]) if real.captions and protocol.task != "compare" else None
    return pictures.sheet(columns, min(4, protocol.frames), captions, max(1, 96 // columns["real"].shape[3]))
