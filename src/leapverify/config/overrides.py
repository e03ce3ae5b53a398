"""Configurations from what users type and from files: dotted keys, YAML, one sentence for every mistake."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from leapverify.config.run import Section
from leapverify.config.study import StudyConfig
from leapverify.errors import ConfigError
from leapverify.io.untrusted.paths import require_inside
from leapverify.io.untrusted.text import parse_yaml
from leapverify.io.yaml_file import read_yaml

Config = TypeVar("Config", bound=Section)


def with_settings(config: Config, settings: Mapping[str, Any]) -> Config:
    """The configuration with dotted keys set, checked as a whole.

    Raises:
        ConfigError: an unknown key or a value that does not fit, in one sentence.

    >>> from leapverify.config.presets import preset
    >>> with_settings(preset("tiny"), {"training.lr": 1e-3}).training.lr
    0.001
    """
    tree: dict[str, Any] = config.model_dump()
    for key, value in settings.items():
        node, *parents = reversed(key.split("."))
        section: Any = tree
        for part in reversed(parents):
            section = _child(section, part, key)
        present = _child(section, node, key)
        if isinstance(present, dict) and node not in config.open_groups:
            names = ", ".join(f"{key}.{name}" for name in present)
            raise ConfigError(f"{key} is a group of settings: set one of {names}")
        section[node] = value
    return checked(type(config), tree)


def checked(kind: type[Config], tree: Mapping[str, Any]) -> Config:
    """A configuration from plain data.

    Raises:
        ConfigError: what is wrong, in one sentence.
    """
    try:
        return kind.model_validate(tree)
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
    return read_config(StudyConfig, path, "is no run folder of a study", "put back a copy of it, or name another --out")


def read_config(kind: type[Config], path: Path, lacks: str, remedy: str) -> Config:
    """The configuration in a file; `load_config` says what may be wrong with it.

    Args:
        kind: of configuration.
        path: a config.yaml.
        lacks: what the folder is without it, such as `holds no race`.
        remedy: what to do where it is damaged.
    """
    if not path.is_file():
        raise ConfigError(f"{path} is missing: {path.parent} {lacks}")
    require_inside(path.parent)
    return checked(kind, read_yaml(path, remedy))


def dump_config(config: Section) -> str:
    """The configuration as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def identity_of(config: StudyConfig) -> str:
    """The sha256 of the configuration as it is written."""
    return hashlib.sha256(dump_config(config).encode()).hexdigest()


def differences(there: Config, now: Config, exclude: Collection[str] = ()) -> list[str]:
    """The settings in which two configurations differ, as 'key: a there, b now'.

    Args:
        there: the earlier configuration.
        now: the present one.
        exclude: groups that do not count.
    """
    left, right = (flat(each.model_dump(mode="json", exclude=set(exclude))) for each in (there, now))
    keys = dict.fromkeys([*right, *left])
    return [f"{key}: {left.get(key)} there, {right.get(key)} now" for key in keys if left.get(key) != right.get(key)]


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
