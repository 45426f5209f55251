"""The files of the embedded broker's users."""

from pathlib import Path

import pytest

from bus.access.permissions import Permissions
from bus.access.users import LIST, write_users
from runtime.soak.isolation import fill_disk
from tests.small_disk import mount_small_disk

USERS = {
    "memory": Permissions(publish=("a",), subscribe=("b",)),
    "facade": Permissions(publish=("c",), subscribe=("d",)),
}


def test_a_seed_that_a_full_disk_cut_short_is_not_left_behind(tmp_path: Path) -> None:
    with mount_small_disk(tmp_path / "disk", 1) as disk:
        directory = disk / "nats"
        (directory / "users").mkdir(parents=True, mode=0o700)
        with fill_disk(disk), pytest.raises(OSError, match="No space left"):
            write_users(directory, USERS)
        write_users(directory, USERS)
        assert {path.name for path in (directory / "users").glob("*.nk")} == {"memory.nk", "facade.nk"}
        assert (directory / LIST).stat().st_mode & 0o777 == 0o600
