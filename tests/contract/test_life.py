"""The contract's life: what was recorded under every version is understood, and what breaks is named."""

import copy
import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from bus.subjects import Subjects
from runtime.cli.__main__ import app
from schemas.asyncapi.breaking import breaking_changes
from schemas.asyncapi.document import document
from schemas.codec import decode
from schemas.envelope import PERSON, SCHEMA_VERSION
from schemas.errors import InvalidEvent
from schemas.events import STAGE_EVENTS, EpisodeForgotten, EpisodeRecorded, Event, QueryReceived
from schemas.upcast import STEPS

HERE = Path(__file__).parent
GOLDEN = HERE.parents[1] / "docs" / "asyncapi.json"
VERSIONS = sorted(int(path.stem) for path in (HERE / "versions").glob("*.json"))
RECORDINGS = sorted((HERE / "recorded").glob("*.jsonl.gz"))
EVENTS: tuple[type[Event], ...] = (*STAGE_EVENTS, EpisodeRecorded, EpisodeForgotten)
KINDS = {kind.subject: kind for kind in EVENTS}


def lines(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def load_contract(version: int) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((HERE / "versions" / f"{version}.json").read_text(encoding="utf-8"))
    return document


@cache
def _current_json() -> str:
    return json.dumps(document())


def current_contract() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(_current_json())
    return document


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: str(path.name))
def test_the_recording_of_every_version_is_understood(path: Path) -> None:
    """Taken from the streams of a real runtime of that version: turns, episodes, an import, a tombstone."""
    events = []
    for line in lines(path):
        kind = KINDS[Subjects.kind(line["subject"])]
        event = decode(kind, json.dumps(line["event"]).encode())
        assert event.envelope.schema_version == SCHEMA_VERSION
        events.append(event)
    assert {EpisodeRecorded, EpisodeForgotten, QueryReceived} <= {type(event) for event in events}
    for event in events:
        if isinstance(event, EpisodeRecorded):
            assert event.episode.question
            assert event.episode.outcome == "imported" or event.episode.messages[-1].content == event.episode.question


@pytest.mark.parametrize(("version", "user"), [(1, PERSON), (2, "")])
def test_an_episode_from_before_users_is_the_persons_or_without_one(version: int, user: str) -> None:
    """The first recording is of a machine without keys, the second of a tenant with one."""
    (path,) = (path for path in RECORDINGS if path.name.startswith(f"{version}."))
    episodes = [line["event"] for line in lines(path) if ".episode.recorded." in line["subject"]]
    decoded = [decode(EpisodeRecorded, json.dumps(event).encode()) for event in episodes]
    assert len(decoded) >= 2
    assert {(event.envelope.user, event.episode.user) for event in decoded} == {(user, user)}


def test_every_earlier_version_has_a_recording_a_contract_and_a_step() -> None:
    before = list(range(1, SCHEMA_VERSION))
    assert [version for version in VERSIONS if version < SCHEMA_VERSION] == before
    assert [int(path.name.split(".")[0]) for path in RECORDINGS if path.name != f"{SCHEMA_VERSION}.jsonl.gz"] == before
    assert len(STEPS) == len(before)
    for version in before:
        envelope = load_contract(version)["components"]["schemas"]["Envelope"]
        assert envelope["properties"]["schema_version"]["maximum"] == version
        recorded = [line["event"] for line in lines(HERE / "recorded" / f"{version}.jsonl.gz")]
        assert {event["envelope"]["schema_version"] for event in recorded} == {version}


def test_a_breaking_change_raises_the_version() -> None:
    last = VERSIONS[-1]
    changes = breaking_changes(load_contract(last), current_contract())
    assert not changes or last < SCHEMA_VERSION, (
        f"this breaks readers and writers of version {last}: {'; '.join(changes)}. Undo it, or raise SCHEMA_VERSION, "
        "add a step to schemas/upcast.py and a recording to tests/contract/recorded."
    )


def test_an_old_event_that_is_wrong_is_refused_by_its_field() -> None:
    line = next(line for line in lines(RECORDINGS[0]) if Subjects.kind(line["subject"]).startswith("episode."))
    line["event"]["episode"]["level"] = "loud"
    with pytest.raises(InvalidEvent) as caught:
        decode(EpisodeRecorded, json.dumps(line["event"]).encode())
    assert caught.value.param == "episode.level"


def find_breaks(change: Any) -> list[str]:
    before = current_contract()
    after = copy.deepcopy(before)
    change(after["components"]["schemas"], after)
    return breaking_changes(before, after)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda schemas, _: schemas["Episode"]["properties"].pop("answer"), "Episode.answer is gone"),
        (lambda schemas, _: schemas["Query"]["required"].append("level"), "Query.level is required now"),
        (
            lambda schemas, _: schemas["Episode"]["properties"]["answer"].update(type="integer"),
            "Episode.answer may now be integer",
        ),
        (
            lambda schemas, _: schemas["Sampling"]["properties"]["max_tokens"].update(maximum=16),
            "Sampling.max_tokens: maximum 16 is tighter than 1048576",
        ),
        (
            lambda schemas, _: schemas["Message"]["properties"]["role"]["enum"].remove("tool"),
            "Message.role no longer takes 'tool'",
        ),
        (
            lambda schemas, _: schemas["BiasReport"]["properties"]["checked"].update(type="string"),
            "BiasReport.checked may now be string",
        ),
        (lambda _, document: document["channels"].pop("AnswerReady"), "channel AnswerReady (kiki.answer.ready."),
        (
            lambda _, document: document["channels"]["EmbedService"].update(address="kiki.svc.vectors"),
            "channel EmbedService moved from kiki.svc.embed to kiki.svc.vectors",
        ),
        (
            lambda schemas, _: schemas["FetchRequest"]["properties"]["name"].update(pattern="^x$"),
            "FetchRequest.name: the pattern is ^x$",
        ),
    ],
)
def test_a_breaking_change_is_named(change: Any, message: str) -> None:
    assert any(line.startswith(message) for line in find_breaks(change)), find_breaks(change)


@pytest.mark.parametrize(
    "change",
    [
        lambda schemas, _: schemas["Episode"]["properties"].update(mood={"type": "string", "default": ""}),
        lambda schemas, _: schemas["Sampling"]["properties"]["max_tokens"].update(maximum=2**21),
        lambda _, document: document["channels"].update(New={"address": "kiki.new", "messages": {}}),
        lambda schemas, _: schemas["FetchRequest"]["properties"].update(hint={"type": "string", "default": ""}),
    ],
)
def test_a_compatible_change_is_not_named(change: Any) -> None:
    assert find_breaks(change) == []


def test_the_document_states_the_version() -> None:
    assert current_contract()["info"]["version"] == f"{SCHEMA_VERSION}.0.0"
    assert msgspec.json.encode(current_contract())


def test_the_command_names_what_breaks(tmp_path: Path) -> None:
    path = tmp_path / "older.json"
    older = current_contract()
    older["components"]["schemas"]["Episode"]["properties"]["mood"] = {"type": "string"}
    path.write_text(json.dumps(older), encoding="utf-8")
    result = CliRunner().invoke(app, ["asyncapi", "--against", str(path)])
    assert result.exit_code == 1
    assert "Episode.mood is gone" in result.output
    path.write_text("{}", encoding="utf-8")
    assert "is no contract" in CliRunner().invoke(app, ["asyncapi", "--against", str(path)]).output
    assert "nothing breaks" in CliRunner().invoke(app, ["asyncapi", "--against", str(GOLDEN)]).output
