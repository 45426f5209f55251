"""One live runtime for all clients, and each client's report, made when its first check is asked for."""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.clients.cancelling import serve_cancelling
from tests.clients.catalogue import StockClient
from tests.clients.environments import BuildFailed, ToolchainMissing, prepare, run
from tests.e2e.conftest import Runtime, start, stop

KEY = "sk-clients"
PROGRAM_SECONDS = 1200.0
IDLE_SECONDS = 10.0


@dataclass
class Reports:
    """What each client's program printed. ``wanted`` are the checks that this run of the tests has."""

    runtime: Runtime
    cancel_url: str
    wanted: dict[str, list[str]]
    _reports: dict[str, dict[str, str | None]] = field(default_factory=dict)
    _reasons: dict[str, str] = field(default_factory=dict)

    def read(self, client: StockClient) -> dict[str, str | None]:
        """The client's report: check to what went wrong, or None. Its environment is built and its program run once.

        Skips the test where the client cannot be run; in CI a build that fails is an error.
        """
        if client.name not in self._reports and client.name not in self._reasons:
            self._run(client)
        if reason := self._reasons.get(client.name):
            pytest.skip(reason)
        return self._reports[client.name]

    def _run(self, client: StockClient) -> None:
        try:
            command = prepare(client)
        except ToolchainMissing as missing:
            self._reasons[client.name] = str(missing)
            return
        except BuildFailed as failure:
            if os.environ.get("CI") == "true":
                raise
            self._reasons[client.name] = str(failure)
            return
        names = self.wanted[client.name]
        outcome = run(
            [*command, *names],
            timeout=PROGRAM_SECONDS,
            RUNTIME_URL=self.runtime.http,
            RUNTIME_KEY=KEY,
            CANCEL_URL=self.cancel_url,
        )
        print(outcome.log)
        if outcome.status == 0:
            self._reports[client.name] = json.loads(outcome.output.splitlines()[-1])
        else:
            ended = "ran out of time" if outcome.status is None else f"ended with {outcome.status}"
            self._reports[client.name] = dict.fromkeys(names, f"the program {ended}: {outcome.log[-1500:]}")
        self._wait_until_idle()

    def _wait_until_idle(self) -> None:
        """The next client's checks count turns, too."""
        end = time.monotonic() + IDLE_SECONDS
        while httpx.get(f"{self.runtime.http}/health", timeout=10).json()["turns_in_flight"]:
            assert time.monotonic() < end, "the program has ended, and its turns go on"
            time.sleep(0.1)


@pytest.fixture(scope="session")
def live_runtime(tmp_path_factory: pytest.TempPathFactory, small_model: Path, embedder_path: Path) -> Iterator[Runtime]:
    """One runtime for all clients; it asks for a key.

    A stream waits for the worker's word however busy the machine is: what is checked is the status of a refusal.
    """
    running = start(
        tmp_path_factory.mktemp("runtime"),
        KIKI_API_KEYS=json.dumps({KEY: "clients"}),
        KIKI_AGENTS__FACADE__ACCEPT_SECONDS="60",
    )
    yield running
    stop(running)


@pytest.fixture(scope="session")
def reports(live_runtime: Runtime, request: pytest.FixtureRequest) -> Iterator[Reports]:
    """The clients' reports."""
    wanted: dict[str, list[str]] = {}
    for item in request.session.items:
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        if isinstance(client := parameters.get("client"), StockClient) and "check" in parameters:
            wanted.setdefault(client.name, []).append(parameters["check"])
    with serve_cancelling(live_runtime.bus) as cancel_url:
        yield Reports(live_runtime, cancel_url, wanted)
