"""Ask one question over NATS and print the answer while it is decoded.

python ask.py "What is the capital of France?"; the broker is $NATS_URL.
"""

import asyncio
import os
import sys

from micro_kiki_client import KikiError, connect


async def main(question: str) -> int:
    """Ask and print."""
    async with connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222")) as kiki:
        try:
            async for piece in kiki.ask(question, model="micro-kiki-fast"):
                print("".join(c for c in piece if c.isprintable() or c in "\n\t"), end="", flush=True)
        except KikiError as error:
            print(f"{error.code}: {error.message}", file=sys.stderr)
            return 1
    print()
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(" ".join(sys.argv[1:]) or "What is the capital of France?")))
