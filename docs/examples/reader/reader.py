"""Reads the record from where it stopped the last time, prints each episode, and marks it as consumed.

python reader.py NAME [SECONDS]; the broker is $NATS_URL. It ends when no record comes for so many seconds.
"""

import asyncio
import os
import sys

from micro_kiki_client import Record, connect


def describe(record: Record) -> str:
    """One line for a record; one without an episode says which episode was forgotten."""
    if record.episode is None:
        return f"{record.id}: {record.episode_id} was forgotten"
    return f"{record.id}: {record.episode.question} -> {record.episode.answer}"


async def main(name: str, seconds: float) -> None:
    """Register, or go on; then read until nothing comes."""
    async with connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222")) as kiki:
        await kiki.join(name)
        while records := await kiki.fetch(name, wait=seconds):
            for record in records:
                print(ascii(describe(record)), flush=True)
            await kiki.mark_consumed(name, [record.id for record in records], f"read-{records[0].id}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 10.0))
