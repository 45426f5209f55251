"""One OpenTelemetry trace a turn across processes, and logs that carry the turn."""

import json
import re
import time

import httpx
import pytest

from runtime.agents import turn_agents, turn_stages
from runtime.composition import group_by_process
from tests.e2e.collector import Collector
from tests.e2e.conftest import Runtime
from tests.supply.locking import ROOT

STAGES = {stage.name for stage in turn_stages() if stage.position != "after"}
SERVICES = {f"kiki-{process}" for process in group_by_process(turn_agents())}


def test_a_turn_is_one_trace_across_all_agents(runtime: Runtime, collector: Collector) -> None:
    body = {"model": "micro-kiki", "messages": [{"role": "user", "content": "Name a colour."}], "max_tokens": 4}
    parent = "0af7651916cd43dd8448eb211c80319c"
    headers = {"traceparent": f"00-{parent}-b7ad6b7169203331-01"}
    answer = httpx.post(f"{runtime.http}/v1/chat/completions", json=body, headers=headers, timeout=120)
    turn = answer.headers["x-turn-id"]
    for _ in range(100):
        spans = [span for span in list(collector.spans) if span.turn == turn]
        if {span.name for span in spans} >= STAGES:
            break
        time.sleep(0.2)
    else:
        pytest.fail(f"only {sorted({span.name for span in spans})}")
    assert {span.service for span in spans} >= SERVICES
    assert {span.trace for span in spans} == {parent}


def test_a_machine_reads_the_turn_in_the_logs(runtime: Runtime) -> None:
    """A refused turn is logged as JSON with its ids by the agent that refused it."""
    prompt = "word " * 20_000
    body = {"model": "micro-kiki-base", "messages": [{"role": "user", "content": prompt}], "max_tokens": 4}
    refusal = httpx.post(f"{runtime.http}/v1/chat/completions", json=body, timeout=120)
    assert refusal.status_code == 400
    assert refusal.json()["error"]["code"] == "context_length_exceeded"
    turn = refusal.headers["x-turn-id"]
    lines = (runtime.data_dir / "logs" / "inference.log").read_text().splitlines()
    records = [json.loads(line) for line in lines if turn in line]
    assert records
    assert {"turn_id", "session_id", "trace_id", "agent", "level", "timestamp"} <= set(records[-1])


def test_every_metric_of_a_runtime_stands_in_the_docs(runtime: Runtime) -> None:
    body = {"model": "micro-kiki", "messages": [{"role": "user", "content": "Name a tree."}], "max_tokens": 4}
    httpx.post(f"{runtime.http}/v1/chat/completions", json=body, timeout=120).raise_for_status()
    exposed = httpx.get(f"{runtime.http}/metrics", timeout=60).text
    names = set(re.findall(r"^# TYPE (kiki_\w+) ", exposed, re.MULTILINE))
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `(kiki_\w+)` ", page, re.MULTILINE))
    assert {name for name in names - documented if not name.startswith("kiki_negotiator_")} == set()
    assert len(names) > 50
