"""A second catfish: it objects when all candidates say the same, and says why when it does not.

python rival.py; the broker is $NATS_URL. Of its verdict and the other catfish's the first that is stored counts. With
AGENT_NAME=catfish it takes the other one's place.
"""

import asyncio
import os

from micro_kiki_client import Dissent, DissentRaised, DissentWaived, GuestAgent, InferDone, KikiError, connect

NAME = os.environ.get("AGENT_NAME", "rival")


async def consider(event: InferDone) -> DissentRaised | DissentWaived:
    """The verdict on a turn's candidates."""
    if not event.route.plan.dissent:
        return waive(event, "the plan leaves dissent out")
    if len({candidate.text.strip() for candidate in event.inference.candidates}) > 1:
        return waive(event, "the candidates differ")
    dissent = Dissent(engaged=True, reason="all say the same", text="What speaks against it?", tone="mild")
    return DissentRaised(envelope=event.envelope.next(NAME), dissent=dissent)


def waive(event: InferDone, why: str | KikiError) -> DissentWaived:
    """No objection; also when the rival fails, so that its failure does not end the turn."""
    return DissentWaived(envelope=event.envelope.next(NAME), dissent=Dissent(engaged=False, reason=str(why)))


async def main() -> None:
    """Serve until stopped."""
    async with connect(os.environ.get("NATS_URL", "nats://127.0.0.1:4222"), max_reconnect_attempts=-1) as kiki:
        await GuestAgent(kiki, NAME, InferDone, consider, give_up=waive).run()


if __name__ == "__main__":
    asyncio.run(main())
