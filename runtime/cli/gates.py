"""``kiki adapters check PATH | angle | gate | sweep | smoke``: adapters in folders, judged without broker or worker.

Their exit codes are verdicts (:class:`agents.shared.adapters.gate.GateVerdict`). Whatever goes wrong in the command
itself, usage and set-up included, exits 64, so that a script cannot take it for one.
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from runtime.cli import err, out, say
from runtime.exits import USAGE_EXIT, first_error
from runtime.terminal import escape_controls
from schemas.errors import InvalidInput, KikiError, SetupError

if TYPE_CHECKING:
    from agents.inference.probing.forgetting import ForgettingProbe
    from agents.shared.adapters.gate import GateReport
    from agents.shared.adapters.health import HealthReport
    from agents.shared.adapters.rules import ModuleShape

FolderArgument = Annotated[Path, typer.Argument(help="The adapter's folder.")]
ModelOption = Annotated[str | None, typer.Option("--model", help="The base: a known name, a hub id or a directory.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
PriorDirOption = Annotated[Path, typer.Option("--prior-dir", help="The folder of the adapters that are there.")]
ProbesOption = Annotated[Path | None, typer.Option("--probes", help="JSONL of questions; the retained set by default.")]
FAULTS_PRINTED = 10


class GateCommand(TyperCommand):
    """A verb whose errors of usage exit 64."""

    def make_context(self, *args: Any, **options: Any) -> Any:
        """See :meth:`click.Command.make_context`."""
        try:
            return super().make_context(*args, **options)
        except Exception as error:
            if getattr(error, "exit_code", 0):  # an error of usage; asking for help has 0
                error.exit_code = USAGE_EXIT  # type: ignore[attr-defined]
            raise


def verdict_command(verb: Callable[..., int]) -> Callable[..., None]:
    """Decorate a verb that returns its exit code: every error becomes one line and :data:`USAGE_EXIT`."""

    @functools.wraps(verb)
    def run_verb(*args: Any, **options: Any) -> None:
        try:
            code = verb(*args, **options)
        except KikiError as error:
            _fail(error)
        except Exception as error:  # noqa: BLE001 - Python's own exit code for it, 1, would be a verdict
            if isinstance(error, ExceptionGroup) and error.split(KikiError)[1] is None:
                _fail(first_error(error))
            import traceback

            traceback.print_exc()
            _fail(KikiError(f"an error of kiki itself: {error!r}; no verdict was reached."))
        raise typer.Exit(code)

    return run_verb


@verdict_command
def check_folder(folder: str, *, model: str | None, as_json: bool) -> int:
    """Check the adapter in a folder, and exit with 0 or 3."""
    from agents.shared.adapters.gate import GateVerdict
    from agents.shared.adapters.health import check_health
    from agents.shared.adapters.reports import describe_health

    health = check_health(_folder(Path(folder)), base=_base_shapes(model))
    if as_json:
        _print_json(describe_health(health))
    else:
        _print_health(health)
    return GateVerdict.PASS if health.is_healthy else GateVerdict.HEALTH


@verdict_command
def angle(
    new: FolderArgument, priors: Annotated[list[Path], typer.Argument(help="Folders of adapters to compare it with.")]
) -> int:
    """Print the angles between an adapter and others as JSON: overall, by kind, layer and module, and the smallest."""
    from agents.shared.adapters.angles import compare_adapters
    from agents.shared.adapters.files import AdapterFile
    from agents.shared.adapters.reports import describe_comparison

    file = AdapterFile(_folder(new))
    comparisons = [compare_adapters([file, AdapterFile(_folder(prior))])[0, 1] for prior in priors]
    _print_json([describe_comparison(comparison) for comparison in comparisons])
    return 0


@verdict_command
def gate(
    folder: FolderArgument,
    prior_dir: PriorDirOption,
    model: ModelOption = None,
    probes: ProbesOption = None,
    as_json: JsonOption = False,
) -> int:
    """Judge an adapter against those in a folder: 0 pass, 1 angle, 2 win rate, 3 health, 64 no verdict.

    With --model, priors at less than 30 degrees are asked the probes, alone and with the new adapter beside them.
    """
    from agents.shared.adapters.folders import survey_adapters
    from agents.shared.adapters.gate import judge_adapter
    from agents.shared.adapters.reports import describe_gate

    folder = _folder(folder)
    survey = survey_adapters(prior_dir)
    for stranger in survey.strangers:
        say(f"{stranger.path.name}: {stranger.reason}")
    load_probe = _probe_loader(model, probes)
    report = judge_adapter(
        folder,
        survey.paths,
        measure_drop=None if load_probe is None else lambda prior: load_probe().measure_drop(prior, folder),
        base=_base_shapes(model),
        on_step=say,
    )
    if as_json:
        _print_json(describe_gate(report))
    else:
        _print_gate(report)
    return report.verdict


@verdict_command
def sweep(
    folder: Annotated[Path, typer.Argument(help="A folder of adapters.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="JSON file; the picture lies beside it.")] = Path(
        "adapters-sweep.json"
    ),
    model: ModelOption = None,
    picture: Annotated[bool, typer.Option(help="Draw the matrix of angles as a PNG.")] = True,
) -> int:
    """Compare all adapters of a folder with each other and audit their health: 0, 1 an angle too small, 3 unhealthy."""
    from agents.shared.adapters.angles import compare_adapters
    from agents.shared.adapters.files import AdapterFile
    from agents.shared.adapters.folders import survey_adapters
    from agents.shared.adapters.gate import MIN_ANGLE, GateVerdict
    from agents.shared.adapters.health import check_health
    from agents.shared.adapters.reports import describe_comparison, describe_health

    survey, base = survey_adapters(folder), _base_shapes(model)
    audits = []
    for path in survey.paths.values():
        say(f"health of {path.name}")
        audits.append(check_health(path, base=base))
    names = [name for name, health in zip(survey.paths, audits, strict=True) if health.is_healthy]
    say(f"angles between {len(names)} adapters")
    comparisons = compare_adapters([AdapterFile(survey.paths[name]) for name in names])
    angles = {pair: comparison.smallest[0] for pair, comparison in comparisons.items()}
    _write_json(
        output,
        {
            "folder": str(folder),
            "min_angle": MIN_ANGLE,
            "names": names,
            "smallest": [
                [0.0 if i == j else round(angles[min(i, j), max(i, j)], 2) for j in range(len(names))]
                for i in range(len(names))
            ],
            "pairs": [describe_comparison(comparison) for comparison in comparisons.values()],
            "health": [describe_health(health) for health in audits],
            "strangers": [{"folder": str(each.path), "reason": each.reason} for each in survey.strangers],
        },
    )
    for health in audits:
        if not health.is_healthy:
            _print_health(health)
    for pair, comparison in comparisons.items():
        if angles[pair] < MIN_ANGLE:
            degrees, where = comparison.smallest
            out.print(f"{comparison.first} and {comparison.second}: {degrees:.1f} degrees in {where}", soft_wrap=True)
    if picture and names:
        from runtime.cli.pictures import draw_angles

        draw_angles(names, angles, output.with_suffix(".png"), limit=MIN_ANGLE)
    say(f"written to {output}")
    if not all(health.is_healthy for health in audits):
        return GateVerdict.HEALTH
    return GateVerdict.ANGLE if min(angles.values(), default=90.0) < MIN_ANGLE else GateVerdict.PASS


@verdict_command
def smoke(
    first: Annotated[Path, typer.Argument(help="An adapter's folder.")],
    second: Annotated[Path, typer.Argument(help="Another's.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="JSON file for all that was measured.")],
    model: ModelOption = None,
    probes: ProbesOption = None,
) -> int:
    """Run the whole gate on two adapters with the real model: health, logits, angles, win rates, both ways.

    Exits with the gravest verdict; an adapter that changes no logit counts as unhealthy.
    """
    from agents.shared.adapters.gate import GateVerdict, judge_adapter
    from agents.shared.adapters.reports import describe_gate

    load_probe = _probe_loader(model, probes)
    if load_probe is None:
        raise InvalidInput("the logits need the base model: give it with --model.", param="model")
    folders, base = (_folder(first), _folder(second)), _base_shapes(model)
    reports, changes, rates = [], [], []
    for new, prior in (folders, folders[::-1]):
        say(f"gate of {new.name}")
        reports.append(
            judge_adapter(
                new,
                {str(prior): prior},
                measure_drop=lambda path, new=new: load_probe().measure_drop(path, new),  # type: ignore[misc]
                base=base,
                on_step=say,
            )
        )
    verdict = max(report.verdict for report in reports)
    if verdict is not GateVerdict.HEALTH:
        probe = load_probe()
        for new, prior in (folders, folders[::-1]):
            say(f"logits and win rate of {new.name}")
            changes.append(probe.logits_change(new))
            rates.append({"alone": probe.win_rate(new), "with_other": probe.win_rate(new, prior)})
        if not all(change > 0 for change in changes):  # NaN is not greater
            verdict = GateVerdict.HEALTH
    _write_json(
        output,
        {
            "verdict": verdict.name.lower(),
            "exit_code": int(verdict),
            "largest_logit_change": changes,
            "win_rates": rates,
            "gates": [describe_gate(report) for report in reports],
        },
    )
    for folder, change in zip(folders, changes, strict=False):
        out.print(f"{folder.name}: largest change of a logit {change:.4g}", highlight=False)
    for report in reports:
        _print_gate(report)
    return verdict


def add_verbs(app: typer.Typer) -> None:
    """Add the verbs to the group ``adapters``."""
    for verb in (angle, gate, sweep, smoke):
        app.command(cls=GateCommand)(verb)


def _fail(error: KikiError) -> None:
    err.print(f"kiki: {error.message}", style="red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(USAGE_EXIT)


def _folder(folder: Path) -> Path:
    if not folder.is_dir():
        raise InvalidInput(f"no folder at {folder}: give the folder that holds adapter_config.json.", param="folder")
    return folder


def _base_shapes(model: str | None) -> "dict[str, ModuleShape] | None":
    if model is None:
        return None
    from agents.shared.adapters.shapes import read_base_shapes

    return read_base_shapes(_prepare(model))


@functools.cache
def _prepare(model: str) -> Path:
    from runtime.models import prepare, show_progress

    with show_progress() as progress:
        return prepare(model, progress=progress)


def _probe_loader(model: str | None, probes: Path | None) -> "Callable[[], ForgettingProbe] | None":
    """Loads the model at its first use and keeps it; None without a model."""
    if model is None:
        return None

    @functools.cache
    def load_probe() -> "ForgettingProbe":
        from runtime.forgetting import load_forgetting_probe

        return load_forgetting_probe(_prepare(model), name=model, probes=probes)

    return load_probe


def _print_json(value: Any) -> None:
    print(escape_controls(json.dumps(value, indent=2)))


def _write_json(path: Path, value: Any) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value, indent=2) + "\n")
    except OSError as error:
        raise SetupError(f"cannot write {path}: {error.strerror}.", param="output") from error


def _print_health(health: "HealthReport") -> None:
    if health.is_healthy:
        ranks = "-".join(map(str, sorted(set(health.ranks))))
        out.print(
            f"{health.name}: healthy, {health.modules} modules of rank {ranks}, "
            f"{health.dtype}, {health.nbytes / 1e6:.1f} MB, {health.sha256[:12]}",
            highlight=False,
            soft_wrap=True,
        )
        return
    for fault in health.faults[:FAULTS_PRINTED]:
        out.print(f"{health.name}: {fault.message}", highlight=False, soft_wrap=True)
    if (more := len(health.faults) - FAULTS_PRINTED) > 0:
        out.print(f"{health.name}: and {more} more; --json lists all", highlight=False)


def _print_gate(report: "GateReport") -> None:
    _print_health(report.health)
    for stranger in report.skipped:
        out.print(f"{stranger.path.name}: not compared, {stranger.reason}", highlight=False, soft_wrap=True)
    for prior in report.priors:
        degrees, where = prior.comparison.smallest
        drop = "" if prior.drop is None else f", its win rate falls by {prior.drop:+.3f}"
        out.print(
            f"{prior.name}: {degrees:.1f} degrees at the least ({where or 'no module in common'}), "
            f"{prior.comparison.overall:.1f} over all{drop}: {prior.verdict.name.lower()}",
            highlight=False,
            soft_wrap=True,
        )
    out.print(f"verdict: {report.verdict.name.lower()} ({int(report.verdict)})", highlight=False)
