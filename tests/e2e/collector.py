"""A stand-in of an OpenTelemetry collector: takes OTLP over HTTP and keeps the spans."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Span:
    """What the tests look at: which service, which trace, which turn."""

    service: str
    name: str
    trace: str
    turn: str


@dataclass
class Collector:
    """The collected spans; ``endpoint`` is the address for ``KIKI_OTLP_ENDPOINT``."""

    endpoint: str
    spans: list[Span] = field(default_factory=list)

    def keep(self, body: bytes) -> None:
        """Keep the spans of one export request."""
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = next(a.value.string_value for a in resource.resource.attributes if a.key == "service.name")
            for scope in resource.scope_spans:
                for span in scope.spans:
                    turn = next((a.value.string_value for a in span.attributes if a.key == "kiki.turn_id"), "")
                    self.spans.append(Span(service, span.name, span.trace_id.hex(), turn))


@contextmanager
def collect_spans() -> Iterator[Collector]:
    """Serve on a free loopback port."""

    class CollectorHandler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            collector.keep(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), CollectorHandler) as server:
        collector = Collector(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()
