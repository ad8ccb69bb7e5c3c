"""`phenaki export`: a trained run as a folder that is a whole model, made whole or not at all."""

import contextlib
import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from phenaki_jax import config as configs
from phenaki_jax.config import BYTES, RUN_CONFIG, from_dict, to_json
from phenaki_jax.errors import UserError, at_least
from phenaki_jax.evaluation.report import circumstances
from phenaki_jax.export import reading, rounding, tensors, text_encoder
from phenaki_jax.export.card import card
from phenaki_jax.export.folder import MANIFEST, check, is_export, run_folder, seal
from phenaki_jax.input.encoder import is_pretrained, open_encoder
from phenaki_jax.training.checkpoints import Run, load_run

VERSIONS = ("phenaki_jax", "jax", "flax")
VOCABULARY = "vocabulary"
CARD = "README.md"


@dataclasses.dataclass(frozen=True)
class Options:
    """What an export is to be: see `main`."""
    form: str
    dtype: str = "float32"
    batch_size: int | None = None
    licence: str = ""
    text_encoder: bool = False


def main(model: str, output: str, form: str, *, dtype: str = "float32", step: int | None = None,
         batch_size: int | None = None, license: str = "", text_encoder: bool = False,
         overwrite: bool = False) -> int:
    """Exports a run, or what a quickstart's folder has inside.

    Args:
      output: the folder to make; it is there whole or not at all.
      form: orbax or safetensors, weights that `PhenakiPipeline.from_pretrained` reads; or stablehlo, programs that run
        with jax and numpy alone.
      dtype: float32, bfloat16 or int8, in which the weights are kept (`export.rounding`).
      step: which checkpoint (default: the last).
      batch_size: of the programs (default: any).
      license: an identifier such as apache-2.0, or a text.
      text_encoder: carry the pretrained T5 along.
      overwrite: replace an older export.

    Raises: UserError.
    """
    options = Options(form, dtype, batch_size, license, text_encoder)
    _check(options)
    folder = run_folder(model)
    if is_export(folder):
        raise UserError(f"--model={model!r} is an export itself; give the run that it was made of")
    run = load_run(folder, step)
    if text_encoder and not is_pretrained(run.config):
        raise UserError(f"--with_text_encoder is for a model with a pretrained T5; --model={model!r} has none "
                        "beside its own arrays")
    target = Path(output).resolve()
    with _whole(target, overwrite) as made:
        about = _write(run, folder, made, target.name, options)
    parts = ", ".join(f"{name} {part['parameters']:,}" for name, part in about["parts"].items())
    size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    print(f"{output}: {form}, {dtype}, step {run.step}; parameters: {parts}; {size / 1e6:.1f} MB")
    return 0


def _check(options: Options) -> None:
    for name, value, known in (("format", options.form, reading.FORMS), ("dtype", options.dtype, rounding.DTYPES)):
        if value not in known:
            raise UserError(f"--{name}={value!r} is unknown; it is one of {', '.join(known)}")
    programs = options.form == "stablehlo"
    if options.batch_size is not None:
        at_least("--batch_size", options.batch_size, 1)
        if not programs:
            raise UserError(f"--batch_size={options.batch_size} is for --format=stablehlo; weights have no batch")
    if programs and options.dtype != "float32":
        raise UserError(f"--dtype={options.dtype!r} is for weights; --format=stablehlo has programs of float32")


