"""Another service, which has only the client installed and imports nothing of this repository.

test_client runs it with a Python of its own. It prints one JSON object: what each step returned.
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


async def catch_refusal(call: Any) -> list[str | None]:
    try:
        await call
    except KikiError as error:
        return [error.code, error.param]
    return []


def import_modules() -> list[str]:
    """Every module of the client, imported: none of them may need what is not installed."""
    names = [module.name for module in pkgutil.walk_packages(micro_kiki_client.__path__, "micro_kiki_client.")]
    return [importlib.import_module(name).__name__ for name in names]


async def main() -> dict[str, Any]:
    report: dict[str, Any] = {
        "modules": import_modules(),
        "foreign": [name for name in ("torch", "mlx", "schemas", "bus", "anyio") if importlib.util.find_spec(name)],
    }
    async with connect(os.environ["NATS_URL"]) as kiki:
        report["registered"] = (await kiki.register("stranger", begin="new")).name
        report["taken"] = await catch_refusal(kiki.register("stranger"))
        async with kiki.stage(AnswerReady) as answers, kiki.stage(QueryRouted) as routings:
            async with kiki.turn(QUESTION, model="micro-kiki-fast", tenant="strangers", session_id="first") as turn:
                report["pieces"] = [piece async for piece in turn.text()]
            assert turn.answer is not None
            report["turn"], report["text"] = turn.id, turn.answer.text
            report["routed"] = (await anext(routings)).envelope.turn_id
            report["answered"] = (await anext(answers)).envelope.turn_id
        report["failed"] = await catch_refusal(kiki.ask("hi", model="no-such-model").__anext__())
        records = await kiki.fetch("stranger", wait=20.0)
        report["fetched"] = [record.turn_id for record in records]
        report["skipped"] = await catch_refusal(kiki.mark_consumed("stranger", [records[-1].id + 1], "run-1"))
        report["marked"] = (await kiki.mark_consumed("stranger", [item.id for item in records], "run-1")).marked
        events = [event async for _, event in kiki.replay(Selection(tenant="strangers"))]
        report["replayed"] = [item.episode.turn_id for item in events if isinstance(item, EpisodeRecorded)]
        report["lag"] = [item.lag for item in await kiki.services() if item.name == "stranger"]
        await kiki.unregister("stranger")
    return report


if __name__ == "__main__":
    json.dump(asyncio.run(main()), sys.stdout)
