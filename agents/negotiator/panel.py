"""The panel of a turn: who sits on it, and how it is asked."""

from collections.abc import Sequence
from dataclasses import dataclass

import anyio

from agents.calibration import Priors, calibrated
from agents.consultation import Consultation
from agents.negotiator import prompts
from agents.negotiator.consensus import ATTENDING, LABELS, choice
from schemas.errors import KikiError
from schemas.stages import AdapterUse, Candidate, Route, Vote

LETTERS = ("A", "B")


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
    """

    def __init__(
        self,
        model: Consultation,
        seats: tuple[Member, ...],
        *,
        question: str,
        answers: dict[int, str],
        priors: Priors,
        neutral_margin: float,
    ) -> None:
        self._model = model
        self._seats = seats
        self._question = question
        self._answers = answers
        self._priors = priors
        self._neutral_margin = neutral_margin
        self.votes: dict[int, list[Vote]] = {}
        self.lost: dict[tuple[int, str], KikiError] = {}

    async def vote(self, number: int, *, objection: str | None) -> None:
        """Round ``number``: every member on every candidate, concurrently."""
        self.votes[number] = []
        async with anyio.create_task_group() as tasks:
            for member in self._seats:
                tasks.start_soon(self._sit, number, member, objection)

    async def _sit(self, number: int, member: Member, objection: str | None) -> None:
        """One member's whole ballot. A failed call loses the ballot, because half of one favours what it names."""
        try:
            prior = await self._model.prior(
                prompts.blank_ballot(objection=objection is not None),
                LABELS,
                known=self._priors,
                adapters=member.adapters,
            )
        except KikiError as error:
            self.lost[number, member.name] = error
            return
        async with anyio.create_task_group() as tasks:
            for candidate in self._answers:
                tasks.start_soon(self._cast, number, member, candidate, objection, prior)

    async def _cast(
        self, number: int, member: Member, candidate: int, objection: str | None, prior: dict[str, float]
    ) -> None:
        ballot = prompts.ballot(self._question, self._answers[candidate], objection=objection)
        try:
            logprobs = calibrated(await self._model.score(ballot, LABELS, adapters=member.adapters), prior)
        except KikiError as error:
            self.lost[number, member.name] = error
            return
        self.votes[number].append(
            Vote(
                member=member.name,
                candidate=candidate,
                choice=choice(logprobs, neutral_margin=self._neutral_margin),
                round=number,
                logprobs=logprobs,
            )
        )

    async def compare(
        self, first: int, second: int, *, objection: str | None
    ) -> tuple[dict[str, float], dict[str, float]]:
        """The attending's scores of "A" and "B" with ``first`` shown first, and with ``second`` shown first.

        Asking in both orders takes the habit of a letter away, so that no prior is needed.

        Raises:
            KikiError: the model could not say.
        """
        one, two = self._answers[first], self._answers[second]
        forward = await self._model.score(prompts.comparison(self._question, one, two, objection=objection), LETTERS)
        backward = await self._model.score(prompts.comparison(self._question, two, one, objection=objection), LETTERS)
        return forward, backward
