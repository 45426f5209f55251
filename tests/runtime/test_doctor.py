"""What ``kiki doctor`` says of memory and models."""

from types import SimpleNamespace

import pytest

from runtime import doctor
from runtime.settings import DEFAULT_MODEL, LAST_RESORT_MODEL, load_settings


@pytest.mark.parametrize(("gigabytes", "state"), [(4, "note"), (16, "ok")])
def test_a_machine_with_little_memory_is_advised_the_small_model(
    monkeypatch: pytest.MonkeyPatch, gigabytes: int, state: str
) -> None:
    memory = SimpleNamespace(total=gigabytes * 1e9, available=2e9)
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    finding = doctor._check_memory(load_settings(model=DEFAULT_MODEL))
    assert finding.state == state
    assert finding.detail == (
        f"{gigabytes}.0 GB, 2.0 GB of it available; with {DEFAULT_MODEL} the runtime takes 3.5 GB at rest"
    )
    assert finding.mend == f"below 5 GB set KIKI_MODEL={LAST_RESORT_MODEL}"
    assert doctor._check_memory(load_settings(model=LAST_RESORT_MODEL)).state == "ok"
