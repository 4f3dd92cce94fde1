"""Slicer's translation of what a user reads, and the text itself where Slicer is not there."""

from __future__ import annotations

try:
    from slicer.i18n import tr as _
except ImportError:  # the scene core alone has no translations

    def _(text: str) -> str:
        return text


__all__ = ["_"]
