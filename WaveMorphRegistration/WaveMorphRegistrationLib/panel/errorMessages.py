"""What the user sees when an action of the panel fails."""

from __future__ import annotations

import logging

import slicer
from wavemorph.errors import WaveMorphError

from ..translation import _


def perform(action, *arguments) -> None:
    """Run an action, and show its exception as one message."""
    try:
        action(*arguments)
    except WaveMorphError as error:
        slicer.util.errorDisplay(str(error))
    except Exception as error:
        logging.exception("WaveMorph")
        slicer.util.errorDisplay(
            _("The action failed ({reason}); the application log has the details.").format(
                reason=f"{type(error).__name__}: {error}"
            )
        )