@contextlib.contextmanager
def _whole(target: Path, overwrite: bool) -> Iterator[Path]:
    """A temporary folder beside `target`, which takes its name at the end, or is removed."""
    replaced = overwrite and is_export(target)
    if target.exists() and not replaced and not (target.is_dir() and not any(target.iterdir())):
        raise UserError(f"--output={str(target)!r} is there already; give a new folder" + (
            ", for it is no export that could be replaced" if overwrite else ""))
    if replaced:
        kept = {MANIFEST, *check(target, hashes=False)["files"]}
        if mine := sorted(file for file in target.rglob("*") if not file.is_dir()
                          and file.relative_to(target).as_posix() not in kept):
            raise UserError(f"{mine[0]} is not the export's; move it, or give another --output")
    target.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield made
        umask = os.umask(0)
        os.umask(umask)
        made.chmod(0o777 & ~umask)
        old = made.with_name(f"{made.name}-old")
        if replaced:
            os.replace(target, old)
        os.replace(made, target)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _write(run: Run, folder: Path, made: Path, title: str, options: Options) -> dict[str, Any]:
    """Everything, the manifest last. Returns: the manifest."""
    parts = reading.parts_of(run)
    stored = rounding.rounded(reading.flat(parts), options.dtype)
    read = reading.tree(rounding.restored(stored, options.dtype), parts)
    about: dict[str, Any] = {
        "form": options.form, "dtype": options.dtype, "stage": run.config.stage, "step": run.step,
        "parts": {name: {"parameters": int(sum(leaf.size for leaf in reading.flat(
            {name: {"params": part["params"]}}).values()))} for name, part in parts.items()},
        "license": options.licence,
    }
    config = portable(run.config)
    if is_pretrained(run.config):
        about["text_encoder"] = _carry_text(run.config, config, made, options.text_encoder)
    about["fingerprint"] = _fingerprint(run.config, config, read)
    about["run_fingerprint"] = about["fingerprint"] if options.dtype == "float32" else _fingerprint(
        run.config, config, parts)
    if options.form == "orbax":
        _write_orbax(made / reading.WEIGHTS, stored)
    elif options.form == "safetensors":
        tensors.write(made, stored)
    else:
        from phenaki_jax.export import stablehlo
        about["programs"] = stablehlo.write(run.config, parts, made, batch_size=options.batch_size)
    about["versions"] = {name: version for name, version in circumstances()["versions"].items() if name in VERSIONS}
    (made / RUN_CONFIG).write_text(to_json(config))
    (made / CARD).write_text(card(title, run.config, run.step, folder, about, options.licence), encoding="utf-8")
    seal(made, about)
    return about


def portable(config: Any) -> Any:
    """A copy of a run's config that names no place on this machine: such fields are as if they had been left out."""
    config = from_dict(config.to_dict())
    for name in configs.PATHS:
        group, _, field = name.rpartition(".")
        values = config.get(group, {}) if group else config
        usual = configs.OPTIONAL.get(name, "")
        if values.get(field) not in (None, "", BYTES, usual):
            values[field] = usual
    return config


def _carry_text(config: Any, exported: Any, made: Path, carried: bool) -> dict[str, Any]:
    """Copies the vocabulary and, if asked, the encoder, and writes into the exported config where they lie.

    Returns: what the manifest says of the encoder.
    """
    encoder, source = open_encoder(config), Path(config.text.vocabulary)
    if config.text.vocabulary != BYTES:
        (made / VOCABULARY).mkdir()
        shutil.copyfile(source, made / VOCABULARY / source.name)
        exported.text.vocabulary = f"{VOCABULARY}/{source.name}"
    if carried:
        text_encoder.write(encoder, made / text_encoder.FOLDER)
        exported.text.path = text_encoder.FOLDER
        exported.text.activation = ""  # its config.json says it
    sizes = encoder.pure.module_config
    return {"name": Path(config.text.path).name, "carried": carried, "dtype": config.text.dtype,
            "layers": sizes.layers, "embed_dim": sizes.embed_dim, "vocab_size": sizes.vocab_size}


def _fingerprint(config: Any, exported: Any, parts: reading.Parts) -> str:
    """As `PhenakiPipeline.fingerprint` says it of the parts under the exported config."""
    from phenaki_jax.pipeline import PhenakiPipeline
    found = from_dict(exported.to_dict())
    if is_pretrained(config):
        found.text.update({name: config.text[name] for name in ("path", "vocabulary", "activation")})
    run = reading.run_of(found, 0, parts)
    return PhenakiPipeline.of_arrays(found, run.params, run.variables, run.frozen).fingerprint


def _write_orbax(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder, arrays)
