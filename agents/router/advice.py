"""Advice of other services (nerve-wml, kiki-flow, any that is named): asked for over the bus, blended, recorded.

Advice is evidence beside the router's own scores. For each router output, let ``s`` be the router's score, ``a`` the
sum of the advisor's probabilities over the output's niche domains, and ``u`` the same sum if all niche domains were
equally likely. Then the blended score ``s'`` is

    logit(s') = logit(s) + alpha * (logit(a) - logit(u))

With ``alpha`` 0 the scores stay as they are, with 1 the advice counts in full (Bayes' rule in log-odds). An advisor
whose probabilities are all alike changes nothing, so the gate keeps its meaning, and the score of a domain that the
advisor does not name stays as it is.
"""

import asyncio
import math
import re
from collections.abc import Mapping
from typing import Annotated

from msgspec import Meta, Struct

from agents.shared.domains import Taxonomy
from bus import metrics
from bus.connection import Bus
from schemas.advisors import AdviseReply, AdviseRequest
from schemas.calls import ADVISE
from schemas.errors import KikiError
from schemas.findings import Advisory

_QUOTED = re.compile(r"`[^`]*`|'[^']*'")
"""The parts of a reason that may be the advisor's own words."""

FLOOR = 1e-6
"""Probabilities are kept this far from 0 and 1, where log-odds are infinite."""


class AdvisorSettings(Struct, frozen=True, kw_only=True):
    """How much an advisor's advice counts, and how long the router waits for it.

    Attributes:
        alpha: weight of the advice in log-odds; 0 leaves the scores as they are, 1 counts it in full.
        timeout: seconds that the router waits for it.
    """

    alpha: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.1
    timeout: Annotated[float, Meta(gt=0.0, le=5.0)] = 0.05


async def ask_advisors(
    bus: Bus, advisors: Mapping[str, AdvisorSettings], request: AdviseRequest, taxonomy: Taxonomy
) -> tuple[dict[str, float], tuple[Advisory, ...]]:
    """The scores by output after all advice, and the advice to record; all advisors are asked at the same time.

    An advisor that does not answer within its timeout, or whose reply is invalid, is left out and counted
    (``kiki_degraded_total`` with the path ``router.advisor.<name>``); each kind of reason is logged once.
    """
    names = list(advisors)
    replies = await asyncio.gather(*(_ask(bus, name, advisors[name], request, taxonomy) for name in names))
    scores, advisories = dict(request.scores), []
    for name, reply in zip(names, replies, strict=True):
        if reply is None or not (reply.domains or reply.payload):
            continue
        scores = blend(scores, reply.domains, alpha=advisors[name].alpha, taxonomy=taxonomy)
        advisories.append(Advisory(source=name, payload=reply.payload or reply.domains))
    return scores, tuple(advisories)


async def _ask(
    bus: Bus, name: str, settings: AdvisorSettings, request: AdviseRequest, taxonomy: Taxonomy
) -> AdviseReply | None:
    try:
        reply = await bus.request(ADVISE.at(name), request, timeout=settings.timeout)
        _check_reply(reply, taxonomy)
    except KikiError as error:
        metrics.count_degraded(f"router.advisor.{name}", error.message, kind=_QUOTED.sub("", error.message))
        return None
    return reply


def _check_reply(reply: AdviseReply, taxonomy: Taxonomy) -> None:
    if unknown := sorted(set(reply.domains) - set(taxonomy.domains)):
        raise KikiError(f"it advises '{unknown[0]}', which is no niche domain.", param="domains")
    if not all(math.isfinite(value) for value in (*reply.domains.values(), *reply.payload.values())):
        raise KikiError("its advice holds a number that is not finite.", param="domains")
    if sum(reply.domains.values()) > 1.0 + 1e-3:
        raise KikiError("its probabilities sum to more than 1.", param="domains")


def blend(
    scores: Mapping[str, float], advice: Mapping[str, float], *, alpha: float, taxonomy: Taxonomy
) -> dict[str, float]:
    """The scores by output, blended with an advisor's probabilities by niche domain; unchanged without advice."""
    if not advice or alpha == 0.0:
        return dict(scores)
    blended = {}
    for output, score in scores.items():
        advised_niches = [niche for niche in taxonomy.members[output] if niche in advice]
        if not advised_niches:
            blended[output] = score
            continue
        evidence = _log_odds(sum(advice[niche] for niche in advised_niches)) - _log_odds(
            len(advised_niches) / len(taxonomy.niches)
        )
        blended[output] = _probability(_log_odds(score) + alpha * evidence)
    return blended


def _log_odds(probability: float) -> float:
    bounded = min(max(probability, FLOOR), 1.0 - FLOOR)
    return math.log(bounded / (1.0 - bounded))


def _probability(log_odds: float) -> float:
    return 1.0 / (1.0 + math.exp(-log_odds))
