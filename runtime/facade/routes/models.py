"""``GET /v1/models``: the model ids that a request may name."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from runtime.catalogue import ServedModel
from runtime.facade.abilities import EmbedderModel
from runtime.facade.dependencies import Parts, Tenant

router = APIRouter()
CREATED = 1767225600
"""OpenAI's shape wants a time; an alias has none, so all say 2026-01-01."""


@router.get("/v1/models")
@router.get("/v1/models/", include_in_schema=False)
async def list_models(parts: Parts, _: Tenant) -> JSONResponse:
    """All model ids with their descriptions, the other names for them, and the embedder."""
    models, context = parts.models, await parts.abilities.read_context_tokens()
    entries = [_model(name, name, served, context) for name, served in models.items()]
    entries += [_model(name, model_id, models[model_id], context) for name, model_id in models.names.items()]
    if (embedder := await parts.abilities.read_embedder()) is not None:
        entries.append(_embedder(embedder))
    return JSONResponse({"object": "list", "data": entries})


@router.get("/v1/models/{name:path}")
async def show_model(name: str, parts: Parts, _: Tenant) -> JSONResponse:
    """One model, under any name that a request may give it; 404 when there is none."""
    name = name.strip("/")
    if (embedder := await parts.abilities.read_embedder()) is not None and embedder.answers_to(name):
        return JSONResponse(_embedder(embedder))
    model_id, served = parts.models.resolve(name)
    return JSONResponse(_model(model_id, model_id, served, await parts.abilities.read_context_tokens()))


def _model(name: str, model_id: str, served: ServedModel, context: int | None) -> dict[str, Any]:
    """An entry; ``model_id`` is the model that answers to ``name``, ``context`` the tokens that it takes."""
    return {
        **_entry(name, context),
        "root": model_id,
        "description": served.description,
        "level": served.level,
    }


def _embedder(embedder: EmbedderModel) -> dict[str, Any]:
    return {
        **_entry(embedder.name, embedder.max_tokens),
        "root": embedder.name,
        "description": "The embedder behind /v1/embeddings.",
        "dimensions": embedder.dimensions,
    }


def _entry(name: str, context: int | None) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": CREATED,
        "owned_by": "micro-kiki",
        "context_length": context,
        "max_model_len": context,
    }
