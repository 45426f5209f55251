"""One turn's hearing: the panel votes, hears the dissent, votes again, and the attending decides what is left."""

import contextlib
from dataclasses import dataclass
from typing import Literal

import anyio

from agents import excerpt
from agents.calibration import Priors
from agents.consultation import Consultation
from agents.negotiator import consensus, panel
from agents.negotiator.dissent import Heard, Join, join
from agents.negotiator.settings import NegotiatorSettings
from bus import metrics
from bus.connection import Bus
from schemas.errors import KikiError
from schemas.events import InferDone
from schemas.stages import Negotiation, Vote


@dataclass(frozen=True)
class Decision:
    """What the turn goes on with."""

    outcome: Literal["single", "consensus", "deferred", "arbitrated", "undecided"]
    chosen: int


class Hearing:
    """Held once for each delivery; keeps nothing between them but the label priors.

    ``heard`` is what the catfish found, None when it was not waited for or did not come in time.
    """

    def __init__(self, bus: Bus, event: InferDone, settings: NegotiatorSettings, priors: Priors) -> None:
        self._bus = bus
        self._event = event
        self._settings = settings
        self._candidates = event.inference.candidates
        self._notes: list[str] = []
        self.heard: Heard | None = None
        self.model = Consultation(
            bus,
            event.envelope,
            timeout=settings.job_timeout,
            reserve=settings.reserve,
            at_once=settings.jobs_at_once,
            model_digest=event.inference.model_digest,
        )
        self._answers = {
            index: excerpt.shortened(self._candidates[index].text.strip(), settings.excerpt_chars)
            for index in consensus.distinct(self._candidates)
        }
        self._seats = panel.members(event.route, self._candidates)
        self._panel = panel.Panel(
            self.model,
            self._seats,
            question=excerpt.asked(event.query.messages, settings.excerpt_chars),
            answers=self._answers,
            priors=priors,
            neutral_margin=settings.neutral_margin,
        )

    @property
    def objection(self) -> str | None:
        """The catfish's text, None when it did not raise one."""
        return self.heard.dissent.text if self.heard is not None and self.heard.dissent.engaged else None

    async def run(self) -> Negotiation:
        """Deliberate until done, or until the reserve begins; what is missing then is said in the notes."""
        self._note_texts()
        self._note_absent()
        decision: Decision | None = None
        with anyio.move_on_after(max(0.0, self.model.left)):
            async with contextlib.AsyncExitStack() as stack:
                joined = None
                if self._event.route.plan.dissent:
                    joined = await stack.enter_async_context(join(self._bus, self._event.envelope.turn_id))
                decision = await self._deliberate(joined)
        if decision is None:
            self._notes.append("the turn's time ended the deliberation: what was still asked is left out")
            decision = self._cut_short()
        self._note_lost()
        return self._finding(decision)

    async def _deliberate(self, joined: Join | None) -> Decision:
        if len(self._answers) == 1 or len(self._seats) == 1:
            await self._hear(joined)
            if self.objection is None:
                return self._single() if len(self._answers) == 1 else self._alone()
        else:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._vote, 1)
                await self._hear(joined)
        if self.objection is not None:
            await self._vote(len(self._panel.votes) + 1, objection=self.objection)
        votes = self._counted()
        if votes is None:
            return self._undecided("no complete ballot of the attending")
        verdict = consensus.verdict(votes, tuple(self._answers))
        return await self._arbitrate(verdict) if verdict.rival is not None else self._ruled(verdict)

    async def _vote(self, number: int, *, objection: str | None = None) -> None:
        await self._panel.vote(number, objection=objection)

    async def _hear(self, joined: Join | None) -> None:
        """Wait for the catfish, but never for more than half of what is left: the decision needs time too."""
        if joined is None:
            return
        seconds = max(0.0, min(self._settings.dissent_wait, self.model.left / 2))
        try:
            self.heard = await joined.wait(seconds)
        except KikiError as error:
            metrics.degraded("dissent.unread", error.message)
            self._notes.append(f"the dissent could not be read: {error.message}")
            return
        if self.heard is None:
            metrics.degraded("dissent.late", f"nothing within {seconds:.1f} s")
            self._notes.append(f"the dissent did not come within {seconds:.1f} s")

    async def _arbitrate(self, verdict: consensus.Verdict) -> Decision:
        first, second = verdict.chosen, verdict.rival
        assert second is not None
        try:
            forward, backward = await self._panel.compare(first, second, objection=self.objection)
        except KikiError as error:
            return self._undecided(f"the arbitration failed: {error.message}")
        winner = consensus.arbitrated(forward, backward)
        self._notes.append(
            f"{verdict.reason}: the attending compares candidates {first} and {second}; it leans to {first} by "
            f"{forward['A'] - forward['B']:+.2f} nats, and by {backward['B'] - backward['A']:+.2f} in swapped order"
        )
        if winner is None:
            self._notes.append(f"the order decides the comparison: candidate {first} goes on by its vote margin")
        return Decision("arbitrated", second if winner == "second" else first)

    def _cut_short(self) -> Decision:
        """The decision from what was cast in time."""
        votes = self._counted()
        if votes is not None:
            verdict = consensus.verdict(votes, tuple(self._answers))
            if verdict.rival is None:
                return self._ruled(verdict)
            return self._undecided(f"{verdict.reason} and no time was left to arbitrate")
        if len(self._answers) == 1 and self.objection is None:
            return self._single()
        return self._undecided("no complete ballot of the attending")

    def _counted(self) -> tuple[Vote, ...] | None:
        """The complete ballots of the last round in which the attending has one."""
        for number in sorted(self._panel.votes, reverse=True):
            votes = consensus.complete(self._panel.votes[number], tuple(self._answers))
            if any(vote.member == consensus.ATTENDING for vote in votes):
                return votes
            self._notes.append(f"round {number} is not counted: the attending's ballot is incomplete")
        return None

    def _single(self) -> Decision:
        return Decision("single", next(iter(self._answers)))

    def _alone(self) -> Decision:
        """A panel of one is no panel: the attending's own confidence decides, and costs nothing more."""
        chosen = consensus.likeliest(self._candidates)
        self._notes.append(f"nobody sits beside the attending: candidate {chosen} is its likeliest answer")
        return Decision("deferred", chosen)

    def _ruled(self, verdict: consensus.Verdict) -> Decision:
        if verdict.outcome == "undecided":
            return self._undecided(verdict.reason)
        assert verdict.outcome != "contested"
        self._notes.append(f"candidate {verdict.chosen}: {verdict.reason}")
        return Decision(verdict.outcome, verdict.chosen)

    def _undecided(self, why: str) -> Decision:
        """The likeliest candidate goes on, and everybody can see that nobody chose it."""
        metrics.degraded("negotiator.undecided", why)
        chosen = consensus.likeliest(self._candidates)
        self._notes.append(f"undecided, {why}: candidate {chosen} goes on for its mean log-probability")
        return Decision("undecided", chosen)

    def _note_texts(self) -> None:
        if len(self._answers) < len(self._candidates):
            self._notes.append(f"{len(self._candidates)} candidates are {len(self._answers)} different texts")
        limit = self._settings.excerpt_chars
        if long := [str(index) for index in self._answers if len(self._candidates[index].text.strip()) > limit]:
            self._notes.append(f"the panel read candidates {', '.join(long)} shortened to {limit} characters")

    def _note_absent(self) -> None:
        seated = {member.name for member in self._seats}
        if absent := [use.name for use in self._event.route.adapters if use.name not in seated]:
            self._notes.append(f"no seat for {', '.join(absent)}: no candidate was decoded with it")

    def _note_lost(self) -> None:
        for (number, member), error in self._panel.lost.items():
            metrics.degraded("negotiator.ballot_lost", error.message)
            self._notes.append(f"{member} has no ballot in round {number}: {error.message}")

    def _finding(self, decision: Decision) -> Negotiation:
        answers = tuple(self._answers)
        votes = [vote for round_ in self._panel.votes.values() for vote in consensus.complete(round_, answers)]
        return Negotiation(
            chosen=decision.chosen,
            text=self._candidates[decision.chosen].text,
            outcome=decision.outcome,
            votes=tuple(votes),
            rounds=len(self._panel.votes),
            dissent=self.heard.dissent if self.heard is not None else None,
            notes=tuple(self._notes),
            usage=self.model.usage,
        )
