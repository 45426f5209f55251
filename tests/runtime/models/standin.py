"""A server on loopback that stands in for the Hugging Face hub, or for what stands before it."""

import json
import re
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CHUNK = 256 * 1024


class HubHandler(BaseHTTPRequestHandler):
    """Answers for ``hub``, which a subclass sets."""

    hub: "Hub"
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def do_CONNECT(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urllib.parse.unquote(urllib.parse.urlparse(self.path).path)
        self.hub.requests.append(path)
        self.hub.authorizations.append(self.headers.get("Authorization"))
        resolve = f"/{self.hub.repository}/resolve/"
        if self.hub.answer is not None:
            status, kind, body = self.hub.answer
            self.reply(status, body, kind=kind)
        elif path.startswith(resolve) and (name := path.removeprefix(resolve).split("/", 1)[1]) in self.hub.files:
            self.send_file(self.hub.files[name])
        elif path.startswith(f"/api/models/{self.hub.repository}/revision/"):
            self.reply(200, json.dumps({"sha": COMMIT, "siblings": self.hub.siblings()}).encode())
        else:
            self.reply(404, b"{}", extra={"X-Error-Code": "RepoNotFound"})

    def reply(
        self,
        status: int,
        body: bytes,
        *,
        kind: str = "application/json",
        extra: Mapping[str, str] | None = None,
    ) -> None:
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(body)), "Connection": "close"}
        for name, value in {**headers, **(extra or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def send_file(self, content: Any) -> None:
        begin = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        first = int(begin[1]) if begin else 0
        self.send_response(206 if begin else 200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        end = first + self.hub.cuts.pop(0) if self.hub.cuts else len(content)
        for place in range(first, min(end, len(content)), CHUNK):
            time.sleep(self.hub.pause)
            chunk = content[place : min(place + CHUNK, end)]
            self.hub.served += len(chunk)  # first: a client that has all of it may look at once
            try:
                self.wfile.write(chunk)
            except OSError:  # the client has gone
                break
        self.close_connection = end < len(content)


class Hub:
    """As much of the hub's HTTP interface as fetching files takes.

    Attributes:
        files: what the repository holds, by name.
        requests: the path of each request, in order.
        served: bytes of files that were sent.
        cuts: after so many bytes the connection of the next download is cut; one entry a download.
        pause: seconds before each chunk.
        answer: status, content type and body that every request gets instead; a proxy or a login page.
    """

    def __init__(self, files: Mapping[str, Any], repository: str) -> None:
        self.files = dict(files)
        self.repository = repository
        self.requests: list[str] = []
        self.authorizations: list[str | None] = []
        self.served = 0
        self.cuts: list[int] = []
        self.pause = 0.0
        self.answer: tuple[int, str, bytes] | None = None
        handler = type("Handler", (HubHandler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def siblings(self) -> list[dict[str, Any]]:
        """The files as the hub lists them; of large ones it knows the digest."""
        return [
            {"rfilename": name, "size": len(content), "blobId": "0" * 40}
            | ({"lfs": {"sha256": sha256(content).hexdigest()}} if name.endswith(".safetensors") else {})
            for name, content in self.files.items()
        ]


@contextmanager
def serve_files(files: Mapping[str, Any], repository: str = "org/tiny") -> Iterator[Hub]:
    """Files as a repository; point ``HF_ENDPOINT`` to its ``url``."""
    hub = Hub(files, repository)
    thread = threading.Thread(target=hub.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        hub.server.shutdown()
        thread.join()
        hub.server.server_close()


@contextmanager
def serve_hub(source: Path) -> Iterator[Hub]:
    """The files of a folder as the repository ``org/tiny``."""
    files = {path.relative_to(source).as_posix(): path.read_bytes() for path in source.rglob("*") if path.is_file()}
    with serve_files(files) as hub:
        yield hub
