"""The controls of what the views show of a result: one mode at a time, opacity, warp and deformation grid."""

from __future__ import annotations

import qt
import slicer

from ..results.display import GRID_SPACING_3D_MM
from ..results.resultView import ResultView, ViewMode
from ..results.sceneResult import SceneResult
from ..translation import _
from .errorMessages import perform

FLICKER_MS = 600
_FINEST_GRID_MM = 3.0


class ViewControls:
    """Connects the widgets with the `ResultView` of the open result; touches views only while the module is entered."""

    def __init__(self, ui):
        self.ui = ui
        self.view: ResultView | None = None
        self.entered = False
        self._pending = False  # a result that arrived while another module was open is shown when this one is entered
        self._state: tuple = ()
        self._buttons = {mode: getattr(ui, f"view{mode.name}Button") for mode in ViewMode}
        self._flickerTimer = qt.QTimer()
        self._flickerTimer.interval = FLICKER_MS
        self._flickerTimer.timeout.connect(self._onFlicker)
        for mode, button in self._buttons.items():
            button.clicked.connect(self._presser(mode))
        ui.opacitySlider.valueChanged.connect(lambda value: perform(self._setOpacity, value))
        ui.warpSlider.valueChanged.connect(lambda value: perform(self._setWarp, value))
        ui.gridCheckBox.toggled.connect(lambda on: perform(self._setGrid))
        ui.grid3DCheckBox.toggled.connect(lambda on: perform(self._setGrid))
        ui.gridSpacingSlider.valueChanged.connect(lambda value: perform(self._setGrid))
        self._update()

    @property
    def flickers(self) -> bool:
        """Whether before and after alternate at present."""
        return self._flickerTimer.active

    def open(self, result: SceneResult, show: bool) -> None:
        """Control another result. show: show it in the views, now or when the module is entered."""
        mode = self.view.mode if self.view is not None and self.view.mode is not None else ViewMode.After
        self.close()
        self.view = ResultView(result, slicer.modules.colors.logic())
        self._state = self._stateOf(result)
        self._readGrid()
        self._pending = show
        if self.entered:
            if show or self.view.isNothingShown:
                self._showFirst(mode)
            else:
                self._update()
        else:
            self._update()

    def enter(self) -> None:
        """The module is entered: show what arrived meanwhile; what is shown is left alone."""
        self.entered = True
        if self.view is not None and (self._pending or self.view.isNothingShown):
            self._showFirst(ViewMode.After)
        elif self.view is not None and self.view.isShown:
            self._showAgain()
        self._update()

    def exit(self) -> None:
        """Another module is entered: leave it views that do not change by themselves and have no hidden nodes."""
        self._flickerTimer.stop()
        if self.view is not None and self.entered:
            self.view.showPlainly()
        self.entered = False
        self._update()

    def refresh(self) -> None:
        """Nodes were added, removed or moved: show the present mode with those that are left, or what is possible."""
        if self.view is None:
            return
        self.view.removeLegendsOfDeletedMaps()
        state = self._stateOf(self.view.result)
        if state != self._state:
            self._state = state
            self._showAgain()
        self._update()

    def showMode(self, mode: ViewMode) -> None:
        """Show a mode in the slice views."""
        if self.view is None:
            return
        self._flickerTimer.stop()
        try:
            self.view.show(mode)
            if mode is ViewMode.Flicker:
                self._flickerTimer.start()
        finally:
            self._update()

    def close(self) -> None:
        """Stop the flicker, and remove the nodes created for viewing."""
        self._flickerTimer.stop()
        self._pending = False
        if self.view is not None:
            self.view.close()
            self.view = None
        self._update()

    def _presser(self, mode: ViewMode):
        """The slot of a mode's button; a default argument would receive the signal's."""
        return lambda: perform(self.showMode, mode)

    def _showFirst(self, mode: ViewMode) -> None:
        """Show a result that is new to the views: in this mode, or the first possible one."""
        self._pending = False
        self.view.hideOthers()
        reasons = self.view.reasonsAgainst()
        possible = [each for each in (mode, ViewMode.After, *ViewMode) if not reasons[each]]
        if possible:
            perform(self.showMode, possible[0])
        self._update()

    def _showAgain(self) -> None:
        if not self.entered or self.view.mode is None:
            return
        if self.view.reasonsAgainst()[self.view.mode]:
            self._flickerTimer.stop()
            self.view.showPlainly()
            self._showFirst(ViewMode.After)
        else:
            perform(self.view.show, self.view.mode)

    @staticmethod
    def _stateOf(result: SceneResult) -> tuple:
        """What the views depend on: the nodes that exist, and place and voxels of the volumes."""
        volumes = [node for node in (result.fixedNode, result.movingNode) if node is not None]
        places = [(node.GetTransformNodeID(), node.GetImageData()) for node in volumes]
        return (*places, *(node.GetID() for node in (*volumes, *result.all())))

    def _onFlicker(self) -> None:
        if self.view is not None and self.view.mode is ViewMode.Flicker:
            self.view.flick()
            self.ui.shownLabel.text = self.view.description

    def _setOpacity(self, value: float) -> None:
        if self.view is not None:
            self.view.setOpacity(value)

    def _setWarp(self, percent: float) -> None:
        if self.view is None:
            return
        if self.view.mode is ViewMode.Warp:  # while the slider is dragged
            self.view.setWarp(percent)
            self.ui.shownLabel.text = self.view.description
            return
        self._flickerTimer.stop()
        try:
            self.view.setWarp(percent)
        finally:
            self._update()

    def _readGrid(self) -> None:
        """Set the controls of the grid to what the display node of the transform says."""
        grid, ui = self.view.result.grid, self.ui
        display = grid.GetDisplayNode() if grid is not None else None
        shown = display is not None and bool(display.GetVisibility())
        self._set(ui.gridSpacingSlider, "minimum", _FINEST_GRID_MM)
        if shown:
            self._set(ui.gridSpacingSlider, "value", display.GetGridSpacingMm())
        self._set(ui.gridCheckBox, "checked", shown and bool(display.GetVisibility2D()))
        self._set(ui.grid3DCheckBox, "checked", shown and bool(display.GetVisibility3D()))

    def _setGrid(self) -> None:
        ui = self.ui
        if self.view is None or self.view.result.grid is None:
            return
        self._set(ui.gridSpacingSlider, "minimum", GRID_SPACING_3D_MM if ui.grid3DCheckBox.checked else _FINEST_GRID_MM)
        self.view.setGrid(ui.gridCheckBox.checked, ui.grid3DCheckBox.checked, ui.gridSpacingSlider.value)

    def _update(self) -> None:
        """Set all controls to the state of the view."""
        ui, view = self.ui, self.view
        reasons = view.reasonsAgainst() if view is not None else {}
        for mode, button in self._buttons.items():
            reason = reasons.get(mode, _("There is no result."))
            button.enabled = not reason
            button.toolTip = reason or _TOOL_TIPS[mode]()
            button.checked = view is not None and view.mode is mode
        ui.shownLabel.text = view.description if view is not None else ""
        ui.opacitySlider.enabled = view is not None and view.mode is not None and view.hasOpacity
        ui.warpSlider.enabled = not reasons.get(ViewMode.Warp, "no result")
        if view is not None:
            self._set(ui.opacitySlider, "value", view.opacity)
            self._set(ui.warpSlider, "value", view.warpPercent)
        hasGrid = view is not None and view.result.grid is not None
        for widget in (ui.gridCheckBox, ui.gridSpacingSlider):
            widget.enabled = hasGrid
        ui.grid3DCheckBox.enabled = hasGrid and view.result.fixedNode is not None

    @staticmethod
    def _set(widget, name: str, value) -> None:
        """Set a property without the signal that a user's change sends."""
        widget.blockSignals(True)
        setattr(widget, name, value)
        widget.blockSignals(False)


_TOOL_TIPS = {
    ViewMode.Before: lambda: _("The moving volume, where it was, over the fixed volume."),
    ViewMode.After: lambda: _("The registered volume over the fixed volume."),
    ViewMode.Flicker: lambda: _("Before and after in alternation."),
    ViewMode.Checkerboard: lambda: _(
        "Alternate squares of the fixed and the registered volume. Where they are aligned, edges continue from square "
        "to square."
    ),
    ViewMode.Colors: lambda: _(
        "The fixed volume in green and the registered volume in magenta: gray where they agree, colored where they do "
        "not."
    ),
    ViewMode.Jacobian: lambda: _(
        "Red: the moving tissue is larger than the fixed tissue. Blue: smaller. White: equal."
    ),
    ViewMode.ExpectedError: lambda: _(
        "How far off the registration may be, in mm: 90 % of the errors are estimated to be below the value at each "
        "voxel. Dark blue: small. Yellow: large."
    ),
    ViewMode.Warp: lambda: _("The moving volume on its way to the registered one; see the slider."),
}
