"""What is checked of a request before its turn is published."""

import httpx
import pytest

from bus.connection import Bus
from bus.testing import run_agents
from runtime.facade import FacadeSettings
from schemas.findings import AdapterUse
from schemas.status import StatusReply
from tests.runtime.facade.reporters import Reporter
from tests.runtime.facade.scripted import Script, chat_body, serve_facade

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("stream", [False, True])
async def test_a_model_id_whose_adapter_is_missing_is_refused_where_the_setting_says_so(
    bus: Bus, script: Script, stream: bool
) -> None:
    worker = Reporter(StatusReply(agent="inference", ready=True, info={"registered": "power python"}))
    settings = FacadeSettings(port=0, missing_adapter="refuse")
    script.adapters = (AdapterUse(name="power"),)
    async with run_agents(bus, worker), serve_facade(bus, settings) as url, httpx.AsyncClient(base_url=url) as http:
        replies = {
            name: await http.post("/v1/chat/completions", json=chat_body(model=name, stream=stream))
            for name in ("kiki-niche-power", "kiki-niche-emc", "micro-kiki")
        }
    assert [reply.status_code for reply in replies.values()] == [200, 404, 200]
    error = replies["kiki-niche-emc"].json()["error"]
    assert (error["code"], error["param"]) == ("adapter_not_found", "model")
    assert "emc" in error["message"]
    assert len(script.queries) == 2
