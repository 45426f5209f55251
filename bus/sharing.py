"""Shares a consumer's messages among processes by what each has in hand.

All slots of all processes have a pull request at the broker, which serves them in the order in which they came: the
process that started first would get everything. So each request has a priority (nats-server 2.12 and later): the n-th
request of a process stands for its n-th message in hand, and the broker serves low numbers first.
"""

import json
from collections.abc import Collection
from typing import Any

from nats.aio.client import Client

from bus.metrics import count_degraded

GROUP = "load"
"""The one group of requests; the broker wants a name."""

_POLICY = "prioritized"
_FIRST_RANKS = (0, 1, 2, 3, 4, 6, 8, 12, 20, 36)
"""The first rank of each of the broker's ten priorities: exact for few messages in hand, coarse for many."""

_INFO = "$JS.API.CONSUMER.INFO"
_CREATE = "$JS.API.CONSUMER.CREATE"
_SECONDS = 5.0


def find_rank(taken: Collection[int]) -> int:
    """The lowest rank that no waiting request of this process has: how many messages it has in hand, if all others
    wait."""
    return next(rank for rank in range(len(taken) + 1) if rank not in taken)


def priority_of(rank: int) -> int:
    """The broker's priority (0 is served first, 9 last) of the request with that rank."""
    return sum(rank >= first for first in _FIRST_RANKS) - 1


async def prioritize(client: Client, stream: str, durable: str) -> None:
    """Have the broker serve the consumer's requests by priority. Its position and all other settings stay.

    A broker that knows no priorities serves requests in their order, which is counted.

    Raises:
        BROKER_ERRORS: it is away.
    """
    try:
        info = await _call(client, f"{_INFO}.{stream}.{durable}", {})
        config = info["config"]
        if config.get("priority_policy") == _POLICY and config.get("priority_groups") == [GROUP]:
            return
        config |= {"priority_policy": _POLICY, "priority_groups": [GROUP]}
        config.pop("metadata", None)  # the broker's own account of its versions
        await _call(client, f"{_CREATE}.{stream}.{durable}", {"stream_name": stream, "config": config})
    except (ValueError, KeyError) as error:
        count_degraded("consumer.sharing", f"{durable} is not shared by load, which needs nats-server 2.12: {error}")


async def _call(client: Client, subject: str, body: dict[str, Any]) -> dict[str, Any]:
    """A request to JetStream's interface in JSON: nats-py's configuration of a consumer has no priorities."""
    reply = await client.request(subject, json.dumps(body).encode(), timeout=_SECONDS)
    answer: dict[str, Any] = json.loads(reply.data)
    if error := answer.get("error"):
        raise ValueError(str(error.get("description", error)))
    return answer
