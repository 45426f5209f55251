"""The panel of a turn: its members, and how they are asked for votes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import anyio
from msgspec.structs import replace

from agents.negotiator import prompts
from agents.negotiator.consensus import ATTENDING, choice, firmest_vote
from agents.shared.calibration import BLANK, calibrated
from agents.shared.model import Consultation
from bus import metrics
from schemas.chat import Message
from schemas.errors import KikiError
from schemas.findings import AdapterUse, Candidate, RecalledEpisode, Route, Vote


@dataclass(frozen=True, kw_only=True)
class PanelMember:
    """One voice: the base model, or the base model with one adapter at full weight."""

    name: str
    adapters: tuple[AdapterUse, ...] = ()


def members(route: Route, candidates: Sequence[Candidate]) -> tuple[PanelMember, ...]:
    """The attending first, then one specialist for each routed adapter that took part in a candidate.

    The worker leaves out an adapter that it does not hold; a seat for it would be a second vote of the base.
    """
    present = {use.name for candidate in candidates for use in candidate.adapters}
    specialists = {
        use.name: PanelMember(name=use.name, adapters=(replace(use, weight=1.0),))
        for use in route.adapters
        if use.name in present
    }
    return (PanelMember(name=ATTENDING), *specialists.values())


class Panel:
    """Asks the panel members of one turn. Votes are kept as they come, so that a deadline loses only later ones.

    ``errors`` says which member did not vote in which round, and why.

    Args:
        conversation: the turn's messages, which every ballot goes on from.
        recall: the episodes that its prompt quotes.
        answers: texts by the index of the candidate.
    """

    def __init__(
        self,
        model: Consultation,
        seats: tuple[PanelMember, ...],
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
        self.errors: dict[tuple[int, str], KikiError] = {}

    async def vote(self, number: int, *, objection: str | None) -> None:
        """Hold round ``number``: every member votes on every candidate, in a job for each member."""
        self.votes[number] = []
        with self._model.step(f"votes, round {number}"):
            async with anyio.create_task_group() as tasks:
                for member in self._seats:
                    tasks.start_soon(self._cast_ballot, number, member, objection)

    async def _cast_ballot(self, number: int, member: PanelMember, objection: str | None) -> None:
        """Ask for one member's whole ballot. A blank answer in it measures how much the member prefers each label
        anyway."""
        ballots = [prompts.ballot(answer, objection=objection) for answer in (BLANK, *self._answers.values())]
        labels_by_word = {word: label for label, word in prompts.VOTE_WORDS.items()}
        try:
            ballot_scores = await self._model.score_ballots(
                self._conversation, ballots, tuple(labels_by_word), adapters=member.adapters, recall=self._recall
            )
        except KikiError as error:
            self.errors[number, member.name] = error
            return
        habit, *rows = [{str(labels_by_word[word]): score for word, score in row.items()} for row in ballot_scores]
        for candidate, row in zip(self._answers, rows, strict=True):
            logprobs = calibrated(row, habit)
            label = choice(logprobs, neutral_margin=self._neutral_margin)
            self.votes[number].append(
                Vote(member=member.name, candidate=candidate, choice=label, round=number, logprobs=logprobs)
            )

    async def argue(self, votes: Sequence[Vote], candidates: Sequence[int], *, max_tokens: int) -> tuple[Vote, ...]:
        """Add to ``votes`` an argument for the firmest vote on each of ``candidates``; one that fails is left out."""
        firmest_votes = [vote for candidate in candidates if (vote := firmest_vote(votes, candidate)) is not None]
        arguments: dict[tuple[str, int], str] = {}

        async def ask(vote: Vote) -> None:
            member = next(seat for seat in self._seats if seat.name == vote.member)
            messages = prompts.argument(self._answers[vote.candidate], keeps=vote.choice == "KEEP")
            try:
                reply = await self._model.write(
                    (*self._conversation, *messages),
                    max_tokens=max_tokens,
                    adapters=member.adapters,
                    recall=self._recall,
                )
            except KikiError as error:
                metrics.count_degraded("negotiator.unargued", error.message)
                return
            arguments[vote.member, vote.candidate] = " ".join(reply.text.split())

        with self._model.step("arguments"):
            async with anyio.create_task_group() as tasks:
                for vote in firmest_votes:
                    tasks.start_soon(ask, vote)
        votes_with_arguments = [
            replace(vote, argument=arguments.get((vote.member, vote.candidate), "")) for vote in votes
        ]
        if votes_with_arguments:
            self.votes[votes_with_arguments[0].round] = votes_with_arguments
        return tuple(votes_with_arguments)

    async def measure_likelihood(self) -> dict[int, float]:
        """The attending's total natural-log probability of each answer to the question as it was asked.

        Raises:
            KikiError: the model did not answer.
        """
        texts = tuple(self._answers.values())
        with self._model.step("the attending's likelihood"):
            scores = await self._model.score(self._conversation, texts, recall=self._recall)
        return {candidate: scores[text] for candidate, text in self._answers.items()}
