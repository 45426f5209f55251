"""Which adapters may be asked for: the one place that turns a name into a folder of files."""

from collections.abc import Sequence
from pathlib import Path

import structlog
from msgspec import structs

from agents.inference.failures import adapter_error, missing_adapter_error, verdict_error
from agents.shared.adapters.folders import (
    NAME,
    STAGED,
    AdapterSurvey,
    Stranger,
    find_weights,
    is_moe_lora,
    survey_adapters,
)
from agents.shared.adapters.verdicts import KeptVerdict, VerdictFolder, read_digest
from schemas.errors import SetupError
from schemas.findings import AdapterUse

_log = structlog.get_logger("inference")


class RegisteredAdapters:
    """The adapters of one folder, by name; with ``folder`` None there are none.

    With ``is_judged`` only weights that the gates let through are served (``verdicts``), and those that a swap has
    staged, which are asked for to be judged. A name is a domain, or the name of a subfolder that serves none
    (:mod:`agents.shared.adapters.folders`); it is never a path.

    Raises:
        SetupError: the folder does not exist.
    """

    def __init__(self, folder: Path | None, *, is_judged: bool = False) -> None:
        self.folder = folder
        self.verdicts: VerdictFolder | None = None
        if folder is not None:
            paths = survey_adapters(folder).paths
            if is_judged:
                self.verdicts = VerdictFolder(folder)
                self.verdicts.begin({name: path for name, path in paths.items() if STAGED not in name})

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all adapters, sorted."""
        return tuple(self._survey().paths)

    @property
    def strangers(self) -> tuple[Stranger, ...]:
        """Subfolders that the router never asks for, with why; staged adapters are not among them."""
        return tuple(stranger for stranger in self._survey().strangers if STAGED not in stranger.path.name)

    def __contains__(self, name: str) -> bool:
        return NAME.fullmatch(name) is not None and name in self._survey().paths

    def find_verdict(self, name: str) -> KeptVerdict | None:
        """What the gates say of an adapter's weights; None when its file must be read for that, or nobody judges.

        Raises:
            StageFailed: as :meth:`find_folder`.
        """
        return None if self.verdicts is None else self.verdicts.judge_unread(name, self.find_folder(name))

    def is_served(self, name: str) -> bool:
        """Whether there is an adapter of that name that requests may use now."""
        if name not in self:
            return False
        if self.verdicts is None or STAGED in name:
            return True
        verdict = self.find_verdict(name)
        return verdict is not None and verdict.is_served

    def require_served(self, name: str, sha256: str) -> None:
        """Refuse weights of this digest that the gates do not let through.

        Raises:
            StageFailed: code ``adapter_not_judged`` or ``adapter_refused``.
        """
        if self.verdicts is None or STAGED in name:
            return
        verdict = self.verdicts.judge_known(name, self.find_folder(name), sha256)
        if not verdict.is_served:
            raise verdict_error(name, verdict)

    def find_folder(self, name: str) -> Path:
        """The folder with the adapter's files.

        Raises:
            StageFailed: code ``adapter_not_found``; or ``adapter_failed`` if what lies there is MoE-LoRA.
        """
        if name in self:
            return self._survey().paths[name]
        for stranger in self.strangers:
            if name in (stranger.path.name, stranger.path.name.split("-", 2)[-1]) and is_moe_lora(stranger.path):
                raise adapter_error(name, stranger.reason)
        raise missing_adapter_error(name)

    def find_file(self, name: str) -> Path:
        """The file with the adapter's tensors.

        Raises:
            StageFailed: code ``adapter_not_found``, or ``adapter_failed`` when the file has gone since.
        """
        path = find_weights(self.find_folder(name))
        if path is None:
            raise adapter_error(name, "its files are gone")
        return path

    def stamp(self, name: str) -> tuple[str, int, int]:
        """Changes when the adapter's file does.

        Raises:
            StageFailed: as :meth:`find_file`.
        """
        path = self.find_file(name)
        status = path.stat()
        return str(path), status.st_mtime_ns, status.st_size

    def pin(self, uses: Sequence[AdapterUse]) -> tuple[AdapterUse, ...]:
        """The set with the digests of the files that lie there now.

        Raises:
            StageFailed: code ``adapter_failed``, also when a file has another digest than the one asked for.
        """
        pinned: list[AdapterUse] = []
        for use in uses:
            try:
                sha256 = read_digest(self.find_file(use.name))
            except OSError as error:
                raise adapter_error(use.name, f"it cannot be read ({error})") from error
            pinned.append(structs.replace(use, sha256=require_digest(use, sha256)))
        return tuple(pinned)

    def log_strangers(self) -> None:
        """One line for each subfolder that the router never asks for."""
        for stranger in self.strangers:
            _log.warning("adapter folder means no domain", folder=stranger.path.name, error=stranger.reason)

    def _survey(self) -> AdapterSurvey:
        if self.folder is None:
            return _NOTHING
        try:
            return survey_adapters(self.folder)
        except SetupError:  # it was there at start: none can be served as long as it is away
            return _NOTHING


_NOTHING = AdapterSurvey({}, ())


def require_digest(use: AdapterUse, sha256: str) -> str:
    """The digest, if it is the one that was asked for.

    Raises:
        StageFailed: code ``adapter_failed``.
    """
    if use.sha256 and use.sha256 != sha256:
        raise adapter_error(use.name, f"its sha256 is {sha256}, but {use.sha256} was asked for")
    return sha256
