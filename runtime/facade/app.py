"""The application: routes, error handlers and middleware put together."""

from fastapi import FastAPI
from starlette.exceptions import HTTPException

from bus.connection import Bus
from runtime.catalogue import Catalogue
from runtime.facade.chat.turns import Turns
from runtime.facade.dependencies import Facade
from runtime.facade.errors import on_http_exception, on_kiki_error
from runtime.facade.middleware import AccessLog
from runtime.facade.routes import adapters, chat, health, metrics, route, sessions, turns
from runtime.facade.routes import models as model_routes
from runtime.facade.settings import FacadeSettings
from schemas.errors import KikiError


def create_app(bus: Bus, settings: FacadeSettings, models: Catalogue) -> FastAPI:
    """The HTTP facade over a connected bus. FastAPI's schema is not served, as it does not know the bodies."""
    app = FastAPI(title="micro-kiki", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.facade = Facade(bus=bus, settings=settings, models=models, turns=Turns(bus, settings))
    for module in (chat, model_routes, route, sessions, turns, health, metrics, adapters):
        app.include_router(module.router)
    app.add_exception_handler(KikiError, on_kiki_error)
    app.add_exception_handler(HTTPException, on_http_exception)
    app.add_middleware(AccessLog)
    return app
