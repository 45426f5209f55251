"""The application: routes, error handlers and middleware put together."""

from collections.abc import Mapping
from functools import cache
from http import HTTPStatus

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute

from bus.connection import Bus
from runtime.catalogue import Catalogue, ServedModel
from runtime.facade.abilities import Abilities
from runtime.facade.browsers import Cors, HostCheck
from runtime.facade.chat.turns import Turns
from runtime.facade.dependencies import Facade, parts_of
from runtime.facade.embeddings import EmbedderClient
from runtime.facade.errors import HttpRefusal, refuse
from runtime.facade.middleware import AccessLog
from runtime.facade.openapi import serving
from runtime.facade.openapi.document import encode_document
from runtime.facade.paths import Paths
from runtime.facade.routes import (
    adapters,
    chat,
    completions,
    embeddings,
    health,
    messages,
    metrics,
    responses,
    route,
    sessions,
    turns,
)
from runtime.facade.routes import models as model_routes
from runtime.facade.settings import FacadeSettings
from schemas.errors import InvalidInput, KikiError

ROUTES = (
    chat,
    completions,
    responses,
    messages,
    embeddings,
    model_routes,
    route,
    sessions,
    turns,
    health,
    metrics,
    adapters,
    serving,
)
"""The modules of the routes; each has its own as ``router``."""

_log = structlog.get_logger("facade")


def create_app(bus: Bus, settings: FacadeSettings, models: Mapping[str, ServedModel]) -> FastAPI:
    """The HTTP facade over a connected bus. FastAPI's schema is not served, as it does not know the bodies.

    Raises:
        SetupError: a setting names a model that does not exist.
    """
    catalogue = Catalogue(models, names=settings.models, default=settings.default_model)
    app = FastAPI(title="micro-kiki", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.facade = Facade(
        bus=bus,
        settings=settings,
        models=catalogue,
        turns=Turns(bus, settings),
        abilities=Abilities(bus),
        embedder=EmbedderClient(bus, timeout=settings.embed_timeout),
    )
    for module in ROUTES:
        app.include_router(module.router)
    app.state.read_document = cache(encode_interface)
    app.add_exception_handler(KikiError, _refuse_kiki_error)
    app.add_exception_handler(HTTPException, _refuse_http_exception)
    app.add_exception_handler(RequestValidationError, _refuse_parameter)
    _add_middleware(app, settings)
    return app


def encode_interface() -> bytes:
    """The OpenAPI document of all routes."""
    return encode_document(_all_routes())


def _all_routes() -> list[BaseRoute]:
    return [each for module in ROUTES for each in module.router.routes]


def _add_middleware(app: FastAPI, settings: FacadeSettings) -> None:
    """What stands around the routes; the one that is added last stands outside."""
    retry_after = settings.retry_after
    app.add_middleware(Paths, routes=_all_routes(), retry_after=retry_after)
    if not settings.api_keys:
        app.add_middleware(
            HostCheck,
            host=settings.host,
            allowed_hosts=settings.allowed_hosts,
            origins=settings.cors_origins,
            retry_after=retry_after,
        )
    app.add_middleware(AccessLog, retry_after=retry_after)
    if settings.cors_origins:
        app.add_middleware(Cors, origins=settings.cors_origins)


async def _refuse_kiki_error(request: Request, error: Exception) -> JSONResponse:
    """Exception handler of :class:`KikiError`."""
    assert isinstance(error, KikiError)
    if error.status >= 500:
        _log.warning("request refused", code=error.code, error=error.message, path=request.url.path)
    return _reply(request, error)


async def _refuse_http_exception(request: Request, error: Exception) -> JSONResponse:
    """Exception handler of what Starlette and FastAPI refuse themselves."""
    assert isinstance(error, HTTPException)
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    return _reply(request, HttpRefusal(error.detail, status=error.status_code, code=code, headers=error.headers))


async def _refuse_parameter(request: Request, error: Exception) -> JSONResponse:
    """Exception handler of FastAPI's refusals: a parameter of the query or of the path that is none."""
    assert isinstance(error, RequestValidationError)
    fault = error.errors()[0]
    name = str(fault["loc"][-1])
    return _reply(request, InvalidInput(f"'{name}' is {fault.get('input')!r}: {fault['msg']}.", param=name))


def _reply(request: Request, error: KikiError) -> JSONResponse:
    return refuse(request.scope, error, retry_after=parts_of(request).settings.retry_after)
