"""The dialog that asks for the file of an exported transform."""

from __future__ import annotations

import os

import qt
import slicer

from ..results.transformExport import FILE_FILTER, completedPath
from ..translation import _


def askForExportPath(suggestedName: str) -> str:
    """The path that the user chooses; empty where the user cancels.

    A name without extension gets the first one of the chosen filter.
    """
    dialog = qt.QFileDialog(slicer.util.mainWindow(), _("Export transform"), suggestedName)
    dialog.setAcceptMode(qt.QFileDialog.AcceptSave)
    dialog.setNameFilters(FILE_FILTER.split(";;"))
    if not dialog.exec_():
        return ""
    chosen = str(dialog.selectedFiles()[0])
    path = completedPath(chosen, str(dialog.selectedNameFilter()))
    if path != chosen and os.path.exists(path):  # the dialog has asked about the name without extension
        question = _("{path} exists. Replace it?").format(path=path)
        return path if slicer.util.confirmOkCancelDisplay(question) else ""
    return path
