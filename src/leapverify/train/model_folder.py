"""Local folders of models and tokenizers, looked at before `transformers` opens them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from leapverify.io.untrusted import limits
from leapverify.io.untrusted.paths import plain_name
from leapverify.io.untrusted.tensors import check_safetensors, check_torch_file
from leapverify.io.untrusted.text import parse_json, read_bounded

NO_CODE: dict[str, Any] = {"trust_remote_code": False}
"""For every `from_pretrained`: left out, it asks on the terminal, and runs a folder's Python on a `y`."""
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers")


def check_folder(folder: Path) -> None:
    """Refuse a folder whose index leads out of it, or whose files are not what they are called.

    Raises:
        ValueError: it does; the file is named.
    """
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        try:
            _check(path)
        except (OSError, ValueError) as error:
            raise ValueError(f"{path.name}: {error}") from error


def _check(path: Path) -> None:
    if path.suffix == ".safetensors":
        check_safetensors(path)
    elif path.suffix in (".bin", ".pt", ".pth") and path.name.startswith("pytorch_model"):
        check_torch_file(path)
    elif path.name.endswith(".index.json"):
        _check_index(parse_json(read_bounded(path, limits.JSON_BYTES)))
    elif path.name in ("config.json", "tokenizer_config.json", "generation_config.json", "adapter_config.json"):
        _check_config(parse_json(read_bounded(path, limits.JSON_BYTES)))
    elif path.suffix in (".json", ".txt", ".model") and path.stat().st_size > limits.VOCABULARY_BYTES:
        raise ValueError(f"it has {path.stat().st_size} bytes, more than {limits.VOCABULARY_BYTES}")


def _check_index(index: Any) -> None:
    files = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(files, dict):
        raise ValueError("it has no weight_map")
    names = list(dict.fromkeys(map(str, files.values())))
    if len(names) > limits.INDEX_FILES:
        raise ValueError(f"it names {len(names)} files, more than {limits.INDEX_FILES}")
    if wrong := [name for name in names if not plain_name(name)]:
        raise ValueError(f"it names {wrong[0]!r:.200}, which is no file of this folder")


def _check_config(config: Any) -> None:
    if not isinstance(config, dict):
        raise ValueError("it holds no mapping")
    for name in _LAYERS:
        if isinstance(config.get(name), int) and config[name] > limits.LAYERS:
            raise ValueError(f"its {name} is {config[name]}, more than {limits.LAYERS}")
