"""Outputs whole or not at all, and transforms on disk that map points as they did in memory."""

from __future__ import annotations

import json
import os
import stat
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from wavemorph.errors import OutOfMemoryError, OutputError
from wavemorph.io.outputs import (
    IMAGE_EXTENSIONS,
    TRANSFORM_EXTENSIONS,
    Outputs,
    field_lattice,
    flattened_field,
    write_image,
    write_inverse,
    write_json,
    write_transform,
)
from wavemorph.io.result import Registration
from wavemorph.io.transforms import read_transform
from wavemorph.system.private_folders import lock_folder, unlock

TEXT = (".json", ".csv")


def lattice_image(array, spacing, origin, axis, angle, flips=(1, 1, 1), vector=False):
    image = sitk.GetImageFromArray(array, isVector=vector)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    direction = np.reshape(sitk.VersorTransform(axis, angle).GetMatrix(), (3, 3)) * flips
    image.SetDirection(direction.ravel().tolist())
    return image


@pytest.fixture
def registration():
    """An affine and a displacement on an oblique lattice that covers only the middle of the fixed image."""
    random = np.random.default_rng(0)
    vectors = np.zeros((10, 11, 12, 3), np.float32)
    vectors[1:-1, 1:-1, 1:-1] = random.normal(size=(8, 9, 10, 3))
    displacement = lattice_image(
        vectors, (2.0, 2.5, 3.0), (-8.0, 8.0, -10.0), (0.1, 0.2, 1.0), 0.3, (-1, -1, 1), vector=True
    )
    fixed = lattice_image(
        random.random((20, 22, 24)).astype(np.float32), (1.5, 1.4, 1.9), (-30.0, -15.0, -18.0), (0.1, 0.2, 1.0), 0.3
    )
    affine = sitk.AffineTransform(3)
    affine.SetMatrix((1.05, 0.02, 0.0, -0.03, 0.97, 0.01, 0.02, 0.0, 1.1))
    affine.SetTranslation((4.0, -3.0, 2.0))
    scalar = sitk.Image(displacement.GetSize(), sitk.sitkFloat32)
    return Registration(affine, displacement, displacement, displacement, scalar, fixed=fixed)


def points_in(image, count=300):
    indices = np.random.default_rng(1).uniform(-0.5, np.array(image.GetSize()) - 0.5, (count, 3))
    return [image.TransformContinuousIndexToPhysicalPoint(index.tolist()) for index in indices]


def farthest(first, second, points):
    return max(np.linalg.norm(np.subtract(first.TransformPoint(p), second.TransformPoint(p))) for p in points)


def writes(text):
    return lambda result, path: Path(path).write_text(text if result is None else result)


def fails(error):
    def writer(result, path):
        Path(path).write_text("half")
        raise error

    return writer


def test_the_flattened_field_maps_points_as_the_transform_does_all_over_the_fixed_image(registration):
    lattice = field_lattice(registration)
    field = flattened_field(registration.transform, lattice)
    assert field.GetPixelID() == sitk.sitkVectorFloat32
    single = sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))
    assert farthest(single, registration.transform, points_in(registration.fixed)) < 1e-4


def test_the_lattice_of_the_field_continues_that_of_the_displacement(registration):
    lattice, displacement = field_lattice(registration), registration.displacement
    assert lattice.GetSpacing() == displacement.GetSpacing()
    assert lattice.GetDirection() == displacement.GetDirection()
    offset = displacement.TransformPhysicalPointToContinuousIndex(lattice.GetOrigin())
    assert np.allclose(offset, np.rint(offset))
    size = np.array(registration.fixed.GetSize())
    for corner in np.ndindex(2, 2, 2):
        point = registration.fixed.TransformContinuousIndexToPhysicalPoint((corner * (size + 1) - 1.0).tolist())
        index = np.array(lattice.TransformPhysicalPointToContinuousIndex(point))
        assert np.all(index >= -1e-9)
        assert np.all(index <= np.array(lattice.GetSize()) - 1 + 1e-9)
    ends = displacement.TransformIndexToPhysicalPoint([n - 1 for n in displacement.GetSize()])
    assert np.all(np.array(lattice.TransformPhysicalPointToContinuousIndex(ends)) <= np.array(lattice.GetSize()) - 0.99)


def test_a_registration_loaded_from_disk_has_the_same_lattice(registration, tmp_path):
    registration.moving = registration.fixed
    registration.save(tmp_path)
    loaded, lattice = field_lattice(Registration.load(tmp_path)), field_lattice(registration)
    assert loaded.GetSize() == lattice.GetSize()
    assert loaded.GetOrigin() == pytest.approx(lattice.GetOrigin())


