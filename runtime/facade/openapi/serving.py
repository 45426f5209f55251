"""``GET /openapi.json``: this interface, for programs."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

router = APIRouter()


@router.get("/openapi.json")
async def show_document(request: Request) -> Response:
    """This document. It holds no data, so no key is asked for."""
    return Response(request.app.state.read_document(), media_type="application/json")
