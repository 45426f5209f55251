"""A server on loopback that stands in for the Hugging Face hub."""

import json
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """As much of the hub's HTTP interface as a snapshot takes; counts its requests."""

    def __init__(self, source: Path) -> None:
        files = {path.relative_to(source).as_posix(): path.read_bytes() for path in source.rglob("*") if path.is_file()}
        self.requests: list[str] = []
        hub = self

        class HubHandler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None: ...

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                path = urllib.parse.unquote(urllib.parse.urlparse(self.path).path)
                hub.requests.append(path)
                if "/resolve/" in path and (name := path.split("/resolve/", 1)[1].split("/", 1)[1]) in files:
                    self.reply(200, files[name], etag=sha256(files[name]).hexdigest())
                elif path.startswith("/api/models/org/tiny/tree/"):
                    self.json([{"type": "file", "path": n, "size": len(b), "oid": "0" * 40} for n, b in files.items()])
                elif path.startswith("/api/models/org/tiny"):
                    names = [{"rfilename": name} for name in files]
                    self.json({"id": "org/tiny", "modelId": "org/tiny", "sha": COMMIT, "siblings": names})
                else:
                    self.reply(404, b"{}", etag="none", extra={"X-Error-Code": "RepoNotFound"})

            def json(self, body: object) -> None:
                self.reply(200, json.dumps(body).encode(), etag="json")

            def reply(self, status: int, body: bytes, *, etag: str, extra: dict[str, str] | None = None) -> None:
                self.send_response(status)
                headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Content-Length": str(len(body))}
                for name, value in {**headers, **(extra or {})}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), HubHandler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@contextmanager
def serve_hub(source: Path) -> Iterator[Hub]:
    """The files of a folder as the repository ``org/tiny``; point ``HF_ENDPOINT`` to its ``url``."""
    hub = Hub(source)
    thread = threading.Thread(target=hub.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        hub.server.shutdown()
        thread.join()
        hub.server.server_close()
