"""Configurations from what users type and from files: dotted keys, YAML, one sentence for every mistake."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from leapverify.config.study import StudyConfig
from leapverify.errors import ConfigError
from leapverify.io.untrusted.paths import require_inside
from leapverify.io.untrusted.text import parse_yaml
from leapverify.io.yaml_file import read_yaml


def with_settings(config: StudyConfig, settings: Mapping[str, Any]) -> StudyConfig:
    """The configuration with dotted keys set, checked as a whole.

    Raises:
        ConfigError: an unknown key or a value that does not fit, in one sentence.
    """
    return checked(with_keys(config.model_dump(), settings))


def with_keys(tree: dict[str, Any], settings: Mapping[str, Any], open_groups: Collection[str] = ()) -> dict[str, Any]:
    """A configuration's tree with dotted keys set.

    Args:
        tree: what a configuration dumps; it is changed.
        settings: dotted key -> value.
        open_groups: names of mappings that are values themselves and may be set as a whole.

    Raises:
        ConfigError: an unknown key, or a group of settings.
    """
    for key, value in settings.items():
        node, *parents = reversed(key.split("."))
        section: Any = tree
        for part in reversed(parents):
            section = _child(section, part, key)
        present = _child(section, node, key)
        if isinstance(present, dict) and node not in open_groups:
            names = ", ".join(f"{key}.{name}" for name in present)
            raise ConfigError(f"{key} is a group of settings: set one of {names}")
        section[node] = value
    return tree


def checked(tree: Mapping[str, Any]) -> StudyConfig:
    """A configuration from plain data.

    Raises:
        ConfigError: what is wrong, in one sentence.
    """
    try:
        return StudyConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(one_line(error)) from error


def parse_settings(pairs: Iterable[str]) -> dict[str, Any]:
    """`key=value` texts as a mapping; values are read as YAML, so that lists, numbers and null mean what they say."""
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {pair!r:.200} is not key=value: write for instance --set training.lr=1e-3")
        try:
            value = parse_yaml(text)
        except ValueError as error:
            raise ConfigError(f"--set {pair!r:.200} has a bad value: {error}: put it in quotes") from error
        settings[key] = _as_number(value)
    return settings


def load_config(path: Path) -> StudyConfig:
    """The configuration of a run folder's config.yaml.

    Raises:
        Damaged: its text is no YAML, or not what was written.
        ConfigError: it is missing, or no configuration.
        ValueError: a link leads out of the run folder.
    """
    if not path.is_file():
        raise ConfigError(f"{path} is missing: {path.parent} is no run folder of a study")
    require_inside(path.parent)
    return checked(read_yaml(path, "put back a copy of it, or name another --out"))


def dump_config(config: StudyConfig) -> str:
    """The configuration as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def identity_of(config: StudyConfig) -> str:
    """The sha256 of the configuration as it is written."""
    return hashlib.sha256(dump_config(config).encode()).hexdigest()


def differences(a: StudyConfig, b: StudyConfig) -> list[str]:
    """The settings in which two configurations differ, as 'key: a, b'."""
    left, right = flat(a.model_dump(mode="json")), flat(b.model_dump(mode="json"))
    return [f"{key}: {left.get(key)} there, {right.get(key)} now" for key in right if left.get(key) != right.get(key)]


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A tree's leaves by their dotted keys."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        found.update(flat(value, f"{name}.") if isinstance(value, dict) else {name: value})
    return found


def _child(section: Any, part: str, key: str) -> Any:
    if isinstance(section, dict) and part in section:
        return section[part]
    known = list(section) if isinstance(section, dict) else []
    near = difflib.get_close_matches(part, known, n=3)
    hint = f"did you mean {', '.join(near)}?" if near else f"known here: {', '.join(known) or 'nothing'}"
    raise ConfigError(f"there is no setting {key!r}: {hint}")


def _as_number(value: Any) -> Any:
    # YAML 1.1 reads 1e-3 as text; nobody who types it means text.
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return [_as_number(item) for item in value] if isinstance(value, list) else value


def one_line(error: ValidationError) -> str:
    """A validation error as one sentence."""
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ")
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "value_error":
        return message
    return f"{place or 'the configuration'} is {first.get('input')!r:.200}: {message[0].lower()}{message[1:]}"
