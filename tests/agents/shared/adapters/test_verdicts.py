"""Verdicts by digest, kept in the adapters folder."""

from pathlib import Path

import pytest

from agents.shared.adapters import verdicts as verdict_files
from agents.shared.adapters.folders import CONFIG, MLX_WEIGHTS, survey_adapters
from agents.shared.adapters.verdicts import FIRST_START, FOLDER, KeptVerdict, VerdictFolder, find_digest, read_digest
from schemas.adapters import Gate


def put_adapter(folder: Path, name: str, weights: bytes) -> Path:
    path = folder / name
    path.mkdir(exist_ok=True)
    (path / CONFIG).write_text("{}")
    (path / MLX_WEIGHTS).write_bytes(weights)
    return path


def start(folder: Path) -> VerdictFolder:
    verdicts = VerdictFolder(folder)
    verdicts.begin(dict(survey_adapters(folder).paths))
    return verdicts


def judge(verdicts: VerdictFolder, path: Path) -> str:
    """The state of the weights, as a worker learns it that has read them."""
    return verdicts.judge_known(path.name, path, read_digest(path / MLX_WEIGHTS)).state


def test_weights_of_the_first_start_are_ungated_and_later_ones_wait(tmp_path: Path) -> None:
    rust = put_adapter(tmp_path, "rust", b"rust")
    verdicts = start(tmp_path)
    sql = put_adapter(tmp_path, "sql", b"sql")
    unread = verdicts.judge_unread("rust", rust)
    assert unread is not None
    assert (unread.state, unread.is_served) == ("ungated", True)
    assert verdicts.judge_unread("sql", sql) is None
    assert (judge(verdicts, rust), judge(verdicts, sql)) == ("ungated", "waiting")


def test_an_empty_folder_trusts_nothing_that_comes_later(tmp_path: Path) -> None:
    start(tmp_path)
    sql = put_adapter(tmp_path, "sql", b"sql")
    assert judge(start(tmp_path), sql) == "waiting"


@pytest.mark.parametrize("state", ["waiting", "passed", "refused"])
def test_a_verdict_outlives_a_restart_and_a_new_name(tmp_path: Path, state: str) -> None:
    verdicts = start(tmp_path)
    sql = put_adapter(tmp_path, "sql", b"sql")
    gate = Gate(name="angle", passed=False, value=12.5, bound=30.0)
    sha256 = read_digest(sql / MLX_WEIGHTS)
    verdicts.record(KeptVerdict(sha256=sha256, state=state, name="sql", message="why", gates=(gate,)))  # type: ignore[arg-type]
    again = start(tmp_path)
    verdict = again.find(sha256)
    assert verdict is not None
    assert (verdict.state, verdict.message, verdict.gates) == (state, "why", (gate,))
    assert judge(again, put_adapter(tmp_path, "renamed", b"sql")) == state


def test_other_weights_under_an_old_name_have_no_verdict(tmp_path: Path) -> None:
    rust = put_adapter(tmp_path, "rust", b"rust")
    verdicts = start(tmp_path)
    assert judge(verdicts, rust) == "ungated"
    put_adapter(tmp_path, "rust", b"rust, changed")
    assert verdicts.judge_unread("rust", rust) is None
    assert judge(verdicts, rust) == "waiting"
    assert judge(start(tmp_path), rust) == "waiting"


def test_the_operators_weights_are_known_before_they_are_read_at_the_next_start_too(tmp_path: Path) -> None:
    rust = put_adapter(tmp_path, "rust", b"rust")
    start(tmp_path)
    unread = start(tmp_path).judge_unread("rust", rust)
    assert unread is not None
    assert unread.state == "ungated"


def test_judged_weights_are_known_at_the_next_start_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdicts = start(tmp_path)
    sql = put_adapter(tmp_path, "sql", b"sql")
    sha256 = read_digest(sql / MLX_WEIGHTS)
    assert judge(verdicts, sql) == "waiting"
    verdicts.record(KeptVerdict(sha256=sha256, state="passed"))
    monkeypatch.setattr(verdict_files, "_DIGESTS", {})  # another process has read nothing yet
    unread = start(tmp_path).judge_unread("sql", sql)
    assert unread is not None
    assert (unread.state, unread.sha256) == ("passed", sha256)
    put_adapter(tmp_path, "sql", b"sql, changed")
    assert start(tmp_path).judge_unread("sql", sql) is None


def test_a_verdict_of_another_process_is_found(tmp_path: Path) -> None:
    verdicts = start(tmp_path)
    sql, rust = put_adapter(tmp_path, "sql", b"sql"), put_adapter(tmp_path, "rust", b"rust")
    assert judge(verdicts, rust) == "waiting"
    other_process = start(tmp_path)
    for path in (sql, rust):
        other_process.record(KeptVerdict(sha256=read_digest(path / MLX_WEIGHTS), state="passed"))
    assert (judge(verdicts, sql), judge(verdicts, rust)) == ("passed", "passed")


def test_a_damaged_verdict_is_judged_again_and_the_others_hold(tmp_path: Path) -> None:
    verdicts = start(tmp_path)
    paths = [put_adapter(tmp_path, name, name.encode()) for name in ("sql", "rust")]
    digests = [read_digest(path / MLX_WEIGHTS) for path in paths]
    for sha256 in digests:
        verdicts.record(KeptVerdict(sha256=sha256, state="passed"))
    (tmp_path / FOLDER / f"{digests[0]}.json").write_text("{")
    again = start(tmp_path)
    assert [judge(again, path) for path in paths] == ["waiting", "passed"]


def test_a_damaged_first_start_makes_nothing_the_operators(tmp_path: Path) -> None:
    rust = put_adapter(tmp_path, "rust", b"rust")
    start(tmp_path)
    (tmp_path / FOLDER / FIRST_START).write_text("[]")
    assert judge(start(tmp_path), rust) == "waiting"


def test_a_folder_that_cannot_be_written_keeps_verdicts_until_the_process_ends(tmp_path: Path) -> None:
    rust = put_adapter(tmp_path, "rust", b"rust")
    (tmp_path / FOLDER).symlink_to("/proc/nowhere")
    verdicts = start(tmp_path)
    sql = put_adapter(tmp_path, "sql", b"sql")
    assert (judge(verdicts, rust), judge(verdicts, sql)) == ("ungated", "waiting")
    verdicts.record(KeptVerdict(sha256=read_digest(sql / MLX_WEIGHTS), state="passed"))
    assert judge(verdicts, sql) == "passed"


def test_a_digest_is_known_once_it_was_read_and_until_the_file_changes(tmp_path: Path) -> None:
    rust = put_adapter(tmp_path, "rust", b"rust")
    assert find_digest(rust) is None
    sha256 = read_digest(rust / MLX_WEIGHTS)
    assert find_digest(rust) == sha256
    put_adapter(tmp_path, "rust", b"longer than it was")
    assert find_digest(rust) is None
