"""An address at which a program has the newest turn cancelled, as an operator on the bus can."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import anyio

from bus.connection import BusSettings, connect
from schemas.codec import decode
from schemas.events import QueryReceived, TurnCancelled


async def cancel_newest_turn(settings: BusSettings) -> None:
    """Publish that the turn which was received last is cancelled."""
    async with connect(settings, name="canceller") as bus:
        subject = bus.subjects.stage(QueryReceived.subject, "*")
        message = await bus.js.get_last_msg(bus.subjects.stream("TURNS"), subject)
        assert message.data is not None
        query = decode(QueryReceived, message.data)
        await bus.publish(TurnCancelled(envelope=query.envelope.next("test"), reason="the operator stopped it"))


@contextmanager
def serve_cancelling(settings: BusSettings) -> Iterator[str]:
    """Serve until the end of the block; yields the address, where each POST cancels the newest turn."""

    class Cancelling(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            anyio.run(cancel_newest_turn, settings)
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Cancelling)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
