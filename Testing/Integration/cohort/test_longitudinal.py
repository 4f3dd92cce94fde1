"""Times of one head with a known change: found, and the same in any order."""

from __future__ import annotations

import itertools
import json

import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
from pointsets import moved
from wavemorph import Settings
from wavemorph.cohort import compare_times
from wavemorph.cohort.longitudinal.synthetic import make_times
from wavemorph.errors import InputError

SETTINGS = Settings(weights="none")
PERCENT = 8.0


@pytest.fixture(scope="module")
def head():
    lattice = phantoms.regular((48, 52, 44), (2.2, 2.2, 2.2))
    return phantoms.head(lattice)


@pytest.fixture(scope="module")
def study(head, tmp_path_factory):
    """(folder with t0, t1 and labels of t0)"""
    folder = tmp_path_factory.mktemp("times")
    region = sitk.GetImageFromArray((np.linalg.norm(phantoms.physical_points(head), axis=-1) < 18).astype(np.uint8))
    region.CopyInformation(head)
    for number, scan in enumerate(make_times(head, region, (0.0, PERCENT), seed=3, spacing_mm=2.4)):
        sitk.WriteImage(scan.image, str(folder / f"t{number}.nii.gz"))
        if number == 0:
            back = sitk.Transform(scan.motion.GetInverse())
            labels = sitk.Resample(region, scan.image, back, sitk.sitkNearestNeighbor, 0)
            sitk.WriteImage(labels, str(folder / "labels.nii.gz"))
    return folder


def compared(study, order, output):
    times = [study / f"t{number}.nii.gz" for number in order]
    return compare_times(times, output, study / "labels.nii.gz", "t0", SETTINGS)


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    return tmp_path_factory.mktemp("found")


@pytest.fixture(scope="module")
def found(study, output):
    return compared(study, (0, 1), output)


def test_a_known_change_of_volume_is_found(found):
    first, second = found.volumes
    assert (first.time, second.time) == ("t0", "t1")
    assert first.percent == 0 and second.percent == pytest.approx(-PERCENT, abs=2.0)


def test_the_order_of_the_times_changes_nothing(study, found, tmp_path):
    reversed_order = compared(study, (1, 0), tmp_path)
    volumes = {each.time: each.volume_ml for each in found.volumes}
    for each in reversed_order.volumes:
        assert each.volume_ml == pytest.approx(volumes[each.time], rel=1e-3)


def test_maps_between_any_two_times_are_consistent(found, output):
    names = ("t0", "t1", "midway")
    maps = {
        (a, b): sitk.ReadTransform(str(output / "maps" / f"{a}_to_{b}.h5")) for a, b in itertools.permutations(names, 2)
    }
    points = np.random.default_rng(0).uniform(-25, 25, (100, 3))
    for a, b, c in itertools.permutations(names):
        direct, around = moved(maps[a, c], points), moved(maps[b, c], moved(maps[a, b], points))
        assert np.linalg.norm(direct - around, axis=1).max() < 0.1
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    assert report["times"][1]["verdict_against_first"]["level"] in ("good", "check")
    lines = (output / "volumes.tsv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "structure\ttime\tvolume_ml\tpercent_change" and len(lines) == 3


def test_what_cannot_be_compared_is_refused(study, tmp_path):
    with pytest.raises(InputError, match="2 to 20 times, not 1"):
        compare_times([study / "t0.nii.gz"], tmp_path, settings=SETTINGS)
    with pytest.raises(InputError, match='no time "t7"'):
        compare_times([study / "t0.nii.gz", study / "t1.nii.gz"], tmp_path, study / "labels.nii.gz", "t7", SETTINGS)


def test_labels_that_may_belong_to_two_times_are_refused(study, tmp_path):
    copy = tmp_path / "copy.nii.gz"
    copy.write_bytes((study / "t0.nii.gz").read_bytes())
    with pytest.raises(InputError, match="t0 and copy have their voxels"):
        compare_times([study / "t0.nii.gz", copy], tmp_path / "made", study / "labels.nii.gz", settings=SETTINGS)
