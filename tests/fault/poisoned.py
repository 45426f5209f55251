"""A worker that some prompts kill, as running out of memory would, or hang. The supervisor starts it in tests."""

import os
import signal
import sys
import time
from pathlib import Path

import anyio

from agents.inference.agent import InferenceAgent
from agents.inference.requests import DecodingOutcome
from agents.inference.settings import InferenceSettings
from bus.handler import Delivery
from runtime import process
from runtime.agents import find_spec, replace_agent
from runtime.settings import Settings, load_settings
from schemas.events import RecallDone

REAL_SPEC = find_spec("inference")
KILL, HANG, HANG_ONCE = "kill-the-worker", "hang-the-worker", "hang-once"
STALL_SECONDS = 3.0


class PoisonedAgent(InferenceAgent):
    """Decodes like the real one until it meets poison."""

    async def _decode_candidates(self, event: RecallDone, delivery: Delivery) -> DecodingOutcome:
        text = event.query.text
        if KILL in text:
            await anyio.sleep(0.3)  # by now the model decodes the other requests
            os.kill(os.getpid(), signal.SIGKILL)
        hang_marker = Path(os.environ["KIKI_DATA_DIR"]) / "hung"
        if HANG in text or (HANG_ONCE in text and not hang_marker.exists()):
            hang_marker.touch()
            from agents.inference.mlx.engine import MlxEngine

            assert isinstance(self._engine, MlxEngine)
            self._engine.thread.call(lambda: time.sleep(600))
        return await super()._decode_candidates(event, delivery)


def build(settings: Settings) -> PoisonedAgent:
    """The agent that runs in the real worker's place."""
    assert REAL_SPEC is not None
    real = REAL_SPEC.build(settings)
    assert isinstance(real, InferenceAgent)
    from msgspec.structs import replace

    changed: InferenceSettings = replace(real.settings, stall_seconds=STALL_SECONDS)
    return PoisonedAgent(changed)


if __name__ == "__main__":
    replace_agent("inference", build)
    anyio.run(process.serve, sys.argv[1:], load_settings(), backend="asyncio")
