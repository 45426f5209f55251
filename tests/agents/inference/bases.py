"""Small bases on disk that can be trained: the architecture of Qwen3.6 with the small model's tokenizer."""

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.models import qwen3_5_moe

from tests.agents.inference import hybrid

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


def write_base(folder: Path, tokenizer: Path, *, quantized: bool = False, seed: int = 7, **changes: int) -> Path:
    """A random model of Qwen3.6's architecture in ``folder``, with the tokenizer of another model's directory.

    ``changes`` are fields of its configuration.
    """
    vocabulary = json.loads((tokenizer / "config.json").read_text())["vocab_size"]
    text = (
        hybrid.CONFIG
        | {"vocab_size": vocabulary, "tie_word_embeddings": True, "max_position_embeddings": 4096}
        | changes
    )
    config: dict[str, Any] = {"model_type": "qwen3_5_moe", "text_config": text, "tie_word_embeddings": True}
    mx.random.seed(seed)
    model = qwen3_5_moe.Model(qwen3_5_moe.ModelArgs.from_dict(config))
    if quantized:
        nn.quantize(model, group_size=64, bits=4)
        config["quantization"] = {"group_size": 64, "bits": 4}
    folder.mkdir(parents=True)
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())))
    (folder / "config.json").write_text(json.dumps(config))
    for name in TOKENIZER:
        if (tokenizer / name).is_file():
            shutil.copyfile(tokenizer / name, folder / name)
    return folder
