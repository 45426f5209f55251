"""``GET /v1/models``: the model ids that a request may name."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from runtime.catalogue import ServedModel
from runtime.facade.dependencies import Parts, Tenant
from schemas.errors import UnknownModel

router = APIRouter()
CREATED = 1767225600
"""OpenAI's shape wants a time; an alias has none, so all say 2026-01-01."""


@router.get("/v1/models")
async def list_models(parts: Parts, _: Tenant) -> JSONResponse:
    """All model ids with their descriptions."""
    return JSONResponse({"object": "list", "data": [_model(name, served) for name, served in parts.models.items()]})


@router.get("/v1/models/{model_id}")
async def show_model(model_id: str, parts: Parts, _: Tenant) -> JSONResponse:
    """One model id; 404 when there is no alias of that name."""
    served = parts.models.get(model_id)
    if served is None:
        raise UnknownModel(f"there is no model '{model_id}': GET /v1/models lists them.", param="model")
    return JSONResponse(_model(model_id, served))


def _model(name: str, served: ServedModel) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": CREATED,
        "owned_by": "micro-kiki",
        "description": served.description,
        "level": served.level,
    }