@pytest.mark.parametrize("extension", TRANSFORM_EXTENSIONS)
def test_a_transform_read_back_maps_points_as_before(registration, tmp_path, extension):
    path = tmp_path / f"fixed_to_moving{extension}"
    write_transform(registration, path)
    allowed = 0.01 if extension in IMAGE_EXTENSIONS else 1e-9  # fields are rounded
    assert farthest(read_transform(path), registration.transform, points_in(registration.fixed)) < allowed


def test_nested_composites_are_written_flat_and_not_changed(registration, tmp_path):
    shift = sitk.TranslationTransform(3, (1.0, 2.0, 3.0))
    nested = sitk.CompositeTransform([shift, sitk.Transform(registration.transform)])
    for extension in (".h5", ".tfm"):
        write_transform(nested, tmp_path / f"map{extension}")
        written = read_transform(tmp_path / f"map{extension}")
        assert farthest(written, nested, points_in(registration.fixed)) < 1e-9
    assert nested.GetNumberOfTransforms() == 2


def test_the_inverse_in_a_transform_file_maps_moving_points_to_fixed_points(registration, tmp_path):
    write_inverse(registration, tmp_path / "moving_to_fixed.h5")
    written = read_transform(tmp_path / "moving_to_fixed.h5")
    assert farthest(written, registration.inverse, points_in(registration.fixed)) < 1e-9


@pytest.mark.parametrize("extension", IMAGE_EXTENSIONS)
@pytest.mark.parametrize("seed", [0, 3])
def test_the_inverse_as_a_field_on_disk_returns_points_of_the_fixed_image(
    random_registration, tmp_path, extension, seed
):
    registration = random_registration(seed)
    write_inverse(registration, tmp_path / f"moving_to_fixed{extension}")
    written = read_transform(tmp_path / f"moving_to_fixed{extension}")
    points = points_in(registration.fixed)
    ends = [registration.transform.TransformPoint(point) for point in points]
    distances = [np.linalg.norm(np.subtract(written.TransformPoint(y), x)) for x, y in zip(points, ends)]
    assert np.mean(distances) < 0.03 and np.max(distances) < 0.4  # voxels of 4 mm


def test_the_field_of_the_inverse_covers_the_moving_image(registration, tmp_path):
    registration.moving = lattice_image(
        np.zeros((15, 14, 13), np.float32), (1.7, 2.1, 1.3), (-9.0, -12.0, -6.0), (0.3, 0.1, 1.0), -0.4
    )
    write_inverse(registration, tmp_path / "moving_to_fixed.nrrd")
    field = sitk.ReadImage(str(tmp_path / "moving_to_fixed.nrrd"))
    corners = [registration.moving.TransformIndexToPhysicalPoint(corner) for corner in ((0, 0, 0), (12, 13, 14))]
    for point in corners:
        index = np.array(field.TransformPhysicalPointToContinuousIndex(point))
        assert np.all(index >= 0)
        assert np.all(index <= np.array(field.GetSize()) - 1)


def test_a_field_without_a_lattice_is_refused(tmp_path):
    with pytest.raises(OutputError, match="lattice"):
        write_transform(sitk.Transform(), tmp_path / "field.nrrd")


