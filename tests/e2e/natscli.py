"""The two verbs of the stock ``nats`` command line that the example uses, by nats-py, for machines without the command.

nats sub --raw [--count N] SUBJECT
nats req SUBJECT BODY --header NAME:VALUE
"""

import argparse
import asyncio
import os
import sys

import nats


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="nats")
    verbs = parser.add_subparsers(dest="verb", required=True)
    sub = verbs.add_parser("sub")
    sub.add_argument("subject")
    sub.add_argument("--raw", action="store_true", required=True)
    sub.add_argument("--count", type=int, default=0)
    req = verbs.add_parser("req")
    req.add_argument("subject")
    req.add_argument("body")
    req.add_argument("--header", action="append", default=[])
    return parser.parse_args()


async def main(options: argparse.Namespace) -> None:
    client = await nats.connect(os.environ["NATS_URL"], nkeys_seed=os.environ.get("NATS_NKEY"))
    if options.verb == "req":
        headers = dict(header.split(":", 1) for header in options.header)
        reply = await client.request(options.subject, options.body.encode(), timeout=5, headers=headers)
        print(reply.data.decode())
    else:
        message_count = 0
        async for message in (await client.subscribe(options.subject)).messages:
            sys.stdout.buffer.write(message.data + b"\n")
            sys.stdout.buffer.flush()
            message_count += 1
            if message_count == options.count:
                break
    await client.close()


if __name__ == "__main__":
    asyncio.run(main(parse_arguments()))
