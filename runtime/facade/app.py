"""The application: routes, error handlers and middleware put together."""

from functools import cache

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from bus.connection import Bus
from runtime.catalogue import Catalogue
from runtime.facade.chat.turns import Turns
from runtime.facade.dependencies import Facade, parts_of
from runtime.facade.errors import error_object, refuse
from runtime.facade.middleware import AccessLog
from runtime.facade.openapi import serving
from runtime.facade.openapi.document import encode_document
from runtime.facade.routes import adapters, chat, health, metrics, route, sessions, turns
from runtime.facade.routes import models as model_routes
from runtime.facade.settings import FacadeSettings
from schemas.errors import InvalidInput, KikiError

ROUTES = (chat, model_routes, route, sessions, turns, health, metrics, adapters, serving)
"""The modules of the routes; each has its own as ``router``."""

_HTTP_CODES = {404: "not_found", 405: "method_not_allowed"}

_log = structlog.get_logger("facade")


def create_app(bus: Bus, settings: FacadeSettings, models: Catalogue) -> FastAPI:
    """The HTTP facade over a connected bus. FastAPI's schema is not served, as it does not know the bodies."""
    app = FastAPI(title="micro-kiki", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.facade = Facade(bus=bus, settings=settings, models=models, turns=Turns(bus, settings))
    for module in ROUTES:
        app.include_router(module.router)
    app.state.read_document = cache(encode_interface)
    app.add_exception_handler(KikiError, _refuse_kiki_error)
    app.add_exception_handler(HTTPException, _refuse_http_exception)
    app.add_exception_handler(RequestValidationError, _refuse_parameter)
    app.add_middleware(AccessLog)
    return app


def encode_interface() -> bytes:
    """The OpenAPI document of all routes."""
    return encode_document(each for module in ROUTES for each in module.router.routes)


async def _refuse_kiki_error(request: Request, error: Exception) -> JSONResponse:
    """Exception handler of :class:`KikiError`."""
    assert isinstance(error, KikiError)
    if error.status >= 500:
        _log.warning("request refused", code=error.code, error=error.message, path=request.url.path)
    return refuse(error, retry_after=parts_of(request).settings.retry_after)


async def _refuse_http_exception(request: Request, error: Exception) -> JSONResponse:
    """Exception handler of Starlette's own refusals: no such path, no such method."""
    assert isinstance(error, HTTPException)
    path, status = request.url.path, error.status_code
    message = {
        404: f"there is nothing at {path}; the API lies under /v1.",
        405: f"{request.method} is not served at {path}; see the Allow header.",
    }.get(status, str(error.detail))
    body = error_object(message=message, status=status, code=_HTTP_CODES.get(status, "invalid_request"))
    return JSONResponse(body, status_code=status, headers=dict(error.headers or {}))


async def _refuse_parameter(request: Request, error: Exception) -> JSONResponse:
    """Exception handler of FastAPI's refusals: a parameter of the query or of the path that is none."""
    assert isinstance(error, RequestValidationError)
    fault = error.errors()[0]
    name = str(fault["loc"][-1])
    refusal = InvalidInput(f"'{name}' is {fault.get('input')!r}: {fault['msg']}.", param=name)
    return refuse(refusal, retry_after=parts_of(request).settings.retry_after)
