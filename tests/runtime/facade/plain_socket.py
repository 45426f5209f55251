"""HTTP over a plain socket, for bytes that no client sends."""

import anyio
import httpx


async def exchange(http: httpx.AsyncClient, *pieces: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send the pieces, one after the other, and read until the facade closes: status, headers and body of the reply."""
    url = http.base_url
    async with await anyio.connect_tcp(url.host, url.port or 0) as stream:
        for piece in pieces:
            await stream.send(piece)
            await anyio.sleep(0.02)
        data = b"".join([piece async for piece in stream])
    head, _, body = data.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(status.split()[1]), headers, body
