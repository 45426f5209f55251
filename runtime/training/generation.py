"""Writes ``configs/lora`` from ``configs/domains.yaml``: the curriculum, and a recipe for each of the 35 domains.

``make recipes`` runs it; a test compares what it would write with what is there. The recipes of the small fleet, in
``configs/lora/small``, are written by hand.
"""

from pathlib import Path

import msgspec

from agents.shared.domains import load_taxonomy
from runtime.training.curriculum import PHASES, Phase
from runtime.training.recipes import BASE, KEYS, LAYERS, LEARNING_RATE, RANK, SCALE
from runtime.training.recipes import recipes_folder as default_folder

CURRICULUM_HEAD = """\
# The order of training, foundations first: the phases of the lab's configs/micro_kiki/brainstacks.yaml. Written by
# 'make recipes' from configs/domains.yaml; 'kiki train --curriculum' follows it, 'kiki validate curriculum' checks it.
"""

RECIPE = """\
# How '{domain}' is trained: 'kiki train {domain}', or 'python -m mlx_lm lora --config' with this file. Written by
# 'make recipes'. Scale 1.0 is alpha 16 at rank 16; mlx-lm knows no alpha. Phase: {phase}, number {order} of {count}.
# Each domain has a seed of its own: changes that begin with the same lora_a overlap more.
model: {base}
train: true
fine_tune_type: lora
data: data/merged/{domain}
adapter_path: adapters/{domain}
mask_prompt: true
seed: {order}
iters: {iterations}
batch_size: 1
learning_rate: {learning_rate}
max_seq_length: 1024
grad_checkpoint: true
num_layers: {layers}
lora_parameters:
  rank: {rank}
  scale: {scale}
  dropout: 0.0
  keys:
{keys}
steps_per_report: 10
steps_per_eval: 50
val_batches: 25
save_every: {save_every}
"""


def make_curriculum() -> tuple[Phase, ...]:
    """The phases with their domains, from ``configs/domains.yaml``."""
    domains = load_taxonomy().domains
    ordered = sorted(domains, key=lambda name: domains[name].order)
    return tuple(
        msgspec.structs.replace(phase, domains=tuple(name for name in ordered if domains[name].phase == phase.name))
        for phase in PHASES
    )


def render_files() -> dict[str, str]:
    """The text of each generated file, by its name in ``configs/lora``."""
    domains, phases = load_taxonomy().domains, make_curriculum()
    text = {"curriculum.yaml": render_curriculum(phases)}
    for phase in phases:
        for name in phase.domains:
            text[f"{name}.yaml"] = RECIPE.format(
                domain=name,
                phase=phase.name,
                order=domains[name].order,
                count=len(domains),
                base=BASE,
                iterations=phase.iterations,
                learning_rate=f"{LEARNING_RATE:.1e}",
                layers=LAYERS,
                rank=RANK,
                scale=SCALE,
                keys=_render_list(KEYS),
                save_every=50 if phase.iterations < 500 else 100,
            )
    return text


def render_curriculum(phases: tuple[Phase, ...]) -> str:
    """The curriculum as YAML."""
    parts = [
        f"- name: {phase.name}\n  kind: {phase.kind}\n  iterations: {phase.iterations}\n  domains:\n"
        + _render_list(phase.domains)
        for phase in phases
    ]
    return CURRICULUM_HEAD + "\n".join(parts) + "\n"


def write_files(folder: Path) -> None:
    """Write all generated files into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in render_files().items():
        (folder / name).write_text(text, encoding="utf-8")


def _render_list(names: tuple[str, ...]) -> str:
    return "\n".join(f"    - {name}" for name in names)


if __name__ == "__main__":
    write_files(default_folder())
