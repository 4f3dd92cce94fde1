"""Slicer's translation of user-visible text; the text itself where Slicer's translation is not available."""

from __future__ import annotations

try:
    from slicer.i18n import tr as _
except ImportError:  # the slicer-core package has no translation

    def _(text: str) -> str:
        return text


__all__ = ["_"]
