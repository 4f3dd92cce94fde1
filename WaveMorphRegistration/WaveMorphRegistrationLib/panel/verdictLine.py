"""The line of the panel that says whether a result can be trusted."""

from __future__ import annotations

import html

from ..results.reportTable import verdictTitle
from ..translation import _

_COLORS = {"good": "#1a7f37", "check": "#9a6700", "do not trust": "#b42318"}  # behind white text, in any theme


def showVerdict(label, verdict: dict) -> None:
    """Show the entry "verdict" of a report on a QLabel: its level in color, the first reason; all in the tool tip."""
    reasons = verdict["reasons"]
    level = html.escape(verdictTitle(verdict["level"]))
    badge = f'<span style="background-color:{_COLORS[verdict["level"]]}; color:white">&nbsp;<b>{level}</b>&nbsp;</span>'
    said = html.escape(reasons[0]) if reasons else html.escape(_("Nothing points to a wrong result."))
    if len(reasons) > 1:
        said += " " + html.escape(_("({count} more in the tool tip)").format(count=len(reasons) - 1))
    label.text = f"{badge} {said}"
    label.toolTip = "\n".join(reasons) or _("A result can be wrong all the same: look at it before you use it.")
