"""`register`: cancellation, threads, limits of memory, and what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
import torch
from pointsets import shift_error
from wavemorph import Settings, register
from wavemorph.errors import Cancelled, InputError, OutOfMemoryError, SettingsError
from wavemorph.registration.deformable import stage as deformable_stage
from wavemorph.registration.linear import stage as linear_stage

QUICK = Settings(spacing_mm=4.0, weights="none")


@pytest.mark.parametrize("stop_at", ["Affine", "Refinement", "Finishing"])
def test_a_registration_can_be_cancelled_at_each_stage(tiny_pair, monkeypatch, stop_at):
    monkeypatch.setattr(linear_stage, "estimate_affine", lambda *_, **__: sitk.AffineTransform(3))

    def progress(stage, fraction, message):
        if stage == stop_at:
            raise Cancelled("Cancelled.")

    with pytest.raises(Cancelled):
        register(*tiny_pair, QUICK, progress)


def test_the_number_of_threads_is_used_and_restored(tiny_pair):
    before = torch.get_num_threads(), sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    result = register(*tiny_pair, dataclasses.replace(QUICK, threads=2, affine=False, spacing_mm=7.0))
    assert result.report["device"]["threads"] == 2
    assert (torch.get_num_threads(), sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()) == before


def test_the_grid_is_coarser_with_a_note_where_the_voxels_are_limited(tiny_pair):
    result = register(*tiny_pair, dataclasses.replace(QUICK, spacing_mm=2.0, max_voxels=10000, affine=False))
    assert np.prod(result.working_jacobian.GetSize()) <= 10000
    assert any("at most 10000 voxels" in sentence for sentence in result.report["notes"])
    assert result.report["warnings"] == []


def test_a_registration_needs_no_bridge_between_numpy_and_torch(tiny_pair, monkeypatch):
    """torch has none where it was built for another ABI of numpy, as on some Macs."""

    def fail(*arguments, **options):
        raise RuntimeError("Numpy is not available")

    monkeypatch.setattr(torch, "from_numpy", fail)
    for name in ("numpy", "__array__"):
        monkeypatch.setattr(torch.Tensor, name, fail)
    result = register(*tiny_pair, Settings(spacing_mm=5.0, affine=False, inverse=True, error_map=True))
    assert result.report["displacement_mm"]["max"] > 1


@pytest.mark.parametrize(
    "failure",
    [
        MemoryError(),
        RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_where_memory_runs_out_a_coarser_grid_is_used_with_a_note(tiny_pair, monkeypatch, failure):
    calls, optimize = [], deformable_stage.optimize

    def refuse_once(problem, *rest):
        calls.append(problem.fixed.shape)
        if len(calls) == 1:
            raise failure
        return optimize(problem, *rest)

    monkeypatch.setattr(deformable_stage, "optimize", refuse_once)
    result = register(*tiny_pair, dataclasses.replace(QUICK, spacing_mm=2.5, affine=False))
    assert np.prod(calls[1]) < np.prod(calls[0])
    assert any("Memory ran out at 2.50 mm" in sentence for sentence in result.report["notes"])
    assert shift_error(result) < 1.0


def test_memory_that_never_suffices_ends_in_one_sentence(tiny_pair, monkeypatch):
    def refuse(*_):
        raise MemoryError

    monkeypatch.setattr(deformable_stage, "optimize", refuse)
    with pytest.raises(OutOfMemoryError, match="not enough memory even for a working grid"):
        register(*tiny_pair, dataclasses.replace(QUICK, affine=False))


def test_other_errors_are_not_taken_for_memory(tiny_pair, monkeypatch):
    def break_(*_):
        raise RuntimeError("something else")

    monkeypatch.setattr(deformable_stage, "optimize", break_)
    with pytest.raises(RuntimeError, match="something else"):
        register(*tiny_pair, dataclasses.replace(QUICK, affine=False))


def test_volumes_that_do_not_overlap_are_refused(tiny_pair):
    fixed, moving = tiny_pair
    far = sitk.Image(moving)
    far.SetOrigin((500.0, 0.0, 0.0))
    with pytest.raises(InputError, match="do not overlap"):
        register(fixed, far, dataclasses.replace(QUICK, affine=False))


def test_instant_without_a_model_is_refused(tiny_pair):
    with pytest.raises(SettingsError, match="Instant needs a model"):
        register(*tiny_pair, Settings(preset="instant", weights="none"))


def test_the_working_grid_lies_around_the_mask_where_planes_without_data_were_cut_away():
    lattice = phantoms.regular(size=(30, 32, 44), spacing=(2.5, 2.5, 2.5))
    values = sitk.GetArrayFromImage(phantoms.head(lattice, noise=0.01))
    values[:20] = 0
    image, mask = sitk.GetImageFromArray(values), sitk.Image(lattice)
    image.CopyInformation(lattice)
    mask[8:22, 8:24, 21:36] = 1
    result = register(image, image, dataclasses.replace(QUICK, affine=False), fixed_mask=mask)
    grid = result.working_jacobian
    for corner in ((8, 8, 21), (21, 23, 35)):
        point = lattice.TransformIndexToPhysicalPoint(corner)
        index = np.array(grid.TransformPhysicalPointToContinuousIndex(point))
        assert np.all(index >= 0) and np.all(index <= np.array(grid.GetSize()) - 1)
