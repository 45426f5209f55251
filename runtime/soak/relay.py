"""Pass connections on: ``python -m runtime.soak.relay HOST:PORT HOST:PORT``, from the first address to the second."""

import contextlib
import socket
import sys

import anyio
import anyio.abc

SILENT_MILLISECONDS = 20_000
"""After which a peer that acknowledges nothing is given up."""

CONNECT_SECONDS = 5.0


async def relay(listen: str, target: str) -> None:
    """Serve until cancelled."""
    host, _, port = listen.rpartition(":")
    target_host, _, target_port = target.rpartition(":")

    async def serve(near: anyio.abc.SocketStream) -> None:
        async with near:
            with contextlib.suppress(OSError, TimeoutError):
                with anyio.fail_after(CONNECT_SECONDS):
                    far = await anyio.connect_tcp(target_host, int(target_port))
                _limit_silence(near)
                _limit_silence(far)
                async with far, anyio.create_task_group() as tasks:
                    tasks.start_soon(_copy, near, far, tasks.cancel_scope)
                    tasks.start_soon(_copy, far, near, tasks.cancel_scope)

    listener = await anyio.create_tcp_listener(local_host=host, local_port=int(port))
    await listener.serve(serve)


async def _copy(source: anyio.abc.SocketStream, sink: anyio.abc.SocketStream, scope: anyio.CancelScope) -> None:
    with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream):
        while True:
            await sink.send(await source.receive())
    scope.cancel()


def _limit_silence(stream: anyio.abc.SocketStream) -> None:
    raw = stream.extra(anyio.abc.SocketAttribute.raw_socket)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENT_MILLISECONDS)


if __name__ == "__main__":
    anyio.run(relay, sys.argv[1], sys.argv[2])
