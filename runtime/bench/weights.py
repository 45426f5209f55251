"""Weights made for a bench: a model in float32, and adapters of random numbers."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file


def float32_copy(model: Path, target: Path) -> Path:
    """The model with its weights in float32, the type in which micro-kiki's worker computes on a CPU."""
    target.mkdir(parents=True)
    for file in filter(Path.is_file, model.iterdir()):
        if file.suffix == ".safetensors":
            save_file({name: array.astype(np.float32) for name, array in load_file(file).items()}, target / file.name)
        elif file.name != "kiki-manifest.json":
            (target / file.name).write_bytes(file.read_bytes())
    return target


def write_random_adapters(model: Path, folder: Path, *, count: int, rank: int, prefix: str = "adapter") -> list[str]:
    """Adapters of all linear modules with small random numbers, in mlx-lm's layout. Returns their names."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file in sorted(model.glob("*.safetensors")):
        tensors = load_file(file)
        shapes |= {name: array.shape for name, array in tensors.items() if name.endswith("_proj.weight")}
    layers = len({name.split(".layers.")[1].split(".")[0] for name in shapes})
    keys = sorted({name.split(".", 3)[3].removesuffix(".weight") for name in shapes})
    names = [f"{prefix}{number}" for number in range(count)]
    for seed, name in enumerate(names):
        random, arrays = np.random.default_rng(seed), {}
        for weight, (outputs, inputs) in shapes.items():
            path = weight.removesuffix(".weight")
            arrays[f"{path}.lora_a"] = (random.standard_normal((inputs, rank)) * 0.01).astype(np.float32)
            arrays[f"{path}.lora_b"] = (random.standard_normal((rank, outputs)) * 0.01).astype(np.float32)
        (folder / name).mkdir(parents=True)
        parameters = {"rank": rank, "scale": 1.0, "dropout": 0.0, "keys": keys}
        config = {"fine_tune_type": "lora", "num_layers": layers, "lora_parameters": parameters}
        (folder / name / "adapter_config.json").write_text(json.dumps(config))
        save_file(arrays, folder / name / "adapters.safetensors")
    return names
