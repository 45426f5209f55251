"""uvicorn in this process's event loop: it binds the port before anything else starts and stops within two seconds."""

import asyncio
import contextlib
import errno
import socket
from collections.abc import Iterator, Mapping
from functools import partial
from typing import cast

import anyio
import anyio.abc
import structlog
import uvicorn

from bus.connection import Bus
from runtime.catalogue import ServedModel
from runtime.facade.app import create_app
from runtime.facade.protocol import JsonProtocol
from runtime.facade.settings import FacadeSettings
from schemas.errors import SetupError

STOP_SECONDS = 1
"""Seconds that uvicorn waits for replies under way; it cancels those that are left then."""

CANCELLATION_SECONDS = 0.4
"""Seconds that cancelled requests have for publishing their cancellation."""

_log = structlog.get_logger("facade")


async def serve(
    bus: Bus,
    settings: FacadeSettings,
    models: Mapping[str, ServedModel],
    *,
    task_status: anyio.abc.TaskStatus[int] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled. ``task_status`` starts with the port once requests are taken.

    Raises:
        SetupError: the address cannot be listened on, or a setting names a model that does not exist.
    """
    app = create_app(bus, settings, models)
    listener = listen(settings)
    server = _Server(
        uvicorn.Config(
            app,
            http=cast("type[asyncio.Protocol]", partial(JsonProtocol, settings=settings)),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=settings.idle_timeout,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
    )
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_serve_shielded, server, listener)
            await server.ready.wait()
            port: int = listener.getsockname()[1]
            _log.info("facade ready", url=f"http://{settings.host}:{port}")
            task_status.started(port)
            try:
                await anyio.sleep_forever()
            finally:
                # Take no more requests, let running turns end by themselves, then refuse those that are left.
                with anyio.CancelScope(shield=True):
                    server.should_exit = True
                    await anyio.sleep(settings.drain_seconds if app.state.facade.turns.in_flight else 0)
                    app.state.facade.turns.stop()
    finally:
        listener.close()


def listen(settings: FacadeSettings) -> socket.socket:
    """A listening socket.

    Raises:
        SetupError: the address is busy, forbidden or not this machine's.
    """
    wanted = f"{settings.host}:{settings.port}"
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, proto)
    except OSError as error:
        raise SetupError(f"cannot listen on {wanted} ({error.strerror}): give another host.", param="host") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(512)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        reason = "the port is busy" if error.errno == errno.EADDRINUSE else str(error.strerror)
        raise SetupError(
            f"cannot listen on {wanted}: {reason}. Stop what uses it, or give another port.", param="port"
        ) from error
    return listener


class _Server(uvicorn.Server):
    """uvicorn's server with an event for when it takes requests; signals are left to the supervisor."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = anyio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _serve_shielded(server: _Server, listener: socket.socket) -> None:
    """Serve until ``should_exit`` is set: cancelling uvicorn would tear off the replies under way."""
    with anyio.CancelScope(shield=True):
        await server.serve(sockets=[listener])
        if server.server_state.tasks:
            await asyncio.wait(server.server_state.tasks, timeout=CANCELLATION_SECONDS)
