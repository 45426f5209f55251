"""An administrator's verbs on the bank."""

from pathlib import Path
from typing import Any

import pytest

from agents.inference.adapters.administration import listing, perform
from agents.inference.adapters.bank import AdapterBank
from schemas.errors import StageFailed
from schemas.findings import AdapterUse
from tests.agents.inference import hybrid


@pytest.fixture(scope="module")
def model() -> Any:
    return hybrid.build(quantized=False)


@pytest.fixture
def bank(model: Any, tmp_path: Path) -> AdapterBank:
    for seed, name in enumerate(("a", "b")):
        hybrid.write(tmp_path, model, name, kinds=("q_proj",), seed=seed, rank=2, size=0.5)
    (tmp_path / "no-adapter").mkdir()
    return AdapterBank(model, tmp_path, budget=1024**2)


def states(bank: AdapterBank) -> dict[str, tuple[bool, bool]]:
    return {info.name: (info.resident, info.seated) for info in listing(bank).adapters}


def test_the_life_of_an_adapter(bank: AdapterBank) -> None:
    assert states(bank) == {"a": (False, False), "b": (False, False)}
    checked = perform(bank, "check", "a", taken=())
    assert (len(checked.sha256), checked.modules, checked.resident) == (64, 1, False)
    assert checked.bytes > 0
    assert perform(bank, "load", "a", taken=()).resident
    assert states(bank) == {"a": (True, False), "b": (False, False)}
    activated = perform(bank, "activate", "b", taken=())
    assert (activated.resident, activated.seated, activated.sha256 != checked.sha256) == (True, True, True)
    gone = perform(bank, "unload", "b", taken=())
    assert (gone.resident, gone.seated) == (False, False)
    assert states(bank) == {"a": (True, False), "b": (False, False)}


def test_an_adapter_in_use_is_not_unloaded(bank: AdapterBank) -> None:
    seat = bank.seat((AdapterUse(name="a"),))
    with pytest.raises(StageFailed, match="requests are using it"):
        perform(bank, "unload", "a", taken={seat.slot})
    assert states(bank)["a"] == (True, True)


@pytest.mark.parametrize("verb", ["check", "load", "unload", "activate"])
@pytest.mark.parametrize("name", ["nobody", "../a", "no-adapter"])
def test_only_registered_names(bank: AdapterBank, verb: str, name: str) -> None:
    with pytest.raises(StageFailed, match="not registered"):
        perform(bank, verb, name, taken=())
