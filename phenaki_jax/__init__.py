"""phenaki_jax: text-to-video models that tell stories, in JAX.

The names below are loaded when first used, so that importing the package costs nothing and needs no TensorFlow.
"""

import importlib

__version__ = "0.1.0"

_HOMES = {
    "load_config": ".config",
    "create_tokenizer": ".bound",
    "create_generator": ".bound",
    "PhenakiPipeline": ".pipeline",
    "T5Encoder": ".models.t5",
    "UserError": ".errors",
    "evaluation": ".evaluation",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(_HOMES[name], __name__)
    value = module if _HOMES[name] == f".{name}" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__():
    return sorted({*globals(), *__all__})
