"""Several pairs: in order, one after another or at once, a failing one beside the others."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import wavemorph
from wavemorph import Settings, register_many
from wavemorph.errors import Cancelled, InputError, SettingsError
from wavemorph.registration import many

QUICK = Settings(spacing_mm=6.0, weights="none", affine=False, preset="Balanced")


@pytest.fixture(scope="module")
def single(tiny_pair):
    return wavemorph.register(*tiny_pair, QUICK)


@pytest.mark.parametrize("at_once", [None, 3])
def test_results_are_in_the_order_of_the_pairs_and_a_failing_pair_has_its_error_there(tiny_pair, single, at_once):
    fixed, moving = tiny_pair
    mask = sitk.Cast(fixed > 1e9, sitk.sitkUInt8)
    stages = {}
    results = register_many(
        [
            (fixed, moving),
            ("nowhere.nii.gz", moving),
            {"fixed": fixed, "moving": moving, "fixed_mask": mask},
            [moving, fixed],
        ],
        QUICK,
        lambda number, stage, fraction, message: stages.setdefault(number, []).append(fraction),
        at_once=at_once,
    )
    assert [isinstance(result, Exception) for result in results] == [False, True, True, False]
    assert isinstance(results[1], InputError) and "nowhere.nii.gz" in str(results[1])
    assert isinstance(results[2], InputError) and "mask" in str(results[2])
    found, expected = (sitk.GetArrayFromImage(each.displacement) for each in (results[0], single))
    assert np.abs(found - expected).max() < 1e-3
    assert results[3].fixed is moving
    assert stages[0][-1] == stages[3][-1] == 1.0 and stages[0] == sorted(stages[0])


def test_an_unexpected_error_stays_with_its_pair_too():
    def register(settings, progress, fixed, moving):
        if moving == 1:
            raise ZeroDivisionError
        return fixed

    pairs = [{"fixed": n, "moving": n} for n in range(3)]
    for at_once in (1, 2):
        first, second, third = many.register_many(register, pairs, QUICK, print, at_once)
        assert (first, third) == (0, 2)
        assert isinstance(second, ZeroDivisionError)


@pytest.mark.parametrize("at_once", [1, 2])
def test_canceling_ends_all_pairs(tiny_pair, at_once):
    begun = []

    def cancel(number, stage, fraction, message):
        begun.append(number)
        raise Cancelled("Canceled.")

    with pytest.raises(Cancelled):
        register_many([tiny_pair] * 5, QUICK, cancel, at_once=at_once)
    assert len(begun) == 1


def test_a_pair_at_work_ends_at_its_next_report_and_no_other_begins_once_one_is_canceled():
    begun, canceled = [], threading.Event()

    def register(settings, progress, fixed, moving):
        begun.append(moving)
        if moving == 0:
            assert canceled.wait(60)
        progress("Preparing", 0.0, "")

    def cancel(number, stage, fraction, message):
        assert number == 1
        canceled.set()
        raise Cancelled("Canceled.")

    with pytest.raises(Cancelled):
        many.register_many(register, [{"fixed": n, "moving": n} for n in range(5)], QUICK, cancel, 2)
    assert sorted(begun) == [0, 1]


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([("a", "b"), ("a",)], "Pair 2 must be (fixed, moving) or a dictionary of arguments, not tuple of 1."),
        (["ab"], "Pair 1 must be (fixed, moving) or a dictionary of arguments, not str."),
        ([{"fixed": "a"}], "Pair 1 has no 'moving'; its arguments may be fixed, moving,"),
        ([{"fixed": "a", "moving": "b", "mask": "c"}], "Pair 1 has the unknown argument 'mask'; its arguments may be"),
    ],
)
def test_what_is_no_pair_is_refused_before_any_pair_is_registered(pairs, expected):
    with pytest.raises(InputError) as raised:
        register_many(pairs, QUICK, lambda *report: pytest.fail("begun"))
    assert str(raised.value).startswith(expected)


def test_no_pairs_give_no_results_and_less_than_one_at_once_is_refused(tiny_pair):
    assert register_many([], QUICK) == []
    with pytest.raises(SettingsError, match="at least 1, not 0"):
        register_many([tiny_pair], QUICK, at_once=0)


@pytest.fixture
def cuda(monkeypatch):
    """A GPU that holds three pairs of usual size, with the streams that threads have taken."""
    taken = []
    monkeypatch.setattr(many, "choose_device", lambda name: torch.device("cuda", 1))
    monkeypatch.setattr(many, "voxel_budget", lambda device: 3 * many._USUAL_VOXELS + 5)
    monkeypatch.setattr(many, "_load_models", lambda settings, device: taken.append("models"))
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: (device, threading.get_ident()))
    monkeypatch.setattr(torch.cuda, "set_stream", taken.append)
    return taken


def test_a_gpu_holds_as_many_pairs_as_fit_in_three_streams_each_with_its_part_of_the_memory(cuda):
    together, seen, threads = threading.Barrier(3, timeout=20), [], set()

    def register(settings, progress, fixed, moving):
        together.wait()  # fails unless three are at work at the same time
        seen.append(settings)
        threads.add(threading.get_ident())
        return fixed

    pairs = [{"fixed": number, "moving": number} for number in range(6)]
    assert many.register_many(register, pairs, QUICK, print) == list(range(6))
    assert cuda[0] == "models"  # before any stream
    assert {stream for _, stream in cuda[1:]} == threads and len(cuda[1:]) == 3
    assert all(device == torch.device("cuda", 1) for device, _ in cuda[1:])
    assert {each.device for each in seen} == {"cuda:1"}
    assert {each.max_voxels for each in seen} == {(3 * many._USUAL_VOXELS + 5) // 3}


def test_one_pair_on_a_gpu_needs_no_stream_and_has_all_of_its_memory(cuda):
    seen = []
    assert many.register_many(lambda settings, **pair: seen.append(settings), [{}], QUICK, print) == [None]
    assert cuda == []
    assert seen[0].max_voxels is None
