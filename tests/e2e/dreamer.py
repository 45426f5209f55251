"""A stand-in of dream-of-kiki: another process that knows the bus and JSON, and nothing of ours.

Usage: dreamer.py URL ADAPTER SESSION [STEP]. It fetches what one session lived through, has it replayed and downscaled,
swaps the adapter and marks the records, until none are left. With STEP it kills itself right after that step.
"""

import asyncio
import json
import os
import signal
import sys
from typing import Any

import nats

BATCH = 7
TIMEOUT = float(os.environ.get("DREAMER_TIMEOUT", "300"))
STEPS = ("register", "fetch", "request", "done", "swap", "mark")


def name(session: str) -> str:
    """The service of a session's dreamer."""
    return f"dream-of-kiki-{session}"


async def ask(client: Any, verb: str, body: dict[str, Any]) -> dict[str, Any]:
    message = await client.request(f"kiki.svc.{verb}", json.dumps(body).encode(), timeout=TIMEOUT)
    reply: dict[str, Any] = json.loads(message.data)
    if "Nats-Service-Error" in (message.headers or {}):
        reply["refused"] = True
    return reply


async def ask_again(client: Any, verb: str, body: dict[str, Any]) -> dict[str, Any]:
    """Ask until it is no longer refused for now."""
    for _ in range(300):
        reply = await ask(client, verb, body)
        if "refused" not in reply or reply["code"] not in ("queue_full", "unavailable"):
            break
        await asyncio.sleep(1.0)
    return reply


def survive(step: str, last: str | None) -> None:
    print(step, flush=True)
    if step == last:
        os.kill(os.getpid(), signal.SIGKILL)


def episode(name: str, adapter: str, records: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "episode_id": name,
        "trigger": "external",
        "input_slice": {"adapter": adapter, "beta_records": records},
        "operation_set": ["replay", "downscale"],
        "output_channels": ["weight_delta"],
        "budget": {"flops": 1e15, "wall_time_s": 300.0, "energy_j": 1e6},
    }


async def finished(client: Any, episode_id: str) -> dict[str, Any]:
    while True:
        status = await ask(client, "dream.status", {"episode_id": episode_id})
        if status["state"] in ("done", "aborted"):
            return status
        await asyncio.sleep(0.2)


async def unused(client: Any, number: int) -> str:
    """An id for the batch that begins with a record; the next one when the runtime gave an earlier one up."""
    for attempt in range(100):
        found = f"de-{number}-{attempt}"
        if (await ask(client, "dream.status", {"episode_id": found}))["state"] != "aborted":
            return found
    raise AssertionError


async def consolidate(client: Any, service: str, adapter: str, records: list[dict[str, Any]], last: str | None) -> None:
    """One batch, from its records to the swapped adapter and the marked records."""
    wanted = episode(await unused(client, records[0]["id"]), adapter, records)
    queued = await ask(client, "dream.request", {"profile": "P_min", "episode": wanted})
    assert "refused" not in queued, queued
    survive("request", last)
    status = await finished(client, wanted["episode_id"])
    assert status["state"] == "done", status
    survive("done", last)
    delta, ids = status["report"]["weight_delta"], status["report"]["record_ids"]
    swap = {"episode_id": wanted["episode_id"], "adapter": adapter}
    swap |= {"sha256": delta["sha256"], "base_sha256": delta["base_sha256"]}
    swapped = await ask_again(client, "dream.swap", swap)
    assert "refused" not in swapped, swapped
    print(json.dumps({"swapped": swapped}), flush=True)
    survive("swap", last)
    marked = await ask(client, "services.mark", {"name": service, "ids": ids, "de_id": wanted["episode_id"]})
    assert "refused" not in marked, marked
    survive("mark", last)


async def main(url: str, adapter: str, session: str, last: str | None = None) -> None:
    client = await nats.connect(url)
    service = name(session)
    request = {"name": service, "filter": {"session_id": session}}
    registered = await ask(client, "services.register", request)
    assert "refused" not in registered or registered["code"] == "name_taken", registered
    survive("register", last)
    while True:
        fetched = await ask(client, "dream.fetch", {"name": service, "limit": BATCH})
        assert "refused" not in fetched, fetched
        survive("fetch", last)
        if not fetched["records"]:
            break
        await consolidate(client, service, adapter, fetched["records"], last)
    await client.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
