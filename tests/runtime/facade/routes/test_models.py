"""The list of models: ids, other names, what fits into each, and the embedder."""

from collections.abc import AsyncIterator

import anyio
import httpx
import pytest

from bus.connection import Bus, LiveMessage
from bus.testing import run_agents
from runtime.facade import FacadeSettings, serve
from runtime.facade import abilities as abilities_module
from runtime.facade.abilities import Abilities
from schemas.calls import STATUS
from schemas.codec import encode
from schemas.errors import SetupError
from schemas.status import StatusReply
from tests.runtime.facade.reporters import Reporter
from tests.runtime.facade.scripted import MODELS, Script, chat_body, serve_facade

pytestmark = pytest.mark.anyio

WORKER = StatusReply(agent="inference", ready=True, gauges={"context_tokens": 32768.0})
EMBEDDER = StatusReply(
    agent="embedder", ready=True, gauges={"dimensions": 768.0, "max_tokens": 384.0}, info={"model": "all-mpnet-base-v2"}
)


@pytest.fixture
async def http(bus: Bus) -> AsyncIterator[httpx.AsyncClient]:
    settings = FacadeSettings(port=0, models={"gpt-4o": "micro-kiki-fast"}, default_model="micro-kiki-base")
    async with serve_facade(bus, settings) as url, httpx.AsyncClient(base_url=url, timeout=20) as client:
        yield client


async def test_without_any_agent_the_list_is_there_at_once(http: httpx.AsyncClient) -> None:
    with anyio.fail_after(1):
        listing = (await http.get("/v1/models")).json()
    assert listing["object"] == "list"
    assert [model["id"] for model in listing["data"]] == [*MODELS, "gpt-4o"]
    assert len(MODELS) == 45
    assert {(model["context_length"], model["max_model_len"]) for model in listing["data"]} == {(None, None)}


async def test_a_model_tells_what_fits_into_it_and_who_it_is(http: httpx.AsyncClient, bus: Bus) -> None:
    async with run_agents(bus, Reporter(WORKER), Reporter(EMBEDDER)):
        listing = (await http.get("/models/")).json()
        models = {model["id"]: model for model in listing["data"]}
        single = (await http.get("/v1/models/micro-kiki")).json()
        embedder = (await http.get("/v1/models/sentence-transformers/all-mpnet-base-v2")).json()
    assert single == models["micro-kiki"]
    assert (single["object"], single["owned_by"], single["level"]) == ("model", "micro-kiki", "full")
    assert (single["context_length"], single["max_model_len"], single["root"]) == (32768, 32768, "micro-kiki")
    assert (models["gpt-4o"]["root"], models["gpt-4o"]["level"]) == ("micro-kiki-fast", "fast")
    assert embedder == models["all-mpnet-base-v2"]
    assert (embedder["context_length"], embedder["dimensions"]) == (384, 768)


@pytest.mark.parametrize(
    ("path", "model_id"),
    [
        ("/v1/models/MICRO-KIKI", "micro-kiki"),
        ("/v1/models/openai/micro-kiki", "micro-kiki"),
        ("/v1/models/openai%2Fmicro-kiki", "micro-kiki"),
        ("/models/ollama_chat/Micro-Kiki-Fast/", "micro-kiki-fast"),
        ("/v1/models/openai/gpt-4o", "micro-kiki-fast"),
    ],
)
async def test_a_model_is_shown_under_each_of_its_names(http: httpx.AsyncClient, path: str, model_id: str) -> None:
    assert (await http.get(path)).json()["id"] == model_id


@pytest.mark.parametrize(
    ("fields", "model_id"),
    [
        ({"model": "gpt-4o"}, "micro-kiki-fast"),
        ({"model": "openai/GPT-4o"}, "micro-kiki-fast"),
        ({"model": "OPENAI/MICRO-KIKI-FAST"}, "micro-kiki-fast"),
        ({"model": ""}, "micro-kiki-base"),
        ({"model": None}, "micro-kiki-base"),
        ({}, "micro-kiki-base"),
    ],
)
async def test_a_turn_is_answered_by_the_model_that_its_name_means(
    http: httpx.AsyncClient, script: Script, fields: dict[str, str | None], model_id: str
) -> None:
    body = {name: value for name, value in chat_body().items() if name != "model"} | fields
    assert (await http.post("/v1/chat/completions", json=body)).status_code == 200
    assert [event.query.model for event in script.queries] == [model_id]


async def test_an_unknown_model_is_a_404(http: httpx.AsyncClient) -> None:
    reply = await http.get("/v1/models/openai/gpt-5")
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")


async def test_a_name_for_a_model_that_does_not_exist_ends_the_start(bus: Bus) -> None:
    with pytest.raises(SetupError) as refusal:
        await serve(bus, FacadeSettings(port=0, models={"gpt-4o": "micro-kiki-slow"}), MODELS)
    assert (refusal.value.param, "'micro-kiki-slow'" in refusal.value.message) == ("models", True)


async def test_an_agent_that_hangs_holds_the_list_up_once_alone(
    http: httpx.AsyncClient, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(abilities_module, "ANSWER_SECONDS", 0.2)

    async def hang(message: LiveMessage) -> None:
        calls.append(message.subject)

    calls: list[str] = []
    await bus.listen(bus.subjects.service(STATUS.at("inference").verb), hang)
    for _ in range(3):
        assert (await http.get("/v1/models")).status_code == 200
    assert len(calls) == 1


async def test_the_last_report_of_an_agent_holds_while_it_is_away(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(abilities_module, "KEPT_SECONDS", 0.0)
    abilities = Abilities(bus)
    assert await abilities.read_context_tokens() is None
    async with run_agents(bus, Reporter(WORKER)):
        assert await abilities.read_context_tokens() == 32768
    assert await abilities.read_context_tokens() == 32768
    assert await abilities.read_embedder() is None


async def test_an_embedder_that_says_little_is_listed_with_what_it_says(bus: Bus) -> None:
    async def report(message: LiveMessage) -> None:
        await bus.send(message.reply, encode(StatusReply(agent="embedder", ready=True)))

    await bus.listen(bus.subjects.service(STATUS.at("embedder").verb), report)
    model = await Abilities(bus).read_embedder()
    assert model is not None
    assert (model.name, model.dimensions, model.max_tokens) == ("embedder", None, None)
