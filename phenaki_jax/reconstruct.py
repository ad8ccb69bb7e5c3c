"""`phenaki reconstruct`: a user's own files through a tokenizer, and how much of them it keeps."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from phenaki_jax import evaluation, media, weights
from phenaki_jax.errors import UserError
from phenaki_jax.pipeline import PhenakiPipeline, Tokenizer

KINDS = media.VIDEOS + media.IMAGES
REPORT = "report.json"


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

    A folder goes on past a file that cannot be read and says which. fps: of clips that are written from images.

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
    media.write_text(output / REPORT, json.dumps({"mean": mean, "files": done, "left_out": failed}, indent=2) + "\n")
    say(f"{output / REPORT}: {len(done)} files, " + ", ".join(f"{name} {value:.4g}" for name, value in mean.items())
        + (f"; {len(failed)} left out" if failed else ""))
    return 1 if failed else 0


def _one(pipe: PhenakiPipeline, source: Path, output: Path, size: str, fps: float) -> dict:
    frames, rate = media.read_video(source)
    frames = media.resize(frames, *fit_size(*frames.shape[1:3], pipe.tokenizer, size))
    restored, tokens = reconstruct(pipe.tokenizer, frames)
    media.write_video(output, restored, min(rate or fps, 50) if output.suffix.lower() == ".gif" else rate or fps)
    return figures(frames, restored, tokens, pipe.tokenizer.codebook_size)