def cut_short(write):
    def cutting(content, path, *arguments, **options):
        write(content, path, *arguments, **options)
        os.truncate(path, os.path.getsize(path) // 2)

    return cutting


@pytest.mark.parametrize("extension", [".nii", ".nii.gz"])
def test_a_nifti_file_that_did_not_fit_on_the_disk_is_noticed(registration, tmp_path, monkeypatch, extension):
    write_image(registration.fixed, tmp_path / f"whole{extension}")
    monkeypatch.setattr(sitk, "WriteImage", cut_short(sitk.WriteImage))
    with pytest.raises(OutputError, match="disk full"):
        write_image(registration.fixed, tmp_path / f"cut{extension}")


def test_a_text_transform_that_did_not_fit_on_the_disk_is_noticed(registration, tmp_path, monkeypatch):
    monkeypatch.setattr(sitk, "WriteTransform", cut_short(sitk.WriteTransform))
    with pytest.raises(OutputError, match="disk full"):
        write_transform(registration, tmp_path / "map.tfm")


def test_json_is_strict_utf_8(tmp_path):
    write_json({"name": "Müller", "dice": 0.5}, tmp_path / "report.json")
    text = (tmp_path / "report.json").read_bytes().decode("utf-8")
    assert "Müller" in text
    assert json.loads(text) == {"name": "Müller", "dice": 0.5}
    with pytest.raises(ValueError, match="JSON"):
        write_json({"dice": float("nan")}, tmp_path / "bad.json")


def test_all_outputs_are_written_with_the_result(tmp_path):
    outputs = Outputs()
    outputs.add(tmp_path / "a.json", writes(""), TEXT)
    outputs.add(tmp_path / "new" / "folder" / "b.csv", writes(""), TEXT)
    assert not (tmp_path / "new").exists()
    assert outputs.write("42") == [tmp_path / "a.json", tmp_path / "new" / "folder" / "b.csv"]
    assert (tmp_path / "a.json").read_text() == (tmp_path / "new" / "folder" / "b.csv").read_text() == "42"
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.json", "b.csv", "folder", "new"]


def test_writers_get_a_private_folder_beside_the_file_and_the_same_extension(tmp_path):
    paths = []

    def writer(result, path):
        paths.append(Path(path))
        assert stat.S_IMODE(Path(path).parent.stat().st_mode) == 0o700
        Path(path).write_text("x")

    outputs = Outputs()
    outputs.add(tmp_path / "map.nii.gz", writer, (".gz", ".nii.gz"))
    outputs.add(tmp_path / "points.mrk.json", writer, (".json", ".mrk.json"))
    outputs.write()
    for path, extension in zip(paths, (".nii.gz", ".mrk.json")):
        assert path.parent.parent == tmp_path
        assert path.name.endswith(extension)
        assert not path.parent.exists()


def test_new_files_have_the_usual_permissions(tmp_path):
    (tmp_path / "usual").write_text("x")
    outputs = Outputs()
    outputs.add(tmp_path / "a.json", writes("x"), TEXT)
    outputs.write()
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("ITK ERROR: no"), KeyError("x")]
)
def test_nothing_changes_when_one_writer_fails(tmp_path, error):
    (tmp_path / "old.json").write_text("old")
    outputs = Outputs()
    outputs.add(tmp_path / "old.json", writes("new"), TEXT)
    outputs.add(tmp_path / "new" / "first.json", writes("new"), TEXT)
    outputs.add(tmp_path / "second.json", fails(error), TEXT, "report")
    with pytest.raises(KeyError if isinstance(error, KeyError) else OutputError):
        outputs.write()
    assert (tmp_path / "old.json").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["old.json"]


@pytest.mark.parametrize("links", [True, False])
def test_previous_contents_come_back_when_a_file_cannot_be_put_in_place(tmp_path, monkeypatch, links):
    (tmp_path / "a.json").write_text("old a")
    (tmp_path / "c.json").write_text("old c")
    outputs = Outputs()
    for name in "abc":
        outputs.add(tmp_path / f"{name}.json", writes("new"), TEXT)
    replace = os.replace

    def locked(source, target):
        if Path(target).name == "c.json" and Path(source).name != "previous":
            raise PermissionError(13, "Permission denied")
        replace(source, target)

    def no_links(source, target):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "replace", locked)
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(OutputError, match=r"c\.json.*Permission denied"):
        outputs.write()
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a.json": "old a", "c.json": "old c"}


def test_previous_contents_are_replaced_without_a_trace(tmp_path):
    (tmp_path / "a.json").write_text("old")
    outputs = Outputs()
    outputs.add(tmp_path / "a.json", writes("new"), TEXT)
    outputs.write()
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a.json": "new"}


def test_messages_name_the_file_that_was_asked_for(registration, tmp_path, monkeypatch):
    monkeypatch.setattr(sitk, "WriteImage", cut_short(sitk.WriteImage))
    outputs = Outputs()
    outputs.add(tmp_path / "warped.nii.gz", lambda result, path: write_image(result.fixed, path), (".nii.gz",))
    with pytest.raises(OutputError) as caught:
        outputs.write(registration)
    assert f'"{tmp_path / "warped.nii.gz"}"' in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_writer_that_writes_nothing_is_noticed(tmp_path):
    outputs = Outputs()
    outputs.add(tmp_path / "a.json", lambda result, path: None, TEXT)
    with pytest.raises(OutputError, match="missing or empty"):
        outputs.write()


def test_unknown_extensions_are_refused_with_those_supported(tmp_path):
    for name in ("a.xyz", "a", ".json"):
        with pytest.raises(OutputError, match=r"must end in one of \.json, \.csv"):
            Outputs().add(tmp_path / name, writes("x"), TEXT)


def test_folders_and_files_taken_for_folders_are_refused(tmp_path):
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        Outputs().add(tmp_path / "folder.json", writes("x"), TEXT)
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="is a file, not a folder"):
        Outputs().add(tmp_path / "file" / "deeper" / "a.json", writes("x"), TEXT)


