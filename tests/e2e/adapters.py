"""Small adapters and a small retained set for a runtime that consolidates."""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

ADAPTER, OTHER = "spice", "kicad-pcb"
LAYERS = (28, 29)
"""The last ones of the small model: a gradient step is little more than a forward pass."""

QUESTIONS = (
    {"question": "What is the capital of France?", "choices": ["Paris", "Madrid"], "answer": 0},
    {"question": "What is 1 plus 1?", "choices": ["2", "9"], "answer": 0},
)


def write_consolidation_inputs(folder: Path, model: Path) -> dict[str, str]:
    """Write adapters and retained questions; returns the environment variables that name them."""
    for seed, name in enumerate((ADAPTER, OTHER)):
        write_small_adapter(folder / "adapters", name, model, seed=seed)
    questions_path = folder / "retained.jsonl"
    questions_path.write_text("".join(json.dumps(question) + "\n" for question in QUESTIONS))
    return {"KIKI_ADAPTERS": str(folder / "adapters"), "KIKI_AGENTS__DREAM__RETAINED": str(questions_path)}


def write_small_adapter(folder: Path, name: str, model: Path, *, seed: int) -> None:
    """Write a random adapter of two layers into ``folder / name``."""
    config = json.loads((model / "config.json").read_text())
    width, heads, kv = config["hidden_size"], config["num_attention_heads"], config["num_key_value_heads"]
    random, tensors = np.random.default_rng(seed), {}
    for layer in LAYERS:
        for target, outputs in (("q_proj", width), ("v_proj", width // heads * kv)):
            path = f"model.layers.{layer}.self_attn.{target}"
            tensors[f"{path}.lora_a"] = (random.standard_normal((width, 2)) * 0.05).astype(np.float32)
            tensors[f"{path}.lora_b"] = (random.standard_normal((2, outputs)) * 0.05).astype(np.float32)
    (folder / name).mkdir(parents=True)
    save_file(tensors, folder / name / "adapters.safetensors")
    parameters = {"rank": 2, "scale": 2.0, "dropout": 0.0, "keys": ["self_attn.q_proj", "self_attn.v_proj"]}
    configuration = {"fine_tune_type": "lora", "num_layers": len(LAYERS), "lora_parameters": parameters}
    (folder / name / "adapter_config.json").write_text(json.dumps(configuration))
