"""Looks for new weights in the adapters folder, proposes them to the gates, and takes the gates' verdicts.

A verdict is found by digest on the bus, so it does not matter which worker proposed the weights or heard of it first.
"""

import time
from typing import NoReturn

import anyio
import anyio.to_thread
import structlog

from agents.inference.adapters.registration import RegisteredAdapters
from agents.inference.failures import verdict_error
from agents.shared.adapters.folders import STAGED
from agents.shared.adapters.verdicts import KeptVerdict, VerdictFolder, read_digest
from bus.connection import Bus
from bus.metrics import count_degraded
from bus.topology import ADAPTERS
from schemas.adapters import AdapterJudged, AdapterProposed, judgement_of, new_life
from schemas.errors import KikiError

LOOK_SECONDS = 2.0
"""Seconds between two looks at the folder."""

ORIGIN = "folder"
"""The origin of weights that a worker has found in its folder."""

_log = structlog.get_logger("inference")


class AdapterWatch:
    """Watches the adapters folder of one worker, whose verdicts are kept in ``verdicts``."""

    def __init__(self, bus: Bus, registration: RegisteredAdapters, verdicts: VerdictFolder, *, base_model: str) -> None:
        self._bus, self._registration, self._verdicts = bus, registration, verdicts
        self._base_model = base_model
        self._stamps: dict[str, tuple[str, int, int]] = {}
        self._proposed_digests: set[str] = set()

    async def run(self) -> NoReturn:
        """Look for as long as the worker runs. A failure is counted, and the next look tries again."""
        while True:
            try:
                await self.look()
            except (KikiError, OSError) as error:
                count_degraded("adapter.watch", str(error))
            await anyio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Look once: read the digests of new weights, propose those that wait, and take the verdicts that are there.

        Weights that have changed since the last look may be half copied, and are left for the next one. Those of the
        first start are not read here: a fleet of them may be larger than the memory.

        Raises:
            KikiError: the broker is away, or an adapter went meanwhile.
            OSError: weights cannot be read.
        """
        stamps = {name: self._registration.stamp(name) for name in self._registration.names if STAGED not in name}
        settled = [name for name, stamp in stamps.items() if self._stamps.get(name) == stamp]
        self._stamps = stamps
        for name in settled:
            verdict = self._verdicts.judge_unread(name, self._registration.find_folder(name))
            if verdict is None:
                verdict = await anyio.to_thread.run_sync(self._read, name)
            if verdict.state == "waiting":
                await self._ask_gates(name, verdict.sha256)

    async def _ask_gates(self, name: str, sha256: str) -> None:
        """Take the verdict on weights that wait, or propose them once."""
        verdict = await take_verdict(self._bus, self._verdicts, name, sha256)
        if verdict is not None:
            log = _log.info if verdict.is_served else _log.warning
            log("adapter judged", adapter=name, sha256=sha256[:12], verdict=verdict.state, reason=verdict.message)
        elif sha256 not in self._proposed_digests:
            proposal = AdapterProposed(
                envelope=new_life(name, tenant=ORIGIN, key=sha256),
                name=name,
                sha256=sha256,
                origin=ORIGIN,
                base_model=self._base_model,
            )
            await self._bus.publish(proposal)
            self._proposed_digests.add(sha256)
            _log.info("adapter proposed", adapter=name, sha256=sha256[:12])

    def _read(self, name: str) -> KeptVerdict:
        folder = self._registration.find_folder(name)
        return self._verdicts.judge_known(name, folder, read_digest(self._registration.find_file(name)))


async def take_verdict(bus: Bus, verdicts: VerdictFolder, name: str, sha256: str) -> KeptVerdict | None:
    """The gates' verdict on weights, read from the bus and kept in ``verdicts``; None while they have none.

    Raises:
        KikiError: the broker is away.
    """
    life = judgement_of(sha256, name=name)
    judged = await bus.last(AdapterJudged, life.turn_id, stream=ADAPTERS)
    if judged is None or judged.sha256 != sha256:
        return None
    verdict = KeptVerdict(
        sha256=sha256,
        state="passed" if judged.passed else "refused",
        name=name,
        message=judged.message,
        gates=judged.gates,
        judged_at=time.time(),
    )
    await anyio.to_thread.run_sync(verdicts.record, verdict)
    return verdict


async def require_passed(bus: Bus, verdicts: VerdictFolder, name: str, sha256: str) -> None:
    """Refuse to put weights into use that the gates have not passed.

    Raises:
        StageFailed: code ``adapter_not_judged`` or ``adapter_refused``.
        KikiError: the broker is away; try again.
    """
    verdict = verdicts.find(sha256)
    if verdict is None or verdict.state != "passed":
        verdict = await take_verdict(bus, verdicts, name, sha256)
    if verdict is None or verdict.state != "passed":
        raise verdict_error(name, verdict)
