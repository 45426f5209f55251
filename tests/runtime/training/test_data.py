"""Data sets: found as they are, counted, digested, and refused by line."""

import json
from pathlib import Path

import pytest

from runtime.training.data import NAMED_FAULTS, read_data_set
from schemas.errors import SetupError

LINE = json.dumps({"prompt": "Hi?", "completion": "Hello."}) + "\n"
CHAT = json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}) + "\n"


def test_a_data_set_is_counted_and_digested(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(LINE * 3)
    alone = read_data_set(tmp_path, batch_size=1)
    assert (alone.counts, alone.form) == ({"train": 3}, "prompt and completion")
    (tmp_path / "valid.jsonl").write_text(LINE)
    (tmp_path / "test.jsonl").write_text(LINE * 2)
    whole = read_data_set(tmp_path, batch_size=1)
    assert whole.counts == {"train": 3, "valid": 1, "test": 2}
    assert whole.sha256 != alone.sha256
    (tmp_path / "valid.jsonl").write_text(LINE.replace("Hello", "Hallo"))
    assert read_data_set(tmp_path, batch_size=1).sha256 != whole.sha256


def test_faults_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(LINE + "{\n" + LINE + "[]\n")
    (tmp_path / "valid.jsonl").write_text("")
    with pytest.raises(SetupError) as refusal:
        read_data_set(tmp_path, batch_size=1)
    lines = refusal.value.message.splitlines()
    assert [line.split(": ")[0] for line in lines] == [
        f"{tmp_path}/train.jsonl:2",
        f"{tmp_path}/train.jsonl:4",
        f"{tmp_path}/valid.jsonl",
    ]


def test_many_faults_are_counted(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("{\n" * (NAMED_FAULTS + 30))
    with pytest.raises(SetupError, match="and 30 faults more") as refusal:
        read_data_set(tmp_path, batch_size=1)
    assert len(refusal.value.message.splitlines()) == NAMED_FAULTS + 1


def test_a_folder_without_examples_and_a_file_smaller_than_a_batch_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"no examples in .*: expected train.jsonl"):
        read_data_set(tmp_path, batch_size=1)
    (tmp_path / "train.jsonl").write_text(LINE * 2)
    with pytest.raises(SetupError, match=r"train.jsonl: 2 examples do not fill one batch of 4"):
        read_data_set(tmp_path, batch_size=4)


def test_files_of_several_forms_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(LINE)
    (tmp_path / "valid.jsonl").write_text(CHAT)
    with pytest.raises(SetupError, match="several forms: prompt and completion, messages"):
        read_data_set(tmp_path, batch_size=1)
