"""The panel of a turn: who sits on it, and how it is asked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import anyio
from msgspec.structs import replace

from agents.negotiator import prompts
from agents.negotiator.consensus import ATTENDING, choice, firmest
from agents.shared.calibration import BLANK, calibrated
from agents.shared.model import Consultation
from bus import metrics
from schemas.chat import Message
from schemas.errors import KikiError
from schemas.findings import AdapterUse, Candidate, RecalledEpisode, Route, Vote


@dataclass(frozen=True, kw_only=True)
class Member:
    """One voice: the base model, or the base model with one adapter at full weight."""

    name: str
    adapters: tuple[AdapterUse, ...] = ()


def members(route: Route, candidates: Sequence[Candidate]) -> tuple[Member, ...]:
    """The attending first, then one specialist for each routed adapter that took part in a candidate.

    The worker leaves out an adapter that it does not hold; a seat for it would be a second vote of the base.
    """
    present = {use.name for candidate in candidates for use in candidate.adapters}
    specialists = {
        use.name: Member(name=use.name, adapters=(AdapterUse(name=use.name, sha256=use.sha256),))
        for use in route.adapters
        if use.name in present
    }
    return (Member(name=ATTENDING), *specialists.values())


class Panel:
    """Asks the members of one turn. Votes are kept as they come, so that a deadline loses only what is missing.

    ``lost`` says which member did not vote in which round, and why.

    Args:
        conversation: the turn's messages, which every ballot goes on from.
        recall: the episodes that its prompt quotes.
        answers: by the index of the candidate.
    """

    def __init__(
        self,
        model: Consultation,
        seats: tuple[Member, ...],
        *,
        conversation: tuple[Message, ...],
        recall: tuple[RecalledEpisode, ...],
        answers: Mapping[int, str],
        neutral_margin: float,
    ) -> None:
        self._model = model
        self._seats = seats
        self._conversation = conversation
        self._recall = recall
        self._answers = answers
        self._neutral_margin = neutral_margin
        self.votes: dict[int, list[Vote]] = {}
        self.lost: dict[tuple[int, str], KikiError] = {}

    async def vote(self, number: int, *, objection: str | None) -> None:
        """Round ``number``: every member on every candidate, a job for each member."""
        self.votes[number] = []
        with self._model.step(f"votes, round {number}"):
            async with anyio.create_task_group() as tasks:
                for member in self._seats:
                    tasks.start_soon(self._sit, number, member, objection)

    async def _sit(self, number: int, member: Member, objection: str | None) -> None:
        """One member's whole ballot, with an empty answer in it for the habit of each label."""
        ballots = [prompts.ballot(answer, objection=objection) for answer in (BLANK, *self._answers.values())]
        spoken = {word: label for label, word in prompts.SPOKEN.items()}
        try:
            found = await self._model.ballots(
                self._conversation, ballots, tuple(spoken), adapters=member.adapters, recall=self._recall
            )
        except KikiError as error:
            self.lost[number, member.name] = error
            return
        habit, *rows = [{str(spoken[word]): score for word, score in row.items()} for row in found]
        for candidate, row in zip(self._answers, rows, strict=True):
            logprobs = calibrated(row, habit)
            label = choice(logprobs, neutral_margin=self._neutral_margin)
            self.votes[number].append(
                Vote(member=member.name, candidate=candidate, choice=label, round=number, logprobs=logprobs)
            )

    async def argue(self, votes: Sequence[Vote], candidates: Sequence[int], *, max_tokens: int) -> tuple[Vote, ...]:
        """``votes`` with the argument of the firmest on each of ``candidates``; one that cannot be had is left out."""
        firm = [vote for one in candidates if (vote := firmest(votes, one)) is not None]
        said: dict[tuple[str, int], str] = {}

        async def ask(vote: Vote) -> None:
            member = next(seat for seat in self._seats if seat.name == vote.member)
            why = prompts.argument(self._answers[vote.candidate], keeps=vote.choice == "KEEP")
            try:
                written = await self._model.write(
                    (*self._conversation, *why), max_tokens=max_tokens, adapters=member.adapters, recall=self._recall
                )
            except KikiError as error:
                metrics.degraded("negotiator.unargued", error.message)
                return
            said[vote.member, vote.candidate] = " ".join(written.text.split())

        with self._model.step("arguments"):
            async with anyio.create_task_group() as tasks:
                for vote in firm:
                    tasks.start_soon(ask, vote)
        argued = [replace(vote, argument=said.get((vote.member, vote.candidate), "")) for vote in votes]
        if argued:
            self.votes[argued[0].round] = argued
        return tuple(argued)

    async def likelihood(self) -> dict[int, float]:
        """The attending's total natural-log probability of each answer to the question as it was asked.

        Raises:
            KikiError: the model could not say.
        """
        texts = tuple(self._answers.values())
        with self._model.step("the attending's likelihood"):
            scores = await self._model.score(self._conversation, texts, recall=self._recall)
        return {candidate: scores[text] for candidate, text in self._answers.items()}
