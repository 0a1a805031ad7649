"""A comparison that takes seconds: its file, its texts, and changes of it."""

import json
import random
from pathlib import Path

import yaml
from words import WORDS


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8, "rope_theta": 10000.0}
CONTENT = {
    "task": "text",
    "seeds": [1, 2],
    "settings": {
        "data": "texts",
        "vocab_size": 280,
        "train_length": 16,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": "3e-2",
        "save_strategy": "no",
        "max_validation_blocks": 4,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
    },
    "entries": {
        "RoPE": {"segmentation": "tokens", "intra_encoding": "none"},
        "BiPE-RoPE": {"separators": "sentences"},
        "BiPE YaRN": {"trained_as": "BiPE-RoPE", "evaluate_with": {"rope_parameters": YARN}},
    },
    "measure": {"lengths": [16, 64], "max_tokens": 512},
    "reference": "RoPE",
}


def sentences(seed: int, count: int) -> str:
    draw = random.Random(seed)
    return "".join(" ".join(draw.choices(WORDS, k=4)) + draw.choice([". ", "!\n"]) for _ in range(count))


def write_texts(folder: Path, seed: int = 0) -> None:
    for split, count in (("train", 120), ("validation", 80)):
        (folder / split).mkdir(parents=True)
        (folder / split / "text.txt").write_text(sentences(seed + count, count))


def changed(content: dict, **changes) -> dict:
    """A copy with values set by paths such as `entries__RoPE__seeds`; `None` takes one away."""
    content = json.loads(json.dumps(content))
    for path, value in changes.items():
        *parents, key = path.split("__")
        place = content
        for parent in parents:
            place = place[parent]
        if value is None:
            del place[key]
        else:
            place[key] = value
    return content


def write(content: dict | str, name: str = "tiny") -> Path:
    file = Path(f"{name}.yaml")
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    return file
