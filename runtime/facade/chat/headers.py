"""The headers that say how a turn was served."""

from collections.abc import Collection

from runtime.facade.chat.request import CheckedRequest
from schemas.findings import AdapterUse

LEVEL = "x-kiki-level"
DEGRADED = "x-kiki-degraded"


def describe_turn(
    request: CheckedRequest, adapters: Collection[AdapterUse] | None, *, is_cut: bool = False
) -> dict[str, str]:
    """The level, if the request's fields decide it, and what the client gets less than it asked for.

    ``adapters`` are those that take part; None while that is not known. ``is_cut``: the turn's time was over before its
    answer had ended.
    """
    reasons = [f"level=fast; field={request.stepped_down}"] if request.stepped_down else []
    if request.niche and adapters is not None and request.niche not in {use.name for use in adapters}:
        reasons.append(f"adapter={request.niche}; missing")
    if is_cut:
        reasons.append("deadline; cut")
    headers = {LEVEL: request.query.level} if request.query.level else {}
    return headers | ({DEGRADED: ", ".join(reasons)} if reasons else {})
