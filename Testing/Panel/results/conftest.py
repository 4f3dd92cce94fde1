"""A finished registration in an opened panel, and a slice view that looks at it."""

from __future__ import annotations

import pytest
from WaveMorphRegistrationLib.headless.offscreenSliceView import OffscreenSliceView
from WaveMorphRegistrationLib.results.sceneResult import SceneResult


@pytest.fixture
def view(opened):
    view = OffscreenSliceView(opened.scene, opened.headless.applicationLogic, "Red", "Axial", (240, 240))
    yield view
    view.close()


@pytest.fixture
def done(opened, view, tiny_pair):
    """A finished registration of a deformed head, seen in a slice view."""
    fixed, _moving = opened.choose(*tiny_pair)
    view.lookAt(fixed, (0.0, 0.0, 0.0))
    opened.ui.wantExpectedErrorCheckBox.checked = True
    opened.processEvents()
    opened.register()
    assert opened.dialogs == []
    opened.view, opened.result = view, SceneResult.allIn(opened.scene)[0]
    return opened
