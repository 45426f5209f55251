"""The contract is kept as a golden file, valid for the official parser, and true to the structs."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from schemas.asyncapi.document import document
from schemas.chat import Message
from schemas.codec import encode
from schemas.envelope import new_turn
from schemas.events import QueryReceived, TurnFailed
from schemas.findings import Query

HERE = Path(__file__).parent
GOLDEN = HERE.parents[1] / "docs" / "asyncapi.json"


def test_the_golden_file_is_what_the_structs_say() -> None:
    assert json.loads(GOLDEN.read_text(encoding="utf-8")) == json.loads(json.dumps(document())), (
        "the contract changed: run 'make contract', and raise SCHEMA_VERSION if a reader of the old one would fail"
    )


@pytest.mark.node
@pytest.mark.skipif(
    shutil.which("node") is None or not (HERE / "node_modules").exists(), reason="npm's @asyncapi/parser is not here"
)
def test_the_official_parser_accepts_the_contract_and_refuses_a_broken_one(tmp_path: Path) -> None:
    assert _parse(GOLDEN).returncode == 0
    broken = {"asyncapi": "3.0.0", "info": {"version": "1.0.0"}, "channels": {}}  # a small one: the title is missing
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(broken), encoding="utf-8")
    result = _parse(path)
    assert result.returncode == 1
    assert "title" in result.stdout


def _parse(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["node", "parse.mjs", str(path)], cwd=HERE, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    "event",
    [
        QueryReceived(
            envelope=new_turn(tenant="t", timeout=9),
            query=Query(model="micro-kiki", messages=(Message(role="user", content="é"),)),
        ),
        TurnFailed(
            envelope=new_turn(tenant="t", timeout=9), stage="router", code="unavailable", message="m", retryable=True
        ),
    ],
)
def test_an_encoded_event_fits_the_published_schema(event: msgspec.Struct) -> None:
    contract = document()
    schema = {"$ref": f"#/components/schemas/{type(event).__name__}", "components": contract["components"]}
    jsonschema.validate(json.loads(encode(event)), schema)
    jsonschema.validate({**json.loads(encode(event)), "surprise": 1}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**json.loads(encode(event)), "envelope": 1}, schema)


def test_schemas_are_open_for_readers_and_closed_for_requests() -> None:
    schemas = document()["components"]["schemas"]
    closed = {name for name, schema in schemas.items() if schema.get("additionalProperties") is False}
    assert {"RegisterRequest", "AdviseRequest", "TenantTurn"} <= closed
    events = {name for name, schema in schemas.items() if "envelope" in schema.get("properties", {})}
    assert not closed & (events | {"Envelope", "Query", "Episode", "ServiceInfo", "StatusReply"})


def test_the_reports_of_agents_and_the_headers_are_in_the_contract() -> None:
    contract = document()
    addresses = {name: channel["address"] for name, channel in contract["channels"].items()}
    assert addresses["StatusService"] == "kiki.svc.status.{agent}"
    assert addresses["ReportService"] == "kiki.svc.status"
    assert addresses["AdviseService"] == "kiki.svc.advise.{advisor}"
    refusal = contract["components"]["messages"]["ServiceError"]["headers"]["properties"]
    assert set(refusal) == {"Nats-Service-Error", "Nats-Service-Error-Code"}
    event = contract["components"]["messages"]["DissentRaised"]["headers"]["properties"]
    assert "<turn_id>:<noun>.<verb>" in event["Nats-Msg-Id"]["description"]
    assert "retryable" in contract["components"]["schemas"]["ServiceError"]["properties"]


def test_every_message_has_an_example_that_fits() -> None:
    components = json.loads(GOLDEN.read_text(encoding="utf-8"))["components"]
    for name, message in components["messages"].items():
        (example,) = message["examples"]
        jsonschema.validate(example["payload"], {"$ref": f"#/components/schemas/{name}", "components": components})
        assert example["payload"] or not components["schemas"][name].get("properties"), name


def test_every_subject_has_its_prefix_and_parameters() -> None:
    channels: dict[str, dict[str, Any]] = document(prefix="other")["channels"]
    for channel in channels.values():
        if channel["address"] is not None:
            assert channel["address"].startswith("other.")
            assert all(f"{{{name}}}" in channel["address"] for name in channel.get("parameters", {}))
