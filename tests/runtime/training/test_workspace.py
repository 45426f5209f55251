"""The workspace of a training: one at a time, checkpoints that are whole, and an old adapter that comes back."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from runtime.training.workspace import Workspace, is_whole, training_lock
from schemas.errors import Refused, SetupError

MADE_FROM: dict[str, Any] = {"domain": "sql", "data_sha256": "1"}


def write_weights(path: Path, value: float = 1.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"x": np.full(64, value, np.float32)}, path)
    return path


def open_workspace(folder: Path, **changes: str) -> Workspace:
    workspace = Workspace(folder, "sql", MADE_FROM | changes)
    workspace.open()
    return workspace


def test_the_newest_whole_checkpoint_counts_with_the_iterations_of_its_process(tmp_path: Path) -> None:
    workspace = open_workspace(tmp_path)
    assert workspace.find_checkpoint().path is None
    write_weights(workspace.attempt_folder(0) / "0000004_adapters.safetensors")
    newest = write_weights(workspace.attempt_folder(4) / "0000008_adapters.safetensors")
    torn = write_weights(workspace.attempt_folder(4) / "0000012_adapters.safetensors")
    torn.write_bytes(torn.read_bytes()[:-1])
    write_weights(workspace.attempt_folder(4) / "adapters.safetensors")
    losses = [json.dumps({"set": "train", "iteration": iteration, "loss": 1.0}) for iteration in (4, 8, 12, 16)]
    workspace.losses_file.write_text("\n".join([*losses, '{"set": "tr']))  # a kill in the middle of a line
    found = workspace.find_checkpoint()
    assert (found.iterations, found.path) == (12, newest)
    assert list(workspace.folder.rglob("*.safetensors")) == [newest]
    assert [loss["iteration"] for loss in workspace.read_losses()] == [4, 8, 12]


def test_other_data_begins_anew_and_says_so(tmp_path: Path) -> None:
    workspace = open_workspace(tmp_path)
    write_weights(workspace.attempt_folder(0) / "0000004_adapters.safetensors")
    assert not Workspace(tmp_path, "sql", MADE_FROM).open()
    assert workspace.find_checkpoint().iterations == 4
    assert Workspace(tmp_path, "sql", MADE_FROM | {"data_sha256": "2"}).open()
    assert workspace.find_checkpoint().iterations == 0


def test_an_adapter_that_was_moved_away_comes_back_after_a_kill(tmp_path: Path) -> None:
    workspace = open_workspace(tmp_path)
    weights = write_weights(tmp_path / "sql" / "adapters.safetensors")
    (tmp_path / "sql").rename(workspace.replaced)
    assert not weights.exists()
    open_workspace(tmp_path, data_sha256="2")  # even for a training of something else
    assert weights.exists()
    workspace.remove()
    assert weights.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sql"]


def test_a_file_is_whole_when_it_is_as_long_as_its_header_says(tmp_path: Path) -> None:
    path = write_weights(tmp_path / "a.safetensors")
    assert is_whole(path)
    data = path.read_bytes()
    for broken in (b"", data[:4], data[:50], data[:-1], data + b"x", b"\0" * 32, json.dumps({}).encode()):
        path.write_bytes(broken)
        assert not is_whole(path)
    assert not is_whole(tmp_path / "absent")


HOLDER = """
import os, subprocess, sys, time
from pathlib import Path
from runtime.training.workspace import training_lock
with training_lock(Path(sys.argv[1]), title="kiki train rust") as lock:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], pass_fds=(lock,))
    print(os.getpid(), child.pid, flush=True)
    time.sleep(60)
"""


def test_only_one_process_trains_and_a_child_that_outlives_its_parent_holds_the_lock(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    pid, child = map(int, holder.stdout.readline().split())
    message = f"'kiki train rust' \\(process {pid}\\) is training here"
    try:
        with pytest.raises(Refused, match=message), training_lock(tmp_path, title="kiki train sql"):
            pass
        holder.kill()
        holder.wait()
        with pytest.raises(Refused, match=message), training_lock(tmp_path, title="kiki train sql"):
            pass
    finally:
        holder.kill()
        holder.stdout.close()
        os.kill(child, signal.SIGKILL)
    for _ in range(100):
        try:
            with training_lock(tmp_path, title="kiki train sql"):
                assert "kiki train sql" in (tmp_path / "training.lock").read_text()
                return
        except Refused:
            time.sleep(0.05)
    pytest.fail("the lock of dead processes is held")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match="cannot write"), training_lock(tmp_path / "file", title="x"):
        pass
