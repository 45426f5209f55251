"""``kiki soak chaos``: a short run keeps every promise, and a promise that is broken on purpose is found."""

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest

from bus import stream
from bus.connection import BusSettings, connect
from bus.topology import EPISODES
from runtime.access import login_of
from runtime.soak import chaos, nemesis
from runtime.soak.history import AnswerGiven, FaultHealed, read_history
from runtime.soak.nemesis import Strike
from schemas.errors import KikiError

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

SHORT_FAULTS = "kill,broker,clock,window,partition,full-disk,everything"


def run_soak(directory: Path, *options: str, timeout: float) -> "subprocess.CompletedProcess[str]":
    """Run ``kiki soak chaos``, as root in namespaces of its own."""
    command = [sys.executable, "-m", "runtime", "soak", "chaos", "--directory", str(directory), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


def test_a_short_soak_breaks_no_promise(tmp_path: Path, embedder_path: Path) -> None:
    soak = run_soak(tmp_path, "--minutes", "0.5", "--seed", "1", "--only", SHORT_FAULTS, timeout=280)
    assert soak.returncode == 0, soak.stdout + soak.stderr
    moments = read_history(tmp_path / "history.jsonl")
    assert sum(isinstance(moment, FaultHealed) for moment in moments) > 1
    assert sum(isinstance(moment, AnswerGiven) for moment in moments) > 10
    assert "0 violations" in soak.stdout


async def test_a_record_that_is_lost_is_found(
    tmp_path: Path, embedder_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lose_record(strike: Strike) -> None:
        """Delete the last episodes from the record, as no user but the memory's and the services' may; of one alone the
        client may have left, or its session be forgotten."""
        settings = BusSettings(
            url=strike.scene.broker.url, login=login_of(strike.scene.data_dir / "nats", "memory"), prefix="kiki"
        )
        async with connect(settings, name="test") as bus:
            size = await stream.measure_stream(bus, EPISODES)
            for seq in range(max(1, size.last_seq - 7), size.last_seq + 1):
                with contextlib.suppress(KikiError):  # one that is forgotten already
                    await stream.delete_message(bus, EPISODES, seq)
        strike.note(f"up to sequence {size.last_seq}")

    monkeypatch.setattr(nemesis, "FAULTS", {"lose": lose_record})
    monkeypatch.setattr(chaos, "SETTLE_SECONDS", 15.0)  # what is lost is waited for in vain
    verdict = await chaos.run_chaos(tmp_path, seconds=4.0, seed=7, faults=["lose"], clients=4, say=print)
    assert any("recorded 0 times" in violation for violation in verdict.violations)
    assert any("the stores differ from the record" in violation for violation in verdict.violations)


@pytest.mark.soak
@pytest.mark.timeout(5400)
def test_an_hour_of_all_faults_breaks_no_promise(tmp_path: Path, embedder_path: Path) -> None:
    soak = run_soak(tmp_path, "--minutes", "60", timeout=5300)
    assert soak.returncode == 0, soak.stdout[-4000:] + soak.stderr[-2000:]


def test_a_wrong_fault_and_a_full_folder_are_refused(tmp_path: Path, embedder_path: Path) -> None:
    wrong = run_soak(tmp_path / "new", "--only", "kill,earthquake", timeout=60)
    assert (wrong.returncode, "there is no fault 'earthquake'" in wrong.stderr) == (64, True)
    (tmp_path / "file").write_text("")
    full = run_soak(tmp_path, timeout=60)
    assert (full.returncode, "is not empty" in full.stderr) == (64, True)
