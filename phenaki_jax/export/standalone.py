"""Makes videos with the programs of the folder that it lies in; it needs jax and numpy, nothing else.

python generate.py --prompt="a red circle moves left" [--seed=0] [--output=clip.png|clip.npy] [--num_frames=1] …

    from generate import Model
    clip = Model("FOLDER").generate(["a red circle moves left"], seeds=[0])
    clip.frames, clip.tokens  # uint8 [N, F, Y, X, 3], int32 [N, T, H, W]
"""
import argparse
import collections
import hashlib
import importlib
import json
import os
import pathlib
import struct
import sys
import types
import zlib

import jax
import jax.export
import numpy as np

FORMAT_VERSION = 1
DTYPES = {"F32": np.float32, "BF16": jax.numpy.bfloat16, "I32": np.int32, "U32": np.uint32, "BOOL": np.bool_}
Clip = collections.namedtuple("Clip", "frames tokens")


class UserError(ValueError):
    """A mistake that can be mended, in one sentence."""


class Model:
    """The programs and weights of a folder, once every file has been found to be what was written."""

    def __init__(self, folder="."):
        self.folder, self.calls = pathlib.Path(folder), {}
        check(self.folder)
        self.about = json.loads((self.folder / "programs.json").read_text("utf-8"))
        stored = read_arrays(self.folder)
        self.weights = {part: [jax.device_put(stored[name]) for name in names]
                        for part, names in self.about["weights"].items()}

    def generate(self, prompts=None, seeds=None, *, embeddings=None, num_frames=None, guidance_scale=None,
                 temperature=None, **conditions):
        """A Clip of prompts, or of embeddings [N, P, E] for a model with a pretrained encoder, a row by itself.

        seeds: by default 0, 1, ...; num_frames: 1 or a training clip's; conditions: motion and fps, as numbers.
        """
        about, asked = self.about, {}
        if "sampling" not in about:
            raise UserError("this folder holds a tokenizer, which encodes and decodes only")
        if num_frames not in (None, 1, about["frames"]):
            raise UserError(f"num_frames={num_frames} has no program here; it is 1 or {about['frames']}")
        wanted = {"bytes": "a prompt", "t5": "embeddings", "none": "neither"}[about["text"]["encoder"]]
        if (prompts is not None, embeddings is not None) != (wanted == "a prompt", wanted == "embeddings"):
            raise UserError(f"of a prompt and embeddings this model takes {wanted}")
        if prompts is not None:
            prompts = [prompts] if isinstance(prompts, str) else prompts
            asked["text"] = np.array([to_ids(prompt, about["text"]["length"]) for prompt in prompts], np.int32)
        elif embeddings is not None:
            values = np.asarray(embeddings, np.float32)
            count, length = values.shape[1] if values.ndim == 3 else 0, about["text"]["length"]
            asked["text"] = np.pad(values, ((0, 0), (0, max(length - count, 0)), (0, 0))) if count else values
            asked["text_mask"] = np.tile(np.arange(length) < count, (len(values), 1))
        rows = len(asked["text"]) if asked else len(seeds or [0])
        seeds = list(range(rows) if seeds is None else seeds)
        if len(seeds) != rows or not all(isinstance(seed, (int, np.integer)) and 0 <= seed < 2**32 for seed in seeds):
            raise UserError(f"seeds={seeds} must be {rows} whole numbers from 0 to {2**32 - 1}")
        for name, value, least in (("guidance_scale", guidance_scale, -1), ("temperature", temperature, 0)):
            if value is not None and not least <= value < np.inf:
                raise UserError(f"{name}={value} must be a number of at least {least}")
            asked[name] = np.float32(about["sampling"][name] if value is None else value)
        if guidance_scale and not about["sampling"]["guidance_scale"]:
            raise UserError(f"guidance_scale={guidance_scale} has no effect: these programs are without guidance")
        told = {name: value for name, value in conditions.items() if value is not None}
        for name, value in told.items():
            if name not in ("motion", "fps") or name not in about["conditions"]:
                raise UserError(f"{name}={value} has no effect: this model is told of {about['conditions']}")
            if not (name == "fps") <= value < np.inf:
                raise UserError(f"{name}={value} must be a number of at least {int(name == 'fps')}")
        told = [told.get(name, np.nan) for name in about["conditions"]]
        asked |= {"seeds": np.array(seeds, np.uint32), "conditions": np.tile(np.float32(told), (rows, 1))}
        tokens, video = self.run("generate", num_frames == 1, **asked)
        return Clip(to_uint8(video), tokens)

    def encode(self, video):
        """uint8 [N, F, Y, X, 3] -> tokens int32 [N, T, H, W]; F is a training clip's, or 1."""
        video = np.asarray(video, np.float32) / np.float32(127.5) - np.float32(1)
        return self.run("encode", video.shape[1:2] == (1,), video=video)[0]

    def decode(self, tokens):
        """int32 [N, T, H, W] -> frames uint8 [N, F, Y, X, 3]; T is a training clip's, or 1."""
        tokens, size = np.asarray(tokens, np.int32), self.about["codebook_size"]
        if not np.all((0 <= tokens) & (tokens < size)):
            raise UserError(f"tokens lie in {tokens.min()}..{tokens.max()}; this model's are 0..{size - 1}")
        return to_uint8(self.run("decode", tokens.shape[1:2] == (1,), tokens=tokens)[0])

    def run(self, name, image, **inputs):
        """Outputs of a program, or of its twin for images; inputs by the names in programs.json."""
        name += "_image" if image and self.about["frames"] > 1 else ""
        program = self.about["programs"][name]
        for key, about in program["inputs"].items():
            shape = list(np.shape(inputs[key]))
            if len(shape) != len(about["shape"]) or shape[1:] != about["shape"][1:] or shape[:1] == [0]:
                raise UserError(f"{key} has shape {shape}; the program {name!r} takes {about['shape']}")
        if name not in self.calls:
            self.calls[name] = jax.jit(deserialize((self.folder / program["file"]).read_bytes()).call)
        weights = [leaf for part in program["parts"] for leaf in self.weights[part]]
        inputs = [inputs[key] for key in program["inputs"]]
        rows, made = max(len(x) for x in inputs if np.ndim(x)), []
        size = self.about["batch_size"] or rows
        for first in range(0, rows, size):  # where the number of rows is fixed, the last one fills up
            index = np.minimum(np.arange(first, first + size), rows - 1)
            made.append(self.calls[name](weights, *(x[index] if np.ndim(x) else x for x in inputs)))
        return [np.concatenate(parts)[:rows] for parts in zip(*made)]


