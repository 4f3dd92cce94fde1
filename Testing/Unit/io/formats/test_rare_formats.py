"""Image files of formats that a C++ library decodes: in a process of their own, whose end is one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

import numpy as np
import pytest
import SimpleITK as sitk
from hostile.images import written
from wavemorph.errors import InputError, OutOfMemoryError
from wavemorph.io.files import refuse_lack_of_memory
from wavemorph.io.formats import decoding, isolation
from wavemorph.io.formats.dicom import multiframe
from wavemorph.io.reading import read_lattice, read_volume

pytestmark = pytest.mark.skipif(os.name == "nt", reason="stands a shell script in for the interpreter")


@pytest.fixture
def tif(tmp_path, monkeypatch):
    """A valid file, beside an empty folder for temporary files."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    path = tmp_path / "volume.tif"
    path.write_bytes(written(".tif", "u1"))
    return path


def stand_in(tmp_path, monkeypatch, script: str) -> None:
    """A script in place of the interpreter that decodes; $4 is the decoded file."""
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(path))


@pytest.mark.parametrize("extension", [".tif", ".mrc", ".vtk"])
def test_a_volume_of_a_rare_format_is_what_itk_reads(tmp_path, extension):
    path = tmp_path / f"volume{extension}"
    path.write_bytes(written(extension, "u1"))
    expected = sitk.ReadImage(str(path))
    found = read_volume(path).image
    assert np.array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(expected))
    assert found.GetPixelID() == expected.GetPixelID()
    lattice = read_lattice(path)
    for image in (found, lattice):
        assert np.allclose(image.GetSpacing(), expected.GetSpacing())
        assert np.allclose(image.GetOrigin(), expected.GetOrigin())
        assert np.allclose(image.GetDirection(), expected.GetDirection())


def test_a_flat_picture_is_refused_by_what_it_is(tmp_path):
    path = tmp_path / "picture.png"
    sitk.WriteImage(sitk.Image(8, 8, sitk.sitkUInt8), str(path))
    with pytest.raises(InputError, match="picture"):
        read_volume(path)


def test_what_the_decoder_refuses_is_its_sentence(tif):
    tif.write_bytes(tif.read_bytes()[:60])
    with pytest.raises(InputError, match=r'image "volume.tif" .*\.$'):
        read_volume(tif)
    assert not any((tif.parent / "temporary").iterdir())


@pytest.mark.parametrize(
    ("script", "what"),
    [("kill -SEGV $$", "crashed .SIGSEGV."), ("kill -XCPU $$", "took too long"), ("exit 3", "ended with code 3")],
)
def test_a_decoder_that_dies_is_one_sentence(tif, monkeypatch, script, what):
    stand_in(tif.parent, monkeypatch, script)
    before = tif.read_bytes()
    with pytest.raises(InputError, match=rf'"volume.tif" cannot be read: .* {what}; .*\.nii\.gz.*\.$'):
        read_volume(tif)
    assert tif.read_bytes() == before
    assert not any((tif.parent / "temporary").iterdir())


def test_a_decoder_that_hangs_is_ended(tif, monkeypatch):
    monkeypatch.setattr(isolation, "_SECONDS", 0.3)
    stand_in(tif.parent, monkeypatch, "exec sleep 60")
    with pytest.raises(InputError, match="took too long"):
        read_volume(tif)


def test_a_decoder_that_cannot_be_started_is_one_sentence(tif, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tif.parent / "missing"))
    with pytest.raises(InputError, match="could not be started"):
        read_volume(tif)


def test_a_lack_of_memory_does_not_blame_the_file(tif, monkeypatch):
    def without_memory(*_):
        raise RuntimeError("Failed to allocate memory for image.")

    monkeypatch.setattr(decoding, "load_image", without_memory)
    monkeypatch.setattr(decoding, "_limit", lambda *_: None)  # of this process
    monkeypatch.setattr(isolation, "run_decoder", lambda *given: decoding.decode(*given[:3]))
    with pytest.raises(OutOfMemoryError, match="Memory ran out while the image"):
        read_volume(tif)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as Linux does")
def test_the_decoder_cannot_take_more_memory_than_its_limit(tmp_path):
    script = (
        "from wavemorph.io.formats import decoding\n"
        "decoding._limit(1 << 28, 5)\n"
        "try:\n    bytearray(1 << 29)\nexcept MemoryError:\n    print('refused')\n"
        "decoding._limit(1 << 30, 5)\nprint(len(bytearray(1 << 29)))\n"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ))
    assert done.stdout.split() == ["refused", str(1 << 29)]


def test_a_lack_of_memory_in_a_dicom_file_of_frames_does_not_blame_the_file(tif, monkeypatch):
    pydicom = pytest.importorskip("pydicom")

    def without_memory(*_, **__):
        raise MemoryError

    monkeypatch.setattr(pydicom, "dcmread", without_memory)
    with pytest.raises(OutOfMemoryError):
        multiframe.EnhancedFile(tif, 'image "frames.dcm"')
    refuse_lack_of_memory(ValueError("damaged"), "image")  # any other error is left to the caller
