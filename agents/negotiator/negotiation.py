"""Negotiates one turn: groups agreeing candidates, has the panel vote, hears the critic, lets the attending decide."""

import contextlib
from dataclasses import dataclass

import anyio

from agents.negotiator import arbitration, consensus, panel
from agents.negotiator.await_dissent import CatfishFinding, Dissenters, DissentListener, listen_for_dissent
from agents.negotiator.settings import NegotiatorSettings
from agents.shared import agreement, excerpt
from agents.shared.model import Consultation
from agents.shared.similarity import Likeness, Matrix, answer_texts
from bus import metrics
from bus.connection import Bus
from schemas.errors import KikiError
from schemas.events import InferDone
from schemas.findings import Arbitration, Negotiation, Outcome, Vote


@dataclass(frozen=True)
class Decision:
    """The chosen candidate, and how it was chosen."""

    outcome: Outcome
    chosen: int


class TurnNegotiation:
    """The negotiation of one delivered turn.

    ``catfish`` is the catfish's finding; None when it was not waited for, or did not come in time.
    """

    def __init__(self, bus: Bus, event: InferDone, settings: NegotiatorSettings, dissenters: Dissenters) -> None:
        self._bus = bus
        self._dissenters = dissenters
        self._event = event
        self._settings = settings
        self._candidates = event.inference.candidates
        self._notes: list[str] = []
        self._arbitration: Arbitration | None = None
        self.catfish: CatfishFinding | None = None
        self.likeness = Likeness(bus, event.envelope.turn_id, timeout=settings.embed_timeout)
        self.model = Consultation(
            bus,
            event.envelope,
            timeout=settings.job_timeout,
            reserve=settings.reserve,
            at_once=settings.jobs_at_once,
        )
        self._seats = panel.members(event.route, self._candidates)
        self._can_vote = event.inference.parameters >= settings.vote_from
        self._groups: tuple[tuple[int, ...], ...] = ()

    @property
    def objection(self) -> str | None:
        """The catfish's text, None when it did not raise one."""
        return self.catfish.dissent.text if self.catfish is not None and self.catfish.dissent.engaged else None

    @property
    def _texts(self) -> list[str]:
        return answer_texts(self._candidates)

    async def run(self) -> Negotiation:
        """Deliberate until done, or until the reserve begins; the notes then say what is missing."""
        self._note_absent()
        decision: Decision | None = None
        with anyio.move_on_after(max(0.0, self.model.seconds_left)):
            async with contextlib.AsyncExitStack() as stack:
                listener = None
                if self._event.route.plan.dissent:
                    listener = await stack.enter_async_context(
                        listen_for_dissent(self._bus, self._event.envelope.turn_id)
                    )
                decision = await self._deliberate(listener)
        if not self._groups:
            self._group(self._by_value())
        if decision is None:
            metrics.count_degraded("negotiator.cut_short", "the turn's deadline")
            self._notes.append("the turn's time ended the deliberation: what was still asked is left out")
            decision = self._decide_early()
        self._note_losses()
        return self._finding(decision)

    async def _compare(self) -> None:
        """Find out which candidates say the same; by their values alone when the embedder does not answer."""
        try:
            same = await self.likeness.compare(self._texts, question=self._event.query.text)
        except KikiError as error:
            metrics.count_degraded("negotiator.unembedded", error.message)
            self._notes.append(f"only equal candidates count as agreeing: {error.message}")
            same = self._by_value()
        self._group(same)

    def _by_value(self) -> Matrix:
        return agreement.matrix(self._texts, question=self._event.query.text, cosine=lambda *_: -1.0)

    def _group(self, same: Matrix) -> None:
        """One candidate stands for each group: its likeliest."""
        self._groups = agreement.groups(same)
        limit = self._settings.excerpt_chars
        likeliest = [
            max(group, key=lambda candidate: (self._candidates[candidate].logprob, -candidate))
            for group in self._groups
        ]
        self._answers = {index: excerpt.shortened(self._texts[index], limit) for index in likeliest}
        self._panel = panel.Panel(
            self.model,
            self._seats,
            conversation=self._event.query.messages,
            recall=self._event.recall.hits,
            answers=self._answers,
            neutral_margin=self._settings.neutral_margin,
        )

    async def _deliberate(self, listener: DissentListener | None) -> Decision:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._wait_for_dissent, listener)
            await self._compare()
            if self._can_vote and len(self._seats) > 1 and not self._is_settled():
                await self._vote(1)
        if self.objection is not None and self._can_vote:
            await self._vote(len(self._panel.votes) + 1, objection=self.objection)
        if not self._panel.votes:
            return await self._decide_without_votes()
        votes = self._count_ballots()
        if votes is None:
            return self._leave_undecided("no complete ballot of the attending")
        verdict = consensus.verdict(votes, tuple(self._answers))
        if verdict.rival is None:
            return self._apply_verdict(verdict)
        self._notes.append(f"{verdict.reason}: the attending compares candidates {verdict.chosen} and {verdict.rival}")
        if self._settings.argument_tokens:
            pair = (verdict.chosen, verdict.rival)
            votes = await self._panel.argue(votes, pair, max_tokens=self._settings.argument_tokens)
        summaries = (consensus.vote_summary(votes, verdict.chosen), consensus.vote_summary(votes, verdict.rival))
        return await self._arbitrate(verdict.chosen, verdict.rival, votes=summaries)

    def _is_settled(self) -> bool:
        """Whether the candidates agree so much that a vote is not worth its cost."""
        share = len(self._groups[0]) / len(self._candidates)
        enough = self._event.route.plan.stakes == "low" and share >= self._settings.strong_agreement
        return len(self._groups) == 1 or enough

    async def _decide_without_votes(self) -> Decision:
        """Self-consistency: the answer that most candidates give; the attending decides when there is none."""
        candidate = next(iter(self._answers))
        if len(self._candidates) == 1:
            return Decision("single", candidate)
        if not consensus.is_split(self._groups):
            share = f"{len(self._groups[0])} of {len(self._candidates)}"
            self._notes.append(f"candidate {candidate}: {share} candidates say the same, and nobody votes")
            return Decision("agreed", candidate)
        if self._can_vote:
            by_likelihood = sorted(self._answers, key=lambda index: -self._candidates[index].logprob)
            self._notes.append("the candidates are split: the attending compares the two likeliest")
            return await self._arbitrate(by_likelihood[0], by_likelihood[1])
        if self._settings.when_split == "first":
            self._notes.append("the candidates are split: the first one goes on")
            return Decision("deferred", 0)
        return await self._defer_to_attending()

    async def _defer_to_attending(self) -> Decision:
        """The attending's own likelihood of each answer decides; it is known already when all answers are its own."""
        if len(self._seats) == 1:
            candidate = max(self._answers, key=lambda index: (self._candidates[index].logprob, -index))
        else:
            try:
                total = await self._panel.measure_likelihood()
            except KikiError as error:
                return self._leave_undecided(f"the attending's likelihood failed: {error.message}")
            tokens = {index: max(1, self._candidates[index].usage.completion_tokens) for index in total}
            candidate = max(total, key=lambda index: (total[index] / tokens[index], -index))
        self._notes.append(f"the candidates are split: candidate {candidate} is the likeliest to the attending")
        return Decision("deferred", candidate)

    async def _vote(self, number: int, *, objection: str | None = None) -> None:
        await self._panel.vote(number, objection=objection)

    async def _wait_for_dissent(self, listener: DissentListener | None) -> None:
        """Wait for the catfish, at most for half of the time left: the decision needs time too."""
        if listener is None:
            return
        seconds = max(0.0, min(self._settings.dissent_wait, self.model.seconds_left / 2))
        try:
            is_awaited = await self._dissenters.are_there(self._bus)
            self.catfish = await listener.wait(seconds if is_awaited else 0.0)
        except KikiError as error:
            metrics.count_degraded("dissent.unread", error.message)
            self._notes.append(f"the dissent could not be read: {error.message}")
            return
        if self.catfish is None and not is_awaited:
            metrics.count_degraded("dissent.nobody", "no agent reads the candidates to object to them")
            self._notes.append("nobody is there to object")
        elif self.catfish is None:
            metrics.count_degraded("dissent.late", f"nothing within {seconds:.1f} s")
            self._notes.append(f"the dissent did not come within {seconds:.1f} s")
        elif self.objection is not None and not self._can_vote:
            metrics.count_degraded("dissent.unvoted", "the model is smaller than vote_from")
            self._notes.append("the objection changes nothing: a model of this size does not vote")

    async def _arbitrate(self, first: int, second: int, *, votes: tuple[str, str] | None = None) -> Decision:
        arbiter = arbitration.Arbiter(
            self.model,
            self._settings,
            conversation=self._event.query.messages,
            recall=self._event.recall.hits,
            objection=self.objection,
        )
        try:
            self._arbitration = comparison = await arbiter.compare(first, second, answers=self._answers, votes=votes)
        except KikiError as error:
            return self._leave_undecided(f"the arbitration failed: {error.message}")
        winner = arbitration.winner(comparison)
        if winner is None:
            metrics.count_degraded("negotiator.order_decides", "both orders of the arbitration disagree")
            self._notes.append(f"the order decides the comparison: candidate {first} goes on, as before it")
        return Decision("arbitrated", first if winner is None else winner)

    def _decide_early(self) -> Decision:
        """The decision from the votes that were cast in time."""
        votes = self._count_ballots()
        if votes is not None:
            verdict = consensus.verdict(votes, tuple(self._answers))
            if verdict.rival is None:
                return self._apply_verdict(verdict)
            return self._leave_undecided(f"{verdict.reason} and no time was left to arbitrate")
        if len(self._groups) == 1 and self.objection is None:
            return Decision("single" if len(self._candidates) == 1 else "agreed", next(iter(self._answers)))
        return self._leave_undecided("no complete ballot of the attending")

    def _count_ballots(self) -> tuple[Vote, ...] | None:
        """The complete ballots of the last round in which the attending has one."""
        for number in sorted(self._panel.votes, reverse=True):
            votes = consensus.complete_ballots(self._panel.votes[number], tuple(self._answers))
            if any(vote.member == consensus.ATTENDING for vote in votes):
                return votes
            self._notes.append(f"round {number} is not counted: the attending's ballot is incomplete")
        return None

    def _apply_verdict(self, verdict: consensus.Verdict) -> Decision:
        if verdict.outcome == "undecided":
            return self._leave_undecided(verdict.reason)
        assert verdict.outcome != "contested"
        self._notes.append(f"candidate {verdict.chosen}: {verdict.reason}")
        return Decision(verdict.outcome, verdict.chosen)

    def _leave_undecided(self, why: str) -> Decision:
        """The answer of most candidates goes on, or one by ``when_split``; the notes say that it was not chosen."""
        metrics.count_degraded("negotiator.undecided", why)
        if not consensus.is_split(self._groups):
            candidate, reason = next(iter(self._answers)), "the number of candidates that say it"
        elif self._settings.when_split == "first":
            candidate, reason = 0, "being the first"
        else:
            candidate, reason = consensus.likeliest(self._candidates), "its mean log-probability"
        self._notes.append(f"undecided, {why}: candidate {candidate} goes on for {reason}")
        return Decision("undecided", candidate)

    def _note_absent(self) -> None:
        member_names = {member.name for member in self._seats}
        if absent := [use.name for use in self._event.route.adapters if use.name not in member_names]:
            self._notes.append(f"no seat for {', '.join(absent)}: no candidate was decoded with it")

    def _note_losses(self) -> None:
        limit = self._settings.excerpt_chars
        if long := [str(index) for index in self._answers if len(self._texts[index]) > limit]:
            self._notes.append(f"the panel read candidates {', '.join(long)} shortened to {limit} characters")
        for (number, member), error in self._panel.errors.items():
            metrics.count_degraded("negotiator.ballot_lost", error.message)
            self._notes.append(f"{member} has no ballot in round {number}: {error.message}")

    def _finding(self, decision: Decision) -> Negotiation:
        answers = tuple(self._answers)
        votes = [vote for round_ in self._panel.votes.values() for vote in consensus.complete_ballots(round_, answers)]
        return Negotiation(
            chosen=decision.chosen,
            text=self._candidates[decision.chosen].text,
            outcome=decision.outcome,
            panel=tuple(member.name for member in self._seats),
            groups=self._groups,
            votes=tuple(votes),
            rounds=len(self._panel.votes),
            dissent=self.catfish.dissent if self.catfish is not None else None,
            arbitration=self._arbitration,
            costs=self.model.costs,
            notes=tuple(self._notes),
            usage=self.model.usage,
        )