def to_ids(prompt, length):
    """UTF-8 bytes + 3, the end mark 1, padding 0."""
    if not isinstance(prompt, str) or not prompt.strip():
        raise UserError(f"prompt={prompt!r} is empty or no text; say what the video shows")
    data = prompt.encode()
    if len(data) >= length:
        raise UserError(f"prompt {prompt[:40]!r}... has {len(data)} bytes; this model reads {length - 1}")
    return [byte + 3 for byte in data] + [1] + [0] * (length - 1 - len(data))


def read_npy(path):
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(f"{path} is no .npy file of an array ({error})") from None


def to_uint8(video):
    return np.clip(np.rint((video + np.float32(1)) * np.float32(127.5)), 0, 255).astype(np.uint8)


def check(folder):
    """Refuses a folder of a later format, and one with a file that is not what was written."""
    path = folder / "model.json"
    try:
        about = json.loads(path.read_bytes())
        if about["format_version"] > FORMAT_VERSION:
            raise UserError(f"{path} has format_version={about['format_version']}; this script reads {FORMAT_VERSION}")
        said = json.dumps({name: value for name, value in about.items() if name != "sha256"}, sort_keys=True)
        found = {path: (hashlib.sha256(said.encode()), about["sha256"])}
        found |= {folder / name: (hashlib.sha256((folder / name).read_bytes()), kept["sha256"])
                  for name, kept in about["files"].items()}
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read ({error.strerror}); fetch the folder again") from None
    except (KeyError, TypeError, json.JSONDecodeError):
        raise UserError(f"{path} is no manifest; fetch the folder again") from None
    for path, (own, kept) in found.items():
        if own.hexdigest() != kept:
            raise UserError(f"{path} is not what was written, by its SHA-256; fetch the folder again")


def read_arrays(folder):
    """All arrays of a folder's safetensors: the header's length, the header in JSON, the arrays' bytes."""
    found = {}
    for path in folder.glob("model*.safetensors"):
        data = np.asarray(np.memmap(path, np.uint8, "r"))
        begin = 8 + int.from_bytes(data[:8].tobytes(), "little")
        for name, about in json.loads(data[8:begin].tobytes()).items():
            if name != "__metadata__":
                first, last = about["data_offsets"]
                found[name] = data[begin + first:begin + last].view(DTYPES[about["dtype"]]).reshape(about["shape"])
    return found


