"""The controls that measure structures and landmarks, and the choice of the table that is shown."""

from __future__ import annotations

import qt
from wavemorph.errors import WaveMorphError

from ..results.qualityTable import landmarkTable, overlapTable, volumeTable
from ..results.sceneResult import TABLES, SceneResult
from ..translation import _
from .errorMessages import perform


class MeasureControls:
    """Measures piece by piece, so that the application stays responsive."""

    def __init__(self, ui):
        self.ui = ui
        self.result: SceneResult | None = None
        self._pending: list = []  # (table, generator)
        self._timer = qt.QTimer()
        self._timer.interval = 0
        self._timer.timeout.connect(lambda: self._step())
        ui.measureButton.clicked.connect(lambda: perform(self._measure))
        ui.tableSelector.currentIndexChanged.connect(lambda index: self._showTable())

    def open(self, result: SceneResult) -> None:
        """Measure this result from now on."""
        self.close()
        self.result = result
        self.refresh()

    def close(self) -> None:
        """Stop measuring."""
        self._stop()
        self.result = None
        self.ui.tableSelector.clear()
        self._showTable()

    def refresh(self, choose: str | None = None) -> None:
        """List the tables that exist; choose: the one to show, by default the present one."""
        if self.result is None:
            return
        box = self.ui.tableSelector
        present = choose or box.itemData(box.currentIndex)
        tables = [table for table in TABLES if self.result.table(table) is not None]
        if choose is None and tables == [box.itemData(index) for index in range(box.count)]:
            return
        box.blockSignals(True)
        box.clear()
        for table in tables:
            box.addItem(_titleOf(table), table)
        box.setCurrentIndex(max(0, tables.index(present) if present in tables else 0))
        box.blockSignals(False)
        self._showTable()

    def _showTable(self) -> None:
        box = self.ui.tableSelector
        table = box.itemData(box.currentIndex) if box.count else None
        node = self.result.table(table) if self.result is not None and table else None
        self.ui.tableView.setMRMLTableNode(node)  # None: no table of another result may be left there

    def _measure(self) -> None:
        """Begin every measure whose inputs are selected."""
        if self._pending:
            self._stop()
            return
        ui, result = self.ui, self.result
        if result is None:
            return
        structures = ui.fixedSegmentationSelector.currentNode(), ui.movingSegmentationSelector.currentNode()
        points = ui.fixedLandmarksSelector.currentNode(), ui.movingLandmarksSelector.currentNode()
        chosen = (
            ("volumes", volumeTable, structures[:1], (result.jacobian, result.expectedError)),
            ("landmarks", landmarkTable, points, (result.transform,)),
            ("overlap", overlapTable, structures, (result.transform,)),
        )
        wanted = [entry for entry in chosen if None not in entry[2]]
        if not wanted:
            raise WaveMorphError(
                _("Choose a segmentation of the fixed volume, or segmentations or landmark lists of both volumes.")
            )
        self._pending = [
            (table, make(result, *nodes))
            for table, make, nodes, needed in wanted
            if any(node is not None for node in needed)
        ]
        if not self._pending:
            raise WaveMorphError(
                _(
                    "Volumes are measured with the Jacobian or the expected error, overlap and landmarks with the "
                    "transform; it was not requested, or was deleted. Register again with this output."
                )
            )
        ui.measureButton.text = _("Stop measuring")
        self._timer.start()

    def _step(self) -> None:
        """Do one piece of the first pending measure."""
        if not self._pending:
            self._stop()
            return
        table, pieces = self._pending[0]
        done: list = []
        failed: list = []

        def piece():
            try:
                next(pieces)
            except StopIteration:
                done.append(table)
            except Exception:
                failed.append(table)
                self._timer.stop()  # a dialog processes events
                raise

        perform(piece)
        if done or failed:
            self._pending = self._pending[1:]
            if done:
                self.refresh(choose=table)
            if self._pending:
                self._timer.start()
            else:
                self._stop()

    def _stop(self) -> None:
        self._timer.stop()
        self._pending = []
        self.ui.measureButton.text = _("Measure")


def _titleOf(table: str) -> str:
    return {
        "report": _("Report of the registration"),
        "overlap": _("Overlap of structures"),
        "landmarks": _("Distance of landmarks"),
        "volumes": _("Volumes of structures"),
    }[table]
