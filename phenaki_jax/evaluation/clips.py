"""Sets of clips that are read when they are needed: of records, of folders, of a model, altered."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from phenaki_jax import media
from phenaki_jax.errors import UserError
from phenaki_jax.evaluation.protocols import Protocol

PIECE = 32  # clips that are made, kept and measured together: what a kill costs at most
ARRAY = ".npy"  # a clip uint8 [F, Y, X, 3] as it is
LOSSLESS = (ARRAY, ".png", ".apng", ".bmp", ".tif", ".tiff")


@dataclasses.dataclass(frozen=True)
class Clips:
    """N clips of one form, in an order that never changes.

    Attributes:
      about: in words. count: N. read: (start, stop) -> uint8 [stop - start, F, Y, X, 3].
      captions: N texts, or () without any.
    """
    about: str
    count: int
    read: Callable[[int, int], np.ndarray]
    captions: tuple[str, ...] = ()

    def pieces(self) -> list[tuple[int, int]]:
        """(start, stop) of each piece."""
        return [(start, min(start + PIECE, self.count)) for start in range(0, self.count, PIECE)]

    def all(self) -> np.ndarray:
        """uint8 [N, F, Y, X, 3]."""
        return np.concatenate([self.read(*piece) for piece in self.pieces()])

    def first(self, count: int) -> "Clips":
        """The first `count` of them."""
        count = min(count, self.count)
        return dataclasses.replace(self, count=count, captions=self.captions[:count])

    def rest(self, start: int) -> "Clips":
        """Those from `start` on."""
        return dataclasses.replace(self, count=self.count - start, captions=self.captions[start:],
                                   read=lambda a, b: self.read(a + start, b + start))

    def altered(self, how: str, change: Callable[[np.ndarray], np.ndarray]) -> "Clips":
        """What `change` makes of them, uint8 [N, F, Y, X, 3] both, each for itself; `how` in words."""
        return dataclasses.replace(self, about=f"{self.about}, {how}", captions=(),
                                   read=lambda a, b: change(self.read(a, b)))


def once(folder: pathlib.Path, name: str, make: Callable[[], np.ndarray]) -> np.ndarray:
    """What folder/NAME.npy holds; made and written, whole or not at all, where it does not exist.

    name: a `digest` of all that the array depends on.
    """
    file = folder / f"{name}.npy"
    if file.is_file():
        return np.load(file)
    array = make()
    save(file, array)
    return array


def save(file: pathlib.Path, array: np.ndarray) -> None:
    """Writes an array whole or not at all."""
    with media.atomic_path(file) as temporary, open(temporary, "wb") as stream:
        np.save(stream, array)


def shaped(frames: np.ndarray, fps: float, protocol: Protocol, size: tuple[int, int], name: str) -> np.ndarray:
    """A video uint8 [F, Y, X, 3] as a protocol wants it: its first frames, at its rate and stride, of its size.

    Raises: UserError where it is too short, or has no rate that could be changed.
    """
    if protocol.fps and protocol.frames > 1:
        if not fps:
            raise UserError(f"{name} has no frame rate, and the protocol {protocol.name} wants {protocol.fps:g} a "
                            "second")
        count = int((len(frames) - 1) * protocol.fps / fps + 1e-6) + 1
        frames = frames[np.minimum(np.rint(np.arange(count) * fps / protocol.fps).astype(int), len(frames) - 1)]
    frames = frames[::protocol.stride][:protocol.frames]
    if len(frames) < protocol.frames:
        raise UserError(f"{name} gives {len(frames)} frames, and the protocol {protocol.name} wants {protocol.frames}"
                        + (f" at {protocol.fps:g} a second" if protocol.fps else ""))
    return (media.fit if protocol.crop == "centre" else media.resize)(frames, *size)


def of_folder(folder: str, protocol: Protocol, size: tuple[int, int] | None, field: str) -> Clips:
    """The videos of a folder, by name, those in folders within it too; a caption is the text in NAME.txt beside one.

    .npy files are clips uint8 [F, Y, X, 3] without loss. Of protocols of one frame, each image is a clip; of others, a
    folder of numbered images is, if it holds no video: their frames, of an unknown rate.

    size: rows and columns; None: the protocol's, or the first video's.

    Raises: UserError for a folder without any, and one that is too short or cannot be read.
    """
    root = pathlib.Path(folder)
    if not root.is_dir():
        raise UserError(f"{field}={folder!r} is no folder; give one with videos")
    kinds = (ARRAY, *(media.IMAGES_IN if protocol.frames == 1 else media.VIDEOS_IN))
    files = [path for path in root.rglob("*") if path.suffix.lower() in kinds and path.is_file()]
    if protocol.frames > 1:
        with_videos = {path.parent for path in files}
        files += [path for path in (root, *root.rglob("*")) if path not in with_videos and media.frame_files(path)]
    if not files:
        raise UserError(f"{field}={folder!r} has no file that ends in {', '.join(kinds)}"
                        + (" and no folder of numbered images" if protocol.frames > 1 else ""))
    files.sort()
    size = size or (protocol.height, protocol.width)
    if not all(size):
        size = _frames(files[0])[0].shape[1:3]

    def read(start: int, stop: int) -> np.ndarray:
        return np.stack([shaped(*_frames(path), protocol, size, str(path)) for path in files[start:stop]])

    texts = [path.parent / f"{path.name if path.is_dir() else path.stem}.txt" for path in files]
    captions = tuple(text.read_text(encoding="utf-8", errors="replace").strip() for text in texts) if all(
        text.is_file() for text in texts) else ()
    lossy = sum(_a_file(path).suffix.lower() not in LOSSLESS for path in files)
    about = f"{len(files)} files of {root.name}" + (f", {lossy} of them compressed with loss" if lossy else "")
    return Clips(about, len(files), read, captions)


def _a_file(path: pathlib.Path) -> pathlib.Path:
    return media.frame_files(path)[0] if path.is_dir() else path


def _frames(path: pathlib.Path) -> tuple[np.ndarray, float]:
    """Frames and frames a second (0: not known) of a file or a folder of frames."""
    if path.suffix.lower() != ARRAY:
        return media.read_video(path)
    try:
        frames = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error})") from None
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise UserError(f"{path} holds {frames.dtype} {list(frames.shape)}; a clip is uint8 [F, Y, X, 3]")
    return frames, 0.0


def of_records(task: str, protocol: Protocol, size: tuple[int, int], count: int, data_dir: str,
               modules: Sequence[str], field: str) -> Clips:
    """The first `count` records of a task's split (fewer where it has fewer), which is built where it is absent."""
    from phenaki_jax.input import mix  # brings TensorFlow

    mix.prepare(task, data_dir, modules=tuple(modules), field=field)
    tasks, _ = mix.find_mixture(task, tuple(modules), field, data_dir)
    if len(tasks) != 1:
        raise UserError(f"{field}={task!r} is a mixture; name one of its tasks: {', '.join(t.name for t in tasks)}.")
    source = tasks[0].source
    records = source.records(protocol.split, data_dir)
    count = min(count, len(records))

    def read(start: int, stop: int) -> np.ndarray:
        return np.stack([_of_record(records[i], protocol, size, f"record {i} of {task}") for i in range(start, stop)])

    captions = tuple(mix.to_record(records[i])["caption"] for i in range(count))
    return Clips(f"{task}, {protocol.split} split", count, read, captions)


def _of_record(raw: Any, protocol: Protocol, size: tuple[int, int], name: str) -> np.ndarray:
    from phenaki_jax.input.schema import to_record
    record = to_record(raw)
    return shaped(record["video"], record["fps"], protocol, size, name)