def deserialize(data):
    """A program. JAX reads it with the package flatbuffers, which it does not bring; this is what it needs of that."""
    codes = {"Bool": "?", "Int8": "b", "Uint8": "B", "Int16": "h", "Uint16": "H", "Int32": "i", "Uint32": "I",
             "Int64": "q", "Uint64": "Q", "UOffsetT": "I"}
    kinds = {f"{name}Flags": types.SimpleNamespace(py_type=bool if name == "Bool" else int, code="<" + code)
             for name, code in codes.items()}
    offset, space = kinds["UOffsetTFlags"], types.SimpleNamespace

    def get(kind, buffer, at):
        return struct.unpack_from(kind.code, buffer, at)[0]

    class Table:
        def __init__(self, buffer, at):
            self.Bytes, self.Pos = buffer, at
            self.Get = lambda kind, at: kind.py_type(get(kind, buffer, at))
            self.Indirect = lambda at: at + get(offset, buffer, at)
            self.Vector = lambda at: self.Indirect(self.Pos + at) + 4
            self.VectorLen = lambda at: get(offset, buffer, self.Vector(at) - 4)
            self.GetVectorAsNumpy = lambda kind, at: np.frombuffer(
                buffer, kind.code, self.VectorLen(at), self.Vector(at))

        def Offset(self, slot):
            table = self.Pos - get(kinds["Int32Flags"], self.Bytes, self.Pos)
            size = get(kinds["Uint16Flags"], self.Bytes, table)
            return get(kinds["Uint16Flags"], self.Bytes, table + slot) if slot < size else 0

        def String(self, at):
            at = self.Indirect(at)
            return bytes(self.Bytes[at + 4:at + 4 + get(offset, self.Bytes, at)])

    try:
        importlib.import_module("flatbuffers")
    except ImportError:
        package, compat = types.ModuleType("flatbuffers"), types.ModuleType("flatbuffers.compat")
        package.Builder, package.table, package.encode = None, space(Table=Table), space(Get=get)
        package.packer, package.number_types, compat.import_numpy = space(uoffset=offset), space(**kinds), lambda: np
        sys.modules |= {"flatbuffers": package, "flatbuffers.compat": compat}
    return jax.export.deserialize(bytearray(data))


def write_png(path, frames, fps):
    """A lossless animation that browsers play again and again (APNG), or a picture where there is one frame."""
    def chunk(kind, data=b""):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    (count, height, width, _), number = frames.shape, 0
    parts = [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))]
    parts += [chunk(b"acTL", struct.pack(">II", count, 0))] * (count > 1)
    for index, frame in enumerate(frames):
        if count > 1:
            shown = struct.pack(">IIIIIHHBB", number, width, height, 0, 0, 100, round(100 * fps), 0, 0)
            parts, number = [*parts, chunk(b"fcTL", shown)], number + 1
        rows = zlib.compress(np.pad(frame.reshape(height, -1), ((0, 0), (1, 0))).tobytes(), 9)  # filter 0: none
        parts.append(chunk(b"fdAT", struct.pack(">I", number) + rows) if index else chunk(b"IDAT", rows))
        number += index > 0
    pathlib.Path(path).write_bytes(b"".join(parts) + chunk(b"IEND"))


def main():
    def refuse(message):
        raise UserError(message)

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.error = refuse
    parser.add_argument("--prompt")
    parser.add_argument("--embeddings", help="in place of a prompt, FILE.npy of [P, E]")
    parser.add_argument("--output", default="clip.png", help="an animation, .png, or .npy, uint8 [F, Y, X, 3]")
    for name in ("seed", "num_frames", "guidance_scale", "temperature", "motion", "fps"):
        parser.add_argument(f"--{name}", type=int if name in ("seed", "num_frames") else float)
    try:
        options = vars(parser.parse_args())
        prompt, path, output, seed = (options.pop(name) for name in ("prompt", "embeddings", "output", "seed"))
        if not output.endswith((".png", ".npy")):
            raise UserError(f"output={output!r} has to end in .png or .npy")
        model = Model(pathlib.Path(__file__).parent)
        clip = model.generate(None if prompt is None else [prompt], None if seed is None else [seed],
                              embeddings=None if path is None else read_npy(path)[None], **options)
        part = f"{output[:-4]}.part{output[-4:]}"  # whole or not at all
        if output.endswith(".npy"):
            np.save(part, clip.frames[0])
        else:
            write_png(part, clip.frames[0], options["fps"] or model.about["fps"])
        os.replace(part, output)
    except (UserError, OSError) as error:
        print(f"generate.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
