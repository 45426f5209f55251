"""Requests to advisors: another service's opinion of a prompt's domains."""

from typing import Annotated

from msgspec import Meta

from schemas.base import END, WireStruct
from schemas.numbers import Component, Number

ADVISORS = ("nerve-wml", "kiki-flow")
"""The advisors that the runtime can start itself. Any other service may advise, too: at ``svc.advise.<name>``, when the
router's settings name it."""

ADVISOR_PATTERN = rf"^[A-Za-z0-9][A-Za-z0-9_-]{{0,63}}{END}"
"""An advisor's name is one token of a subject."""


class AdviseRequest(WireStruct, frozen=True, kw_only=True):
    """What an advisor gets to know of a turn before the turn's domains are chosen.

    ``embedding`` is the query's unit vector; ``scores`` are the router's calibrated probabilities by output. An
    advisor that keeps a state advances it once for each ``turn_id``: a repeated request gets the same advice.
    """

    turn_id: str
    text: str
    embedding: tuple[Component, ...]
    scores: dict[str, Number]


class AdviseReply(WireStruct, frozen=True, kw_only=True):
    """Advice; empty when the advisor has none.

    ``domains`` are probabilities by niche domain, which the router blends into its scores. ``payload`` is recorded in
    the event as the advisor gave it (a weight by stack, say).
    """

    domains: dict[str, Annotated[float, Meta(ge=0.0, le=1.0)]] = {}
    payload: dict[str, float] = {}