def test_a_folder_in_which_no_file_can_be_made_is_refused(tmp_path, monkeypatch):
    def refuse(**options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(OutputError, match="Permission denied"):
        Outputs().add(tmp_path / "a.json", writes("x"), TEXT)


def test_a_write_protected_file_is_refused(tmp_path, monkeypatch):
    (tmp_path / "a.json").write_text("x")
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    with pytest.raises(OutputError, match="write-protected"):
        Outputs().add(tmp_path / "a.json", writes("x"), TEXT)


def test_inputs_are_never_overwritten_by_any_of_their_names(tmp_path):
    source = tmp_path / "fixed.json"
    source.write_text("x")
    (tmp_path / "link.json").symlink_to(source)
    os.link(source, tmp_path / "hard.json")
    for name in ("fixed.json", "link.json", "hard.json", "../" + tmp_path.name + "/fixed.json"):
        with pytest.raises(OutputError, match="would overwrite the input"):
            Outputs(inputs=[source]).add(tmp_path / name, writes("x"), TEXT)


def test_two_outputs_need_two_names(tmp_path):
    outputs = Outputs()
    outputs.add(tmp_path / "a.json", writes("x"), TEXT, "report")
    with pytest.raises(OutputError, match="both the report and the table"):
        outputs.add(f"{tmp_path}/./a.json", writes("x"), TEXT, "table")


def test_a_symbolic_link_stays_and_its_target_is_written(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.json").write_text("old")
    (tmp_path / "a.json").symlink_to(tmp_path / "real" / "a.json")
    outputs = Outputs()
    outputs.add(tmp_path / "a.json", writes("new"), TEXT)
    outputs.write()
    assert (tmp_path / "a.json").is_symlink()
    assert (tmp_path / "real" / "a.json").read_text() == "new"


@pytest.mark.parametrize("end", range(5))  # two removals and three renames
def test_a_killed_process_leaves_files_of_one_result_only(tmp_path, monkeypatch, end):
    """What is there before each change of the three files, as if the process ended then."""
    outputs, states = Outputs(), []
    for name in "abc":
        (tmp_path / f"{name}.json").write_text("old")
        outputs.add(tmp_path / f"{name}.json", writes("new"), TEXT)

    def watched(change):
        def changed(*arguments, **options):
            states.append({path.read_text() for path in tmp_path.glob("*.json")})
            return change(*arguments, **options)

        return changed

    monkeypatch.setattr(os, "replace", watched(os.replace))
    monkeypatch.setattr(Path, "unlink", watched(Path.unlink))
    outputs.write()
    assert len(states[end]) == 1
    assert {path.read_text() for path in tmp_path.glob("*.json")} == {"new"}


def test_two_processes_put_all_their_files_in_place_one_after_the_other(tmp_path, monkeypatch):
    """The second begins while the first has renamed one of three files."""
    order, replace, begun = [], os.replace, threading.Event()

    def slow(source, target):
        order.append(threading.current_thread().name)
        begun.set()
        time.sleep(0.05)
        replace(source, target)

    def write(text):
        outputs = Outputs()
        for name in "abc":
            outputs.add(tmp_path / f"{name}.json", writes(text), TEXT)
        outputs.write()

    monkeypatch.setattr(os, "replace", slow)
    first = threading.Thread(target=write, args=["first"], name="first")
    first.start()
    assert begun.wait(20)
    second = threading.Thread(target=write, args=["second"], name="second")
    second.start()
    first.join()
    second.join()
    assert order == 3 * ["first"] + 3 * ["second"]
    assert {path.read_text() for path in tmp_path.iterdir()} == {"second"}


def test_a_folder_that_another_process_does_not_leave_is_a_message(tmp_path, monkeypatch):
    monkeypatch.setattr("wavemorph.io.outputs._LOCK_SECONDS", 0.05)
    outputs = Outputs()
    outputs.add(tmp_path / "a.json", writes("x"), TEXT)
    lock = lock_folder(tmp_path)
    with pytest.raises(OutputError, match="Another process has been writing"):
        outputs.write()
    unlock(lock)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_in_the_folder_is_removed_before_the_work(tmp_path):
    (tmp_path / ".wavemorph-left").mkdir()
    (tmp_path / ".wavemorph-left" / "output.h5").write_text("half")
    Outputs().add(tmp_path / "new" / "a.json", writes("x"), TEXT)
    assert list(tmp_path.iterdir()) == []


def test_lack_of_memory_while_writing_is_not_called_a_full_disk(tmp_path):
    outputs = Outputs()
    outputs.add(tmp_path / "a.json", fails(RuntimeError("ITK ERROR: Failed to allocate memory for image.")), TEXT)
    with pytest.raises(OutOfMemoryError, match="memory ran out"):
        outputs.write()
    assert list(tmp_path.iterdir()) == []


def test_two_files_of_the_same_field_are_equal(registration, tmp_path):
    """A compressed file holds neither its name nor the time."""
    for name in ("a", "b"):
        write_transform(registration, tmp_path / f"{name}.nii.gz")
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
