"""An administrator's verbs on the bank."""

from pathlib import Path
from typing import Any

import pytest

from agents.inference.adapters.administration import list_adapters, perform
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
    return {info.name: (info.resident, info.seated) for info in list_adapters(bank).adapters}


def test_the_life_of_an_adapter(bank: AdapterBank) -> None:
    assert states(bank) == {"a": (False, False), "b": (False, False)}
    check_info = perform(bank, "check", "a", busy_slots=())
    assert (len(check_info.sha256), check_info.modules, check_info.resident) == (64, 1, False)
    assert check_info.bytes > 0
    assert perform(bank, "load", "a", busy_slots=()).resident
    assert states(bank) == {"a": (True, False), "b": (False, False)}
    activate_info = perform(bank, "activate", "b", busy_slots=())
    assert (activate_info.resident, activate_info.seated, activate_info.sha256 != check_info.sha256) == (
        True,
        True,
        True,
    )
    unload_info = perform(bank, "unload", "b", busy_slots=())
    assert (unload_info.resident, unload_info.seated) == (False, False)
    assert states(bank) == {"a": (True, False), "b": (False, False)}


def test_an_adapter_in_use_is_not_unloaded(bank: AdapterBank) -> None:
    seat = bank.seat((AdapterUse(name="a"),))
    with pytest.raises(StageFailed, match="requests are using it"):
        perform(bank, "unload", "a", busy_slots={seat.slot})
    assert states(bank)["a"] == (True, True)


@pytest.mark.parametrize("verb", ["check", "load", "unload", "activate"])
@pytest.mark.parametrize("name", ["nobody", "../a", "no-adapter"])
def test_unregistered_names_are_refused(bank: AdapterBank, verb: str, name: str) -> None:
    with pytest.raises(StageFailed, match="not registered") as refusal:
        perform(bank, verb, name, busy_slots=())
    assert (refusal.value.code, refusal.value.status) == ("adapter_not_found", 404)
