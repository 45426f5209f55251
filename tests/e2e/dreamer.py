"""A stand-in of dream-of-kiki: another process that speaks JSON over NATS and imports nothing of this repository.

Usage: dreamer.py URL ADAPTER SESSION [STEP]. It fetches the records of one session, has them replayed and downscaled,
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


def service_name(session: str) -> str:
    """The service of a session's dreamer."""
    return f"dream-of-kiki-{session}"


async def ask(client: Any, verb: str, body: dict[str, Any]) -> dict[str, Any]:
    message = await client.request(f"kiki.svc.{verb}", json.dumps(body).encode(), timeout=TIMEOUT)
    reply: dict[str, Any] = json.loads(message.data)
    if "Nats-Service-Error" in (message.headers or {}):
        reply["refused"] = True
    return reply


async def ask_again(client: Any, verb: str, body: dict[str, Any]) -> dict[str, Any]:
    """Ask until the request is not refused for a passing reason."""
    for _ in range(300):
        reply = await ask(client, verb, body)
        if "refused" not in reply or reply["code"] not in ("queue_full", "unavailable"):
            break
        await asyncio.sleep(1.0)
    return reply


def report_step(step: str, last_step: str | None) -> None:
    """Print the step, and kill this process when it was the last one to do."""
    print(step, flush=True)
    if step == last_step:
        os.kill(os.getpid(), signal.SIGKILL)


def build_episode(name: str, adapter: str, records: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "episode_id": name,
        "trigger": "external",
        "input_slice": {"adapter": adapter, "beta_records": records},
        "operation_set": ["replay", "downscale"],
        "output_channels": ["weight_delta"],
        "budget": {"flops": 1e15, "wall_time_s": 300.0, "energy_j": 1e6},
    }


async def wait_until_finished(client: Any, episode_id: str) -> dict[str, Any]:
    while True:
        status = await ask(client, "dream.status", {"episode_id": episode_id})
        if status["state"] in ("done", "aborted"):
            return status
        await asyncio.sleep(0.2)


async def find_unused_id(client: Any, number: int) -> str:
    """An id for the batch that begins with record ``number``: the first one whose episode was not aborted."""
    for attempt in range(100):
        episode_id = f"de-{number}-{attempt}"
        if (await ask(client, "dream.status", {"episode_id": episode_id}))["state"] != "aborted":
            return episode_id
    raise AssertionError


async def consolidate(
    client: Any, service: str, adapter: str, records: list[dict[str, Any]], last_step: str | None
) -> None:
    """One batch, from its records to the swapped adapter and the marked records."""
    dream_episode = build_episode(await find_unused_id(client, records[0]["id"]), adapter, records)
    queue_reply = await ask(client, "dream.request", {"profile": "P_min", "episode": dream_episode})
    assert "refused" not in queue_reply, queue_reply
    report_step("request", last_step)
    status = await wait_until_finished(client, dream_episode["episode_id"])
    assert status["state"] == "done", status
    report_step("done", last_step)
    delta, ids = status["report"]["weight_delta"], status["report"]["record_ids"]
    swap = {"episode_id": dream_episode["episode_id"], "adapter": adapter}
    swap |= {"sha256": delta["sha256"], "base_sha256": delta["base_sha256"]}
    swap_reply = await ask_again(client, "dream.swap", swap)
    assert "refused" not in swap_reply, swap_reply
    print(json.dumps({"swapped": swap_reply}), flush=True)
    report_step("swap", last_step)
    mark_reply = await ask(client, "services.mark", {"name": service, "ids": ids, "de_id": dream_episode["episode_id"]})
    assert "refused" not in mark_reply, mark_reply
    report_step("mark", last_step)


async def main(url: str, adapter: str, session: str, last_step: str | None = None) -> None:
    client = await nats.connect(url, nkeys_seed=os.environ.get("NATS_NKEY"))
    service = service_name(session)
    request = {"name": service, "filter": {"session_id": session}}
    registration = await ask(client, "services.register", request)
    assert "refused" not in registration or registration["code"] == "name_taken", registration
    report_step("register", last_step)
    while True:
        batch = await ask(client, "dream.fetch", {"name": service, "limit": BATCH})
        assert "refused" not in batch, batch
        report_step("fetch", last_step)
        if not batch["records"]:
            break
        await consolidate(client, service, adapter, batch["records"], last_step)
    await client.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
