"""Trains one domain from its plan to an adapter in its place, and the curriculum, domain after domain."""

import contextlib
import functools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from agents.inference.finetuning.messages import (
    MemoryNeed,
    TrainingDone,
    TrainingJob,
)
from agents.shared.adapters.folders import survey_adapters
from agents.shared.adapters.gate import MAX_WIN_DROP, GateReport, GateVerdict, judge_adapter
from agents.shared.adapters.offline import keep_verdict
from runtime.forgetting import load_forgetting_probe
from runtime.settings import Settings
from runtime.training.curriculum import Phase, order_of
from runtime.training.plan import TrainingOptions, TrainingPlan, read_options
from runtime.training.publication import assemble, put_in_place
from runtime.training.trainer import OnMessage, run_trainer
from runtime.training.workspace import Workspace
from schemas.errors import SetupError, StageFailed

if TYPE_CHECKING:
    from agents.inference.probing.forgetting import ForgettingProbe

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """A trained adapter in its ``place``; ``report`` is what the gate said of it."""

    place: Path
    sha256: str
    done: TrainingDone
    report: GateReport
    last_loss: float | None
    validation_losses: tuple[float, ...]


def train_domain(
    plan: TrainingPlan, settings: Settings, *, lock: int, say: Say, on_message: OnMessage
) -> TrainingResult:
    """Train, judge and put the adapter in its place. What an earlier, interrupted call did counts.

    ``lock`` is the descriptor of :func:`runtime.training.workspace.training_lock`.

    Raises:
        SetupError: refused before the first step, or the disk must be mended.
        StageFailed: the loss or a weight is no number, the trainer died, or the gate holds the result back.
    """
    with translate_disk_errors(plan.output):
        workspace = Workspace(plan.output, plan.domain, plan.provenance)
        if workspace.open():
            say(f"an unfinished training of {plan.domain} from another base, data or recipe was given up")
        checkpoint = workspace.find_checkpoint()
    if checkpoint.path is not None:
        say(f"goes on after iteration {checkpoint.iterations}; the optimiser begins anew, because mlx-lm saves none")
    limits = settings.agents.get("inference", {})
    job = TrainingJob(
        model=str(plan.model),
        data=str(plan.data.folder),
        folder=str(workspace.attempt_folder(checkpoint.iterations)),
        recipe=msgspec.to_builtins(plan.recipe),
        begins=checkpoint.iterations,
        checkpoint=str(checkpoint.path or ""),
        losses=str(workspace.losses_file),
        memory_limit=limits.get("memory_limit"),
        cache_limit=limits.get("cache_limit"),
    )

    with translate_disk_errors(plan.output):
        try:
            done = run_trainer(job, workspace.folder, lock=lock, on_message=on_message)
        except (SetupError, StageFailed) as error:
            if error.param == "loss" or not any(workspace.folder.glob("from-*/*.safetensors")):
                workspace.remove()  # the same would happen again, or nothing was kept
            raise
        losses = workspace.read_losses()
        if lack := assemble(plan, workspace, Path(done.file), losses):
            say(f"losses.json has the loss curve; {lack}")
        report = judge_trained(plan, workspace, say=say)
        place = put_in_place(plan, workspace)
    train = [loss["loss"] for loss in losses if loss["set"] == "train"]
    return TrainingResult(
        place=place,
        sha256=report.health.sha256,
        done=done,
        report=report,
        last_loss=train[-1] if train else None,
        validation_losses=tuple(loss["loss"] for loss in losses if loss["set"] == "valid"),
    )


def judge_trained(plan: TrainingPlan, workspace: Workspace, *, say: Say) -> GateReport:
    """Judge the staged adapter against all others of the output folder, as ``kiki adapters gate --model`` does.

    The base is loaded again only when it points along another one: what that one loses beside it is measured then. The
    folder keeps the verdict, so that a runtime serves the adapter at once.

    Raises:
        StageFailed: it is not healthy, or another adapter would win less with it.
    """

    @functools.cache
    def load_probe() -> "ForgettingProbe":
        return load_forgetting_probe(plan.model, name=plan.base)

    report = judge_adapter(
        workspace.staging,
        survey_adapters(plan.output).paths,
        measure_drop=lambda prior: load_probe().measure_drop(prior, workspace.staging),
        on_step=lambda step: say(f"gate: {step}"),
    )
    if report.verdict is GateVerdict.HEALTH:
        faults = "; ".join(fault.message for fault in report.health.faults[:3])
        shutil.rmtree(workspace.folder, ignore_errors=True)
        raise StageFailed(f"the gate refuses the adapter of {plan.domain}: {faults}", param="gate")
    if report.verdict is not GateVerdict.PASS:
        prior = max(report.priors, key=lambda judgement: judgement.verdict)
        degrees, module = prior.comparison.smallest
        raise StageFailed(
            f"the gate refuses the adapter of {plan.domain}: it points along '{prior.name}' ({degrees:.1f} degrees in "
            f"{module}), which wins {prior.drop:.3f} less beside it (at most {MAX_WIN_DROP}). It stays in "
            f"{workspace.staging}, unserved: train it with other data, another seed or a smaller rate.",
            param="gate",
        )
    keep_verdict(plan.output, report)
    return report


def list_trainable(phases: tuple[Phase, ...], options: TrainingOptions) -> Iterator[tuple[str, TrainingOptions]]:
    """The curriculum's domains that have data, in order, with the options of each.

    ``options.data`` is the folder above those of the domains.

    Raises:
        SetupError: a recipe is wrong.
    """
    for domain in order_of(phases):
        own = options if options.data is None else replace(options, data=options.data / domain)
        _, folder = read_options(domain, own)
        if (folder / "train.jsonl").is_file():
            yield domain, own


@contextlib.contextmanager
def translate_disk_errors(folder: Path) -> Iterator[None]:
    """What the disk refuses becomes a SetupError: it is full, read-only, or of somebody else."""
    try:
        yield
    except OSError as error:
        raise SetupError(
            f"the adapter cannot be written in {folder} ({error.strerror or error}): free some space or mend the "
            "folder, and run the same command again: it goes on from the last checkpoint.",
            param="disk",
        ) from error


def describe_need(need: MemoryNeed) -> str:
    """The estimate as one line."""
    parts = (
        f"weights {need.weights / 1e9:.2f}, adapter {need.adapter / 1e9:.2f}, optimiser {need.optimizer / 1e9:.2f}, "
        f"activations {need.activations / 1e9:.2f}"
    )
    return f"memory: about {need.peak / 1e9:.2f} GB ({parts}) of {need.available / 1e9:.1f} GB"
