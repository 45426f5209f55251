"""A stand-in for a Qdrant server over real HTTP, of which a test says how it answers; it keeps points' ids alone."""

import contextlib
import json
import threading
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from agents.memory.stores.stored import CONTEXT, WORDS
from tests.agents.memory.scenes import SIZE

COLLECTION = {
    "status": "green",
    "optimizer_status": "ok",
    "segments_count": 1,
    "config": {
        "params": {
            "vectors": {CONTEXT: {"size": SIZE, "distance": "Dot"}},
            "sparse_vectors": {WORDS: {"modifier": "idf"}},
        },
        "hnsw_config": {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000},
        "optimizer_config": {
            "deleted_threshold": 0.2,
            "vacuum_min_vector_number": 1000,
            "default_segment_number": 1,
            "flush_interval_sec": 5,
        },
    },
}


class QdrantStandIn:
    """What the server does: it answers with ``status`` and ``reason``, unless that is 200."""

    def __init__(self) -> None:
        self.status = HTTPStatus.OK
        self.reason = ""
        self.exists = False
        self.points: set[str] = set()
        self.indexes: set[str] = set()
        self.url = ""

    def answer(self, method: str, path: str, body: Any) -> Any:
        """The result of a request that is not refused."""
        parts = path.split("?", maxsplit=1)[0].strip("/").split("/")[2:]
        if parts == ["exists"]:
            return {"exists": self.exists}
        if parts == ["index"]:
            self.indexes.add(body["field_name"])
        elif parts == ["points"] and method == "PUT":
            self.points |= {point["id"] for point in body["points"]}
        elif parts == ["points", "count"]:
            return {"count": len(self.points)}
        elif parts == ["points", "query", "batch"]:
            return [{"points": []} for _ in body["searches"]]
        elif parts == ["points"]:
            return []
        elif parts == [] and method in ("PUT", "DELETE"):
            self.exists, self.points, self.indexes = method == "PUT", set(), set()
            return True
        elif parts == []:
            schema = {field: {"data_type": "keyword", "points": 0} for field in self.indexes}
            return COLLECTION | {"payload_schema": schema}
        return {"operation_id": 1, "status": "completed"}


@contextlib.contextmanager
def serve_qdrant() -> Iterator[QdrantStandIn]:
    """A stand-in that listens on loopback."""
    stand_in = QdrantStandIn()

    class StandInHandler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"null")
            if stand_in.status == HTTPStatus.OK:
                text = {"time": 0.0, "status": "ok", "result": stand_in.answer(self.command, self.path, body)}
            else:
                text = {"time": 0.0, "status": {"error": stand_in.reason}}
            data = json.dumps(text).encode()
            self.send_response(stand_in.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            if stand_in.status == HTTPStatus.TOO_MANY_REQUESTS:
                self.send_header("Retry-After", "1")
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_DELETE = do_PATCH = _answer

        def log_message(self, format: str, *args: Any) -> None:
            """Be quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), StandInHandler)
    stand_in.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield stand_in
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
