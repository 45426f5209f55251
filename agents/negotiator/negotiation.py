"""One turn's hearing: who agrees, what the panel votes, what the critic says, and what the attending decides."""

import contextlib
from dataclasses import dataclass

import anyio

from agents.negotiator import arbitration, consensus, panel
from agents.negotiator.await_dissent import Heard, Join, join
from agents.negotiator.settings import NegotiatorSettings
from agents.shared import agreement, excerpt
from agents.shared.model import Consultation
from agents.shared.similarity import Likeness, Matrix, said
from bus import metrics
from bus.connection import Bus
from schemas.errors import KikiError
from schemas.events import InferDone
from schemas.findings import Arbitration, Negotiation, Outcome, Vote


@dataclass(frozen=True)
class Decision:
    """What the turn goes on with."""

    outcome: Outcome
    chosen: int


class Hearing:
    """Held once for each delivery; keeps nothing between them.

    ``heard`` is what the catfish found, None when it was not waited for or did not come in time.
    """

    def __init__(self, bus: Bus, event: InferDone, settings: NegotiatorSettings) -> None:
        self._bus = bus
        self._event = event
        self._settings = settings
        self._candidates = event.inference.candidates
        self._notes: list[str] = []
        self._arbitration: Arbitration | None = None
        self.heard: Heard | None = None
        self.likeness = Likeness(bus, timeout=settings.embed_timeout)
        self.model = Consultation(
            bus,
            event.envelope,
            timeout=settings.job_timeout,
            reserve=settings.reserve,
            at_once=settings.jobs_at_once,
        )
        self._seats = panel.members(event.route, self._candidates)
        self._votes_count = event.inference.parameters >= settings.vote_from
        self._groups: tuple[tuple[int, ...], ...] = ()

    @property
    def objection(self) -> str | None:
        """The catfish's text, None when it did not raise one."""
        return self.heard.dissent.text if self.heard is not None and self.heard.dissent.engaged else None

    @property
    def _texts(self) -> list[str]:
        return said(self._candidates)

    async def run(self) -> Negotiation:
        """Deliberate until done, or until the reserve begins; what is missing then is said in the notes."""
        self._note_absent()
        decision: Decision | None = None
        with anyio.move_on_after(max(0.0, self.model.left)):
            async with contextlib.AsyncExitStack() as stack:
                joined = None
                if self._event.route.plan.dissent:
                    joined = await stack.enter_async_context(join(self._bus, self._event.envelope.turn_id))
                decision = await self._deliberate(joined)
        if not self._groups:
            self._group(self._by_value())
        if decision is None:
            metrics.degraded("negotiator.cut_short", "the turn's deadline")
            self._notes.append("the turn's time ended the deliberation: what was still asked is left out")
            decision = self._cut_short()
        self._note_lost()
        return self._finding(decision)

    async def _compare(self) -> None:
        """See which candidates say the same; by their values alone when the embedder does not answer."""
        try:
            same = await self.likeness.of(self._texts, question=self._event.query.text)
        except KikiError as error:
            metrics.degraded("negotiator.unembedded", error.message)
            self._notes.append(f"only equal candidates count as agreeing: {error.message}")
            same = self._by_value()
        self._group(same)

    def _by_value(self) -> Matrix:
        return agreement.matrix(self._texts, question=self._event.query.text, cosine=lambda *_: -1.0)

    def _group(self, same: Matrix) -> None:
        """One candidate stands for each group: its likeliest."""
        self._groups = agreement.groups(same)
        limit = self._settings.excerpt_chars
        likeliest = [max(group, key=lambda one: (self._candidates[one].logprob, -one)) for group in self._groups]
        self._answers = {index: excerpt.shortened(self._texts[index], limit) for index in likeliest}
        self._panel = panel.Panel(
            self.model,
            self._seats,
            conversation=self._event.query.messages,
            recall=self._event.recall.hits,
            answers=self._answers,
            neutral_margin=self._settings.neutral_margin,
        )

    async def _deliberate(self, joined: Join | None) -> Decision:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._hear, joined)
            await self._compare()
            if self._votes_count and len(self._seats) > 1 and not self._settled():
                await self._vote(1)
        if self.objection is not None and self._votes_count:
            await self._vote(len(self._panel.votes) + 1, objection=self.objection)
        if not self._panel.votes:
            return await self._unvoted()
        votes = self._counted()
        if votes is None:
            return self._undecided("no complete ballot of the attending")
        verdict = consensus.verdict(votes, tuple(self._answers))
        if verdict.rival is None:
            return self._ruled(verdict)
        self._notes.append(f"{verdict.reason}: the attending compares candidates {verdict.chosen} and {verdict.rival}")
        if self._settings.argument_tokens:
            pair = (verdict.chosen, verdict.rival)
            votes = await self._panel.argue(votes, pair, max_tokens=self._settings.argument_tokens)
        told = (consensus.told(votes, verdict.chosen), consensus.told(votes, verdict.rival))
        return await self._arbitrate(verdict.chosen, verdict.rival, votes=told)

    def _settled(self) -> bool:
        """Whether the candidates agree so much that a vote is not worth its price."""
        share = len(self._groups[0]) / len(self._candidates)
        enough = self._event.route.plan.stakes == "low" and share >= self._settings.strong_agreement
        return len(self._groups) == 1 or enough

    async def _unvoted(self) -> Decision:
        """Self-consistency: the answer that most candidates give; the attending decides when there is none."""
        chosen = next(iter(self._answers))
        if len(self._candidates) == 1:
            return Decision("single", chosen)
        if not consensus.split(self._groups):
            share = f"{len(self._groups[0])} of {len(self._candidates)}"
            self._notes.append(f"candidate {chosen}: {share} candidates say the same, and nobody votes")
            return Decision("agreed", chosen)
        if self._votes_count:
            ranked = sorted(self._answers, key=lambda one: -self._candidates[one].logprob)
            self._notes.append("the candidates are split: the attending compares the two likeliest")
            return await self._arbitrate(ranked[0], ranked[1])
        return await self._deferred()

    async def _deferred(self) -> Decision:
        """The attending's own likelihood of each answer decides; it is known already when all answers are its own."""
        if len(self._seats) == 1:
            chosen = max(self._answers, key=lambda one: (self._candidates[one].logprob, -one))
        else:
            try:
                total = await self._panel.likelihood()
            except KikiError as error:
                return self._undecided(f"the attending's likelihood failed: {error.message}")
            tokens = {one: max(1, self._candidates[one].usage.completion_tokens) for one in total}
            chosen = max(total, key=lambda one: (total[one] / tokens[one], -one))
        self._notes.append(f"the candidates are split: candidate {chosen} is the likeliest to the attending")
        return Decision("deferred", chosen)

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
        elif self.objection is not None and not self._votes_count:
            metrics.degraded("dissent.unvoted", "the model is smaller than vote_from")
            self._notes.append("the objection changes nothing: a model of this size does not vote")

    async def _arbitrate(self, first: int, second: int, *, votes: tuple[str, str] | None = None) -> Decision:
        judge = arbitration.Judge(
            self.model,
            self._settings,
            conversation=self._event.query.messages,
            recall=self._event.recall.hits,
            objection=self.objection,
        )
        try:
            self._arbitration = found = await judge.compare(first, second, answers=self._answers, votes=votes)
        except KikiError as error:
            return self._undecided(f"the arbitration failed: {error.message}")
        winner = arbitration.winner(found)
        if winner is None:
            metrics.degraded("negotiator.order_decides", "both orders of the arbitration disagree")
            self._notes.append(f"the order decides the comparison: candidate {first} goes on, as before it")
        return Decision("arbitrated", first if winner is None else winner)

    def _cut_short(self) -> Decision:
        """The decision from what was cast in time."""
        votes = self._counted()
        if votes is not None:
            verdict = consensus.verdict(votes, tuple(self._answers))
            if verdict.rival is None:
                return self._ruled(verdict)
            return self._undecided(f"{verdict.reason} and no time was left to arbitrate")
        if len(self._groups) == 1 and self.objection is None:
            return Decision("single" if len(self._candidates) == 1 else "agreed", next(iter(self._answers)))
        return self._undecided("no complete ballot of the attending")

    def _counted(self) -> tuple[Vote, ...] | None:
        """The complete ballots of the last round in which the attending has one."""
        for number in sorted(self._panel.votes, reverse=True):
            votes = consensus.complete(self._panel.votes[number], tuple(self._answers))
            if any(vote.member == consensus.ATTENDING for vote in votes):
                return votes
            self._notes.append(f"round {number} is not counted: the attending's ballot is incomplete")
        return None

    def _ruled(self, verdict: consensus.Verdict) -> Decision:
        if verdict.outcome == "undecided":
            return self._undecided(verdict.reason)
        assert verdict.outcome != "contested"
        self._notes.append(f"candidate {verdict.chosen}: {verdict.reason}")
        return Decision(verdict.outcome, verdict.chosen)

    def _undecided(self, why: str) -> Decision:
        """The answer of most candidates goes on, or the likeliest, and everybody can see that nobody chose it."""
        metrics.degraded("negotiator.undecided", why)
        if consensus.split(self._groups):
            chosen, reason = consensus.likeliest(self._candidates), "its mean log-probability"
        else:
            chosen, reason = next(iter(self._answers)), "the number of candidates that say it"
        self._notes.append(f"undecided, {why}: candidate {chosen} goes on for {reason}")
        return Decision("undecided", chosen)

    def _note_absent(self) -> None:
        seated = {member.name for member in self._seats}
        if absent := [use.name for use in self._event.route.adapters if use.name not in seated]:
            self._notes.append(f"no seat for {', '.join(absent)}: no candidate was decoded with it")

    def _note_lost(self) -> None:
        limit = self._settings.excerpt_chars
        if long := [str(index) for index in self._answers if len(self._texts[index]) > limit]:
            self._notes.append(f"the panel read candidates {', '.join(long)} shortened to {limit} characters")
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
            panel=tuple(member.name for member in self._seats),
            groups=self._groups,
            votes=tuple(votes),
            rounds=len(self._panel.votes),
            dissent=self.heard.dissent if self.heard is not None else None,
            arbitration=self._arbitration,
            costs=self.model.costs,
            notes=tuple(self._notes),
            usage=self.model.usage,
        )
