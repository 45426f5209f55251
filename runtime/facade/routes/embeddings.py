"""``POST /v1/embeddings``: the vectors of texts by the runtime's own embedder."""

import base64
import struct
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response
from msgspec import Struct

from runtime.facade.body import read_body
from runtime.facade.chat.fields import decode_body
from runtime.facade.dependencies import Facade, Parts, Tenant
from runtime.facade.disconnect import run_while_connected
from runtime.facade.embeddings import name_input
from schemas.errors import InvalidInput, Unavailable

router = APIRouter()
MAX_INPUTS = 2048
FORMATS = ("float", "base64")


class EmbeddingsBody(Struct, frozen=True, kw_only=True):
    """The body as clients send it; who the ``user`` is changes no vector."""

    input: Any
    model: str | None = None
    encoding_format: str | None = None
    dimensions: float | None = None
    user: Any = None


@router.post("/v1/embeddings")
async def create_embeddings(request: Request, parts: Parts, _: Tenant) -> Response:
    """Embed a text, or a list of them."""
    body = decode_body(EmbeddingsBody, await read_body(request, parts), strict=parts.settings.strict_fields)
    texts, encoding = _read_input(body.input), body.encoding_format or FORMATS[0]
    if encoding not in FORMATS:
        raise InvalidInput(f"'encoding_format' is not one of {', '.join(FORMATS)}.", param="encoding_format")
    model = await _find_model(body.model, parts)
    embedded = await run_while_connected(
        request.receive, lambda: parts.embedder.embed(texts, dimensions=body.dimensions)
    )
    entries = [
        {"object": "embedding", "index": index, "embedding": _encode(vector, encoding)}
        for index, vector in enumerate(embedded.vectors)
    ]
    usage = {"prompt_tokens": embedded.tokens, "total_tokens": embedded.tokens}
    reply = {"object": "list", "data": entries, "model": model, "usage": usage}
    return Response(msgspec.json.encode(reply), media_type="application/json")


def _read_input(sent_input: Any) -> tuple[str, ...]:
    """The texts.

    Raises:
        InvalidInput: there are none or too many, one is empty, or they are tokens or something else.
    """
    texts = sent_input if isinstance(sent_input, list) else [sent_input]
    if not texts:
        raise InvalidInput("'input' is empty: send a text or a list of texts.", param="input")
    if len(texts) > MAX_INPUTS and not _is_token(texts[0]):
        raise InvalidInput(f"'input' has {len(texts)} texts: send {MAX_INPUTS} at most.", param="input")
    for place, text in enumerate(texts):
        param = name_input(place, of=texts)
        if _is_token(text) or (isinstance(text, list) and text and _is_token(text[0])):
            raise InvalidInput(
                "'input' holds tokens: they are numbers of another model's vocabulary, which this embedder cannot "
                "read. Send text (LangChain: check_embedding_ctx_length=False).",
                param=param,
            )
        if not isinstance(text, str):
            raise InvalidInput(f"'{param}' is no text: send a text or a list of texts.", param=param)
        if not text:
            raise InvalidInput(f"'{param}' is empty: leave it out, or send text.", param=param)
    return tuple(texts)


def _is_token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


async def _find_model(name: str | None, parts: Facade) -> str:
    """The name of the model that embeds: there is one, which every name of the catalogue means here, too.

    Raises:
        UnknownModel: ``name`` is none of the catalogue's, nor the embedder's own.
        Unavailable: the embedder has not said its name yet.
    """
    embedder = await parts.abilities.read_embedder()
    if embedder is None:
        raise Unavailable("the embedder does not answer; is its agent up?")
    if name is None or not embedder.answers_to(name):
        parts.models.resolve(name)
    return embedder.name


def _encode(vector: tuple[float, ...], encoding: str) -> str | tuple[float, ...]:
    """A vector in 32 bits: as text of its bytes, or as the same numbers."""
    layout = f"<{len(vector)}f"
    packed = struct.pack(layout, *vector)
    return base64.b64encode(packed).decode() if encoding == "base64" else struct.unpack(layout, packed)
