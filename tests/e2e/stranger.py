"""Another service, as a process of its own with nothing of ours but the client. Run by test_client with its own Python.

Prints one JSON object: what it saw. Imports nothing of this repository.
"""

import asyncio
import importlib
import importlib.util
import json
import os
import pkgutil
import sys
from typing import Any

import micro_kiki_client
from micro_kiki_client import AnswerReady, EpisodeRecorded, KikiError, QueryRouted, Selection, connect

QUESTION = "What is the capital of France?"


async def refused(call: Any) -> list[str | None]:
    try:
        await call
    except KikiError as error:
        return [error.code, error.param]
    return []


def modules() -> list[str]:
    """Every module of the client, imported: none of them may need what is not installed."""
    names = [found.name for found in pkgutil.walk_packages(micro_kiki_client.__path__, "micro_kiki_client.")]
    return [importlib.import_module(name).__name__ for name in names]


async def main() -> dict[str, Any]:
    found: dict[str, Any] = {
        "modules": modules(),
        "foreign": [name for name in ("torch", "mlx", "schemas", "bus", "anyio") if importlib.util.find_spec(name)],
    }
    async with connect(os.environ["NATS_URL"]) as kiki:
        found["registered"] = (await kiki.register("stranger", begin="new")).name
        found["taken"] = await refused(kiki.register("stranger"))
        async with kiki.stage(AnswerReady) as answers, kiki.stage(QueryRouted) as routed:
            async with kiki.turn(QUESTION, model="micro-kiki-fast", tenant="strangers", session_id="first") as turn:
                found["pieces"] = [piece async for piece in turn.text()]
            assert turn.answer is not None
            found["turn"], found["text"] = turn.id, turn.answer.text
            found["routed"] = (await anext(routed)).envelope.turn_id
            found["answered"] = (await anext(answers)).envelope.turn_id
        found["failed"] = await refused(kiki.ask("hi", model="no-such-model").__anext__())
        records = await kiki.fetch("stranger", wait=20.0)
        found["fetched"] = [record.turn_id for record in records]
        found["skipped"] = await refused(kiki.mark_consumed("stranger", [records[-1].id + 1], "run-1"))
        found["marked"] = (await kiki.mark_consumed("stranger", [one.id for one in records], "run-1")).marked
        replayed = [event async for _, event in kiki.replay(Selection(tenant="strangers"))]
        found["replayed"] = [one.episode.turn_id for one in replayed if isinstance(one, EpisodeRecorded)]
        found["lag"] = [one.lag for one in await kiki.services() if one.name == "stranger"]
        await kiki.unregister("stranger")
    return found


if __name__ == "__main__":
    json.dump(asyncio.run(main()), sys.stdout)
