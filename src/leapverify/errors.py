"""Errors that a user may meet; each message names the value and the remedy."""

from __future__ import annotations


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the value and the remedy."""


class StudyError(RuntimeError):
    """A study that cannot go on; the message names what happened and the remedy."""


class Paused(StudyError):
    """A study that stopped where the same command goes on: its time was over, or it was told to; nothing is lost."""
