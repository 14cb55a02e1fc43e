"""What keeps a launch from starting and a person can cure."""

from __future__ import annotations


class LaunchError(Exception):
    """One line: what, where, and the cure."""
