"""The segmentation of the fixed volume of a study: once for the same volume, and again for any other."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from torch import nn
from wavemorph.registration.segmentation import remembering
from wavemorph.registration.segmentation.inference import Search, SegmentationInput
from wavemorph.registration.segmentation.remembering import LastLook, look_at_fixed, remembering_fixed


@pytest.fixture
def looks(monkeypatch):
    """The inputs that were looked at."""
    monkeypatch.setattr(remembering, "_last_look", LastLook())
    return []


def looked_at(looks: list, source: SegmentationInput) -> Search:
    """What is found has a number of its own at each look."""

    def look(source: SegmentationInput) -> Search:
        looks.append(source)
        return Search(best=len(looks))

    return look_at_fixed(source, look)


NETWORK = nn.Identity()


def source(value: int = 1, origin: float = 0.0, inside: int = 1, network: nn.Module = NETWORK) -> SegmentationInput:
    image = sitk.Image([4, 4, 4], sitk.sitkFloat32) + value
    image.SetOrigin((origin, 0.0, 0.0))
    return SegmentationInput(network, image, sitk.Image([4, 4, 4], sitk.sitkUInt8) + inside, atlas=None)


def test_the_same_volume_is_looked_at_once(looks):
    with remembering_fixed():
        first = looked_at(looks, source())
    with remembering_fixed():
        assert looked_at(looks, source()) is first
    assert len(looks) == 1


@pytest.mark.parametrize(
    "other",
    [{"value": 2}, {"origin": 1e-9}, {"inside": 0}, {"network": nn.Identity()}],
    ids=["voxels", "geometry", "foreground", "network"],
)
def test_anything_else_is_looked_at_again(looks, other):
    with remembering_fixed():
        assert [looked_at(looks, source()).best, looked_at(looks, source(**other)).best] == [1, 2]
        assert looked_at(looks, source()).best == 3  # only the last one is kept


def test_a_network_that_is_gone_is_not_taken_for_one_at_its_place(looks):
    with remembering_fixed():
        looked_at(looks, source(network=nn.Identity()))
        looks.clear()  # the last reference
        looked_at(looks, source(network=nn.Identity()))
    assert len(looks) == 1


def test_nothing_is_remembered_outside_of_a_study(looks):
    for _ in range(2):
        looked_at(looks, source())
    with remembering_fixed():
        looked_at(looks, source())
    looked_at(looks, source())
    assert len(looks) == 4


def test_the_subjects_of_a_study_share_the_segmentation_of_the_fixed_volume(monkeypatch, tmp_path):
    from small_study import SETTINGS, write_heads
    from wavemorph import cohort
    from wavemorph.cohort.runner import SerialRunner
    from wavemorph.cohort.study import registering

    remembered, register = [], registering.register

    def noted(*arguments, **more):
        remembered.append(remembering._remembers.get())
        return register(*arguments, **more)

    monkeypatch.setattr(registering, "register", noted)
    template, files = write_heads(tmp_path, 1)
    cohort.run(template, files, output=tmp_path / "study", settings=SETTINGS, runner=SerialRunner())
    assert remembered == [True] and not remembering._remembers.get()


def test_the_checksum_depends_on_the_order_of_the_voxels():
    voxels = np.arange(64, dtype=np.float32).reshape(4, 4, 4)
    images = [sitk.GetImageFromArray(array) for array in (voxels, voxels[::-1].copy())]
    assert remembering._checksum(images[0]) != remembering._checksum(images[1])
