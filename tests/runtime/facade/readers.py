"""Many tenants, users and conversations over HTTP: what each of them may read of what the others said."""

import re

import httpx

from agents.memory.agent import MemoryAgent
from bus.connection import Bus
from tests.agents.memory.memories import wait_for_projection

Headers = dict[str, str]
SECRET = re.compile(r"code-(\d+)")
ASK = {"query": "code of the cellar", "limit": "100"}


async def tell_and_read(bus: Bus, memory: MemoryAgent, http: httpx.AsyncClient, owners: dict[str, Headers]) -> None:
    """Each owner says something in two sessions; everybody then reads in every way, and finds their own alone.

    ``owners`` are the headers of each tenant and user; a name that begins with "nobody" names no user.
    """
    told: dict[int, tuple[str, str]] = {}
    turns: dict[int, str] = {}
    already = int(memory.status().gauges["atlas_episodes"])
    for owner, headers in owners.items():
        for session in ("s1", "s2"):
            number = len(told) + 1
            body = {
                "model": "micro-kiki-fast",
                "messages": [{"role": "user", "content": f"The cellar has code-{number}."}],
            }
            reply = await http.post("/v1/chat/completions", json=body, headers={**headers, "X-Session-Id": session})
            assert reply.status_code == 200, reply.text
            told[number], turns[number] = (owner, session), reply.headers["x-turn-id"]
    await wait_for_projection(bus, already + len(told), already + len(told))

    for reader, headers in owners.items():
        own = {number for number, (owner, _) in told.items() if owner == reader}
        for session in ("s1", "s2"):
            of_session = {number for number in own if told[number][1] == session}
            shown = await http.get(f"/v1/sessions/{session}", headers=headers)
            assert _numbers(shown) == of_session
            params = {**ASK, "session_id": session}
            assert _numbers(await http.get("/v1/episodes", params=params, headers=headers)) == of_session
        everywhere = await http.get("/v1/episodes", params=ASK, headers=headers)
        if reader.startswith("nobody"):
            assert (everywhere.status_code, everywhere.json()["error"]["param"]) == (400, "user")
        else:
            assert _numbers(everywhere) == own
        visible = {
            number
            for number, turn_id in turns.items()
            if (await http.get(f"/v1/turns/{turn_id}", headers=headers)).status_code == 200
        }
        assert visible == own


def _numbers(reply: httpx.Response) -> set[int]:
    assert reply.status_code == 200, reply.text
    return {int(number) for number in SECRET.findall(reply.text)}
