"""Overhead is what is left of a turn when model and embedding compute are taken away."""

import pytest

from runtime.overhead import Turn, shares


def turn(overhead: float) -> Turn:
    return Turn(total=1.0 + overhead, compute=1.0, own={"router": overhead * 0.25}, hops=overhead * 0.75)


def test_the_shares_add_up() -> None:
    found = {share.part: share for share in shares([turn(0.010), turn(0.012), turn(0.014)])}
    assert found["overhead"].p50 == pytest.approx(12.0)
    assert found["router"].share == pytest.approx(0.25)
    assert found["hops"].share == pytest.approx(0.75)
    assert found["memory"].p50 == 0.0
    assert sum(share.share for part, share in found.items() if part != "overhead") == pytest.approx(1.0)
