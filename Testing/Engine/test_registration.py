"""The whole road in memory: what `register` returns, for whatever is given to it."""

from __future__ import annotations

import dataclasses

import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
import torch
import wavemorph
from wavemorph import Settings, register, registration
from wavemorph.errors import Cancelled, InputError, OutOfMemoryError, SettingsError
from wavemorph.images import read_transform
from wavemorph.network import NetworkConfig, WaveMorphNetwork
from wavemorph.outputs import TRANSFORM_EXTENSIONS, write_inverse, write_transform
from wavemorph.refinement import Level
from wavemorph.weights import ModelCard, save_model

SEEDS = range(20)
QUICK = Settings(spacing_mm=4.0, weights="none")
SHIFT = np.array([4.0, 0.0, 3.0])  # of `tiny_pair`: moving = fixed + SHIFT, LPS mm


def points_of(image: sitk.Image, count: int = 1000, margin: float = 0.0) -> np.ndarray:
    """Random places in the image, LPS mm; `margin` is a share of its sides."""
    size = np.array(image.GetSize())
    low, high = margin * size - 0.5, (1 - margin) * size - 0.5
    places = np.random.default_rng(5).uniform(low, high, (count, 3))
    return np.array([image.TransformContinuousIndexToPhysicalPoint(place.tolist()) for place in places])


def moved(transform: sitk.Transform, points: np.ndarray) -> np.ndarray:
    return np.array([transform.TransformPoint(point.tolist()) for point in points])


def voxels_and_place(image: sitk.Image):
    return sitk.GetArrayFromImage(image).tobytes(), image.GetOrigin(), image.GetSpacing(), image.GetDirection()


def brain_points(count: int = 200) -> np.ndarray:
    """Points inside the phantom's head, which is an ellipsoid of radii 30, 36 and 28 mm."""
    directions = np.random.default_rng(2).standard_normal((count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return directions * np.random.default_rng(3).uniform(2, 25, (count, 1))


def shift_error(result) -> float:
    points = brain_points()
    return float(np.linalg.norm(moved(result.transform, points) - points - SHIFT, axis=1).mean())


@pytest.mark.parametrize("seed", SEEDS)
def test_files_read_by_simpleitk_move_points_as_the_engine_does(random_registration, seed, tmp_path):
    result = random_registration(seed)
    points = points_of(result.fixed)
    expected = moved(result.transform, points)
    assert np.abs(expected - points).max() > 2
    for extension in (".h5", ".nii.gz"):
        write_transform(result, tmp_path / f"t{extension}")
        read = read_transform(tmp_path / f"t{extension}")
        assert np.linalg.norm(moved(read, points) - expected, axis=1).max() < 0.01


@pytest.mark.parametrize("seed", SEEDS)
def test_the_warped_volume_is_what_simpleitk_resamples_with_the_file(random_registration, seed, tmp_path):
    result = random_registration(seed)
    write_transform(result, tmp_path / "t.h5")
    transform = sitk.ReadTransform(str(tmp_path / "t.h5"))
    expected = sitk.GetArrayFromImage(sitk.Resample(result.moving, result.fixed, transform, sitk.sitkLinear, 0.0))
    warped = sitk.GetArrayFromImage(result.warped)
    assert np.abs(warped - expected).max() <= 1e-3 * np.ptp(sitk.GetArrayViewFromImage(result.moving))
    assert result.warped.GetDirection() == result.fixed.GetDirection()
    assert result.warped.GetOrigin() == result.fixed.GetOrigin()


@pytest.mark.parametrize("seed", SEEDS)
def test_in_every_geometry_the_map_is_right_and_does_not_fold(random_registration, seed):
    result = random_registration(seed)
    points = brain_points() + phantoms.centre_of(result.fixed)
    centre = phantoms.centre_of(result.fixed)
    truth = points + moved(result.affine, centre[None])[0] - centre + phantoms.OFFSET  # the moving head is not turned
    before = np.linalg.norm(moved(result.affine, points) - truth, axis=1).mean()
    after = np.linalg.norm(moved(result.transform, points) - truth, axis=1).mean()
    assert after < 1.2 < 3.0 < before
    assert result.report["folding"]["strict_voxels"] == result.report["folding"]["central_voxels"] == 0


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_there_and_back_ends_within_a_tenth_of_a_voxel(random_registration, seed):
    result = random_registration(seed)
    points = points_of(result.fixed, margin=0.2)
    back = moved(result.inverse, moved(result.transform, points))
    distances = np.linalg.norm(back - points, axis=1)
    assert distances.max() < 0.1 * 4.0
    assert distances.mean() < 0.02 * 4.0


def test_the_affine_stage_and_the_deformation_find_a_known_shift(tiny_pair):
    fixed, moving = tiny_pair
    result = register(fixed, moving, QUICK)
    assert shift_error(result) < 0.7
    back = np.linalg.norm(moved(result.inverse, brain_points() + SHIFT) - brain_points(), axis=1)
    assert back.mean() < 0.7
    assert result.report["similarity"]["after"] > 0.9
    assert result.report["warnings"] == []


def test_inputs_are_not_changed(tiny_pair):
    before = [voxels_and_place(image) for image in tiny_pair]
    register(*tiny_pair, QUICK)
    assert [voxels_and_place(image) for image in tiny_pair] == before


def test_the_same_inputs_give_the_same_transform(tiny_pair):
    first, second = (register(*tiny_pair, QUICK) for _ in range(2))
    assert np.allclose(first.affine.GetParameters(), second.affine.GetParameters(), rtol=0, atol=1e-9)
    fields = [sitk.GetArrayViewFromImage(result.displacement) for result in (first, second)]
    assert np.abs(fields[0] - fields[1]).max() < 1e-3


def test_a_pair_that_is_aligned_is_left_where_it_lies(tiny_pair):
    result = register(*tiny_pair, dataclasses.replace(QUICK, affine=False))
    assert result.affine.GetParameters() == sitk.AffineTransform(3).GetParameters()
    assert shift_error(result) < 1.0


def test_a_linear_initial_transform_is_where_the_affine_stage_starts(tiny_pair):
    fixed, moving = tiny_pair
    far = sitk.Image(moving)
    far.SetOrigin(np.add(moving.GetOrigin(), (300.0, 0.0, 0.0)).tolist())
    start = sitk.TranslationTransform(3, (301.0, 0.0, 0.0))
    result = register(fixed, far, QUICK, initial_transform=start)
    points = brain_points()
    errors = np.linalg.norm(moved(result.transform, points) - points - SHIFT - [300.0, 0.0, 0.0], axis=1)
    assert errors.mean() < 0.6


def test_a_deformable_initial_transform_is_kept_and_continued(tiny_pair):
    fixed, moving = tiny_pair
    lattice = sitk.Image(fixed.GetSize(), sitk.sitkVectorFloat64, 3)
    lattice.CopyInformation(fixed)
    bump = np.exp(-(phantoms.physical_points(fixed) ** 2).sum(-1) / (2 * 20.0**2))[..., None]
    field = sitk.GetImageFromArray(bump * np.array([2.0, 0.0, 1.5]) + SHIFT / 2, isVector=True)
    field.CopyInformation(fixed)
    start = sitk.DisplacementFieldTransform(field)
    result = register(fixed, moving, dataclasses.replace(QUICK, preset="Precise"), initial_transform=start)
    assert shift_error(result) < 0.6
    assert result.report["folding"]["strict_voxels"] == 0


def test_only_what_the_fixed_mask_marks_is_compared(tiny_pair):
    """A bright block beside the head moves in the other direction; masked out, it must not matter."""
    fixed, moving = tiny_pair
    disturbed = sitk.GetArrayFromImage(moving)
    places = phantoms.physical_points(moving)
    disturbed[(np.abs(places - (-20.0, 10.0, -10.0)) < 9).all(-1)] = 2000
    disturbed = sitk.GetImageFromArray(disturbed)
    disturbed.CopyInformation(moving)
    mask = sitk.GetImageFromArray((phantoms.physical_points(fixed)[..., 0] > -4).astype(np.uint8))
    mask.CopyInformation(fixed)
    points = brain_points()
    points = points[points[:, 0] > 2]

    def error(**masks):
        result = register(fixed, disturbed, dataclasses.replace(QUICK, affine=False), **masks)
        return np.linalg.norm(moved(result.transform, points) - points - SHIFT, axis=1).mean()

    masked = error(fixed_mask=mask)
    assert masked < 1.2
    moving_mask = sitk.GetImageFromArray((places[..., 0] > -1).astype(np.uint8))
    moving_mask.CopyInformation(moving)
    assert error(moving_mask=moving_mask) < 1.2


def test_a_reversed_contrast_is_registered(tiny_pair):
    fixed, moving = tiny_pair
    values = sitk.GetArrayFromImage(moving)
    inside = values > 150
    reversed_ = sitk.GetImageFromArray(np.where(inside, 1100 - values, values).astype(np.float32))
    reversed_.CopyInformation(moving)
    result = register(fixed, reversed_, Settings(spacing_mm=2.0, weights="none", contrast="different"))
    assert result.report["contrast"]["same"] is False
    assert shift_error(result) < 1.0


@pytest.mark.parametrize("similarity", ["lncc", "mind", "mi"])
def test_every_similarity_registers(tiny_pair, similarity):
    result = register(*tiny_pair, dataclasses.replace(QUICK, similarity=similarity, affine=False))
    assert shift_error(result) < 1.2
    assert result.report["settings"]["similarity"] == similarity


def test_labels_of_the_report_are_those_that_the_documentation_lists(tiny_pair):
    report = register(*tiny_pair, QUICK).report
    assert set(report) == {
        "similarity", "folding", "jacobian", "displacement_mm", "inverse_consistency_mm", "contrast", "anatomy",
        "wavemorph",
        "device", "versions", "settings", "peak_memory_mb", "inputs", "weights", "warnings", "seconds",
    }  # fmt: skip
    assert len(report["inputs"]["fixed"]["sha256"]) == 64
    assert report["weights"] is None
    assert report["peak_memory_mb"]["process"] > 50
    assert {"Preparing", "Affine", "Refinement", "Finishing", "total"} == set(report["seconds"])


def test_without_the_inverse_the_map_is_as_good_and_there_and_back_is_still_measured(tiny_pair):
    result = register(*tiny_pair, dataclasses.replace(QUICK, inverse=False))
    assert shift_error(result) < 1.2
    assert result.report["folding"]["strict_voxels"] == 0
    measured = result.report["inverse_consistency_mm"]
    assert measured["inverse"] == "iteration"
    assert measured["max"] < 0.1
    with pytest.raises(SettingsError, match="inverse=True"):
        _ = result.inverse


def test_the_inverse_that_was_asked_for_is_the_one_that_is_measured(tiny_pair):
    assert register(*tiny_pair, QUICK).report["inverse_consistency_mm"]["inverse"] == "fields"


def test_progress_goes_from_nothing_to_all_and_never_back(tiny_pair):
    told = []
    register(*tiny_pair, QUICK, lambda stage, fraction, message: told.append((stage, fraction)))
    fractions = [fraction for _, fraction in told]
    assert fractions == sorted(fractions)
    assert fractions[0] == 0
    assert fractions[-1] == 1
    assert list(dict.fromkeys(stage for stage, _ in told)) == ["Preparing", "Affine", "Refinement", "Finishing", "Done"]


def test_it_can_be_cancelled_at_each_stage(tiny_pair):
    for stop_at in ("Affine", "Refinement", "Finishing"):

        def progress(stage, fraction, message, stop_at=stop_at):
            if stage == stop_at:
                raise Cancelled("Cancelled.")

        with pytest.raises(Cancelled):
            register(*tiny_pair, QUICK, progress)


def test_the_number_of_threads_is_used_and_given_back(tiny_pair):
    before = torch.get_num_threads(), sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    result = register(*tiny_pair, dataclasses.replace(QUICK, threads=2, affine=False))
    assert result.report["device"]["threads"] == 2
    assert (torch.get_num_threads(), sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()) == before


def test_a_coarser_grid_is_taken_and_named_where_the_voxels_are_limited(tiny_pair):
    result = register(*tiny_pair, dataclasses.replace(QUICK, spacing_mm=2.0, max_voxels=10000, affine=False))
    assert np.prod(result.working_jacobian.GetSize()) <= 10000
    assert any("at most 10000 voxels" in sentence for sentence in result.report["warnings"])


@pytest.mark.parametrize("failure", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")])
def test_out_of_memory_is_tried_again_coarser_and_said(tiny_pair, monkeypatch, failure):
    calls, refine = [], registration.refine

    def refuse_once(fixed, *rest, **named):
        calls.append(fixed.shape)
        if len(calls) == 1:
            raise failure
        return refine(fixed, *rest, **named)

    monkeypatch.setattr(registration, "refine", refuse_once)
    result = register(*tiny_pair, dataclasses.replace(QUICK, spacing_mm=2.5, affine=False))
    assert np.prod(calls[1]) < np.prod(calls[0])
    assert any("Memory ran out at 2.50 mm" in sentence for sentence in result.report["warnings"])
    assert shift_error(result) < 1.0


def test_memory_that_never_suffices_ends_in_one_sentence(tiny_pair, monkeypatch):
    def refuse(*_, **named):
        raise MemoryError

    monkeypatch.setattr(registration, "refine", refuse)
    with pytest.raises(OutOfMemoryError, match="not enough memory even for a working grid"):
        register(*tiny_pair, dataclasses.replace(QUICK, affine=False))


def test_other_errors_are_not_taken_for_memory(tiny_pair, monkeypatch):
    def break_(*_, **named):
        raise RuntimeError("something else")

    monkeypatch.setattr(registration, "refine", break_)
    with pytest.raises(RuntimeError, match="something else"):
        register(*tiny_pair, dataclasses.replace(QUICK, affine=False))


def test_volumes_that_do_not_overlap_are_refused(tiny_pair):
    fixed, moving = tiny_pair
    far = sitk.Image(moving)
    far.SetOrigin((500.0, 0.0, 0.0))
    with pytest.raises(InputError, match="do not overlap"):
        register(fixed, far, dataclasses.replace(QUICK, affine=False))


def test_far_apart_volumes_are_brought_together_by_the_affine_stage(tiny_pair):
    fixed, moving = tiny_pair
    far = sitk.Image(moving)
    far.SetOrigin(np.add(moving.GetOrigin(), (400.0, -250.0, 100.0)).tolist())
    result = register(fixed, far, QUICK)
    points = brain_points()
    expected = points + SHIFT + [400.0, -250.0, 100.0]
    assert np.linalg.norm(moved(result.transform, points) - expected, axis=1).mean() < 0.8


@pytest.fixture
def model_file(tmp_path, monkeypatch):
    """A small network that predicts a smooth nonzero velocity, saved as a model, and believed without a check."""
    monkeypatch.setattr(registration, "_is_closer", lambda *_: True)
    config = NetworkConfig(channels=(4, 8, 8), kernels=(3, 3, 3, 1), bottleneck_blocks=1, dysample_groups=2)
    torch.manual_seed(0)
    network = WaveMorphNetwork(dataclasses.replace(config, flow_deviation=0.02))
    return save_model(network, ModelCard("tiny", "for tests", {}), tmp_path)


def test_instant_registers_by_the_network_alone(tiny_pair, model_file):
    stages = []
    settings = dataclasses.replace(QUICK, preset="Instant", weights=str(model_file))
    result = register(*tiny_pair, settings, lambda stage, *_: stages.append(stage))
    assert "Network" in stages
    assert "Refinement" not in stages
    assert result.velocity is not None
    assert result.report["weights"]["name"] == "tiny"
    assert result.report["displacement_mm"]["max"] > 0
    points = brain_points()
    assert np.linalg.norm(moved(result.inverse, moved(result.transform, points)) - points, axis=1).max() < 0.4


def test_refinement_starts_from_the_answer_of_the_network(tiny_pair, model_file, monkeypatch):
    starts, refine = [], registration.refine

    def spy(fixed, moving, weight, plan, make, start, *rest, **named):
        starts.append(start)
        return refine(fixed, moving, weight, plan, make, start, *rest, **named)

    monkeypatch.setattr(registration, "refine", spy)
    register(*tiny_pair, dataclasses.replace(QUICK, weights=str(model_file)))
    register(*tiny_pair, QUICK)
    assert starts[0].abs().max() > 0
    assert starts[1] is None


def test_instant_without_a_model_is_refused(tiny_pair):
    with pytest.raises(SettingsError, match="Instant needs a model"):
        register(*tiny_pair, Settings(preset="instant", weights="none"))


def test_settings_are_checked_when_they_are_made():
    assert Settings(preset="precise").preset == "Precise"
    for wrong in ({"preset": "Fast"}, {"threads": 0}, {"spacing_mm": 50.0}, {"max_voxels": 10}, {"device": "tpu"}):
        with pytest.raises(SettingsError):
            Settings(**wrong)
    assert Settings.from_dict(Settings(threads=3).to_dict()) == Settings(threads=3)
    with pytest.raises(SettingsError, match="Unknown setting 'speed'"):
        Settings.from_dict({"speed": 1})


def test_a_saved_result_is_the_same_after_loading(random_registration, tmp_path):
    result = random_registration(3)
    result.save(tmp_path)
    loaded = wavemorph.Registration.load(tmp_path)
    points = points_of(result.fixed, 100)
    assert np.allclose(moved(loaded.transform, points), moved(result.transform, points), atol=1e-5)
    assert np.allclose(moved(loaded.inverse, points), moved(result.inverse, points), atol=1e-5)
    for name in ("warped", "jacobian"):
        assert np.array_equal(*(sitk.GetArrayViewFromImage(getattr(r, name)) for r in (loaded, result)))
    assert loaded.report == result.report


def test_the_inverse_is_written_in_every_form(random_registration, tmp_path):
    result = random_registration(4)
    points = moved(result.transform, points_of(result.fixed, 100, margin=0.25))
    expected = moved(result.inverse, points)
    for extension in TRANSFORM_EXTENSIONS:
        path = tmp_path / f"inverse{extension}"
        write_inverse(result, path)
        exact = extension in (".h5", ".tfm", ".txt")
        error = np.linalg.norm(moved(read_transform(path), points) - expected, axis=1)
        assert error.max() < (1e-3 if exact else 0.3)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_jacobian_is_that_of_the_whole_map_in_space(random_registration, seed):
    """Against differences of the transform itself, one voxel to each side."""
    result = random_registration(seed)
    image = result.working_jacobian
    nodes = np.random.default_rng(seed).integers(2, np.array(image.GetSize()) - 2, (100, 3))
    for node in nodes:
        columns = []
        for axis in range(3):
            ends = [node + side * np.eye(3, dtype=int)[axis] for side in (1, -1)]
            ends = [image.TransformIndexToPhysicalPoint(end.tolist()) for end in ends]
            change = np.subtract(*[result.transform.TransformPoint(end) for end in ends])
            columns.append((change, np.subtract(*ends)))
        moving, fixed = (np.stack(parts, 1) for parts in zip(*columns))
        expected = np.linalg.det(moving) / np.linalg.det(fixed)
        assert image[node.tolist()] == pytest.approx(expected, abs=2e-3)


class OneStep:
    """A model that always answers with the same displacement: `voxels` upwards (S) in the middle, less around."""

    card, sha256 = ModelCard(name="one step", description="", config={}), "0" * 64

    def __init__(self, voxels: float):
        self.network, self.voxels = self, voxels
        self.config = NetworkConfig(channels=(4, 8), flow_level=0, output="displacement")

    def decode_symmetric(self, fixed, moving):
        step = torch.zeros(1, 3, *fixed.shape[2:])
        axes = [torch.linspace(-1, 1, n) for n in fixed.shape[2:]]
        k, j, i = torch.meshgrid(*axes, indexing="ij")
        step[0, 0] = self.voxels * (1 - k**2) * (1 - j**2) * (1 - i**2)
        return step


def test_an_answer_that_brings_the_two_no_closer_is_put_aside_and_said(monkeypatch):
    monkeypatch.setattr(registration, "resolve", lambda *_: OneStep(4.0))
    fixed = phantoms.head(phantoms.regular((48, 48, 48), (2.0, 2.0, 2.0)), (0.0, 0.0, 0.0))
    result = register(fixed, fixed, Settings(preset="Instant", spacing_mm=2.0, affine=False))
    assert result.report["displacement_mm"]["max"] < 1e-3
    assert any("did not bring the two closer" in warning for warning in result.report["warnings"])


def turned_and_bent(lattice: sitk.Image) -> sitk.Transform:
    """x -> affine(bend(x)): 20 degrees, 12 mm, and a wave of 4 mm."""
    affine = sitk.AffineTransform(3)
    affine.SetMatrix((1.05 * phantoms.rotation((0, 0, 20))).ravel().tolist())
    affine.SetTranslation((5.0, -8.0, 7.0))
    points = phantoms.physical_points(lattice)
    vectors = np.zeros_like(points)
    vectors[..., 0] = 4 * np.sin(points[..., 2] / 10)
    bend = sitk.GetImageFromArray(vectors, isVector=True)
    bend.CopyInformation(lattice)
    return sitk.CompositeTransform([affine, sitk.DisplacementFieldTransform(bend)])


@pytest.mark.parametrize("voxels", [0.0, 2.0])
def test_a_bent_initial_transform_is_kept_and_continued_on_the_fixed_side(monkeypatch, voxels):
    model = OneStep(voxels)
    monkeypatch.setattr(registration, "resolve", lambda *_: model)
    monkeypatch.setattr(registration, "_is_closer", lambda *_: True)
    lattice = phantoms.regular((64, 64, 64), (2.0, 2.0, 2.0))
    initial = turned_and_bent(lattice)
    fixed = phantoms.head(lattice, (0.0, 0.0, 0.0))
    turned_back = initial.GetNthTransform(0).GetInverse()
    moving = sitk.Resample(fixed, phantoms.regular((80, 80, 80), (2.0, 2.0, 2.0)), turned_back, sitk.sitkLinear)
    result = register(fixed, moving, Settings(preset="Instant", spacing_mm=2.0), initial_transform=initial)
    points = brain_points()
    step = np.zeros_like(points)
    if voxels:
        field = model.decode_symmetric(torch.zeros(1, 1, *result.working_jacobian.GetSize()[::-1]), None)[0, 0]
        at = [result.working_jacobian.TransformPhysicalPointToContinuousIndex(point.tolist()) for point in points]
        i, j, k = np.round(np.transpose(at)).astype(int)
        step[:, 2] = 2.0 * field.numpy()[k, j, i]
    expected = moved(initial, points + step)
    errors = np.linalg.norm(moved(result.transform, points) - expected, axis=1)
    assert errors.mean() < 0.2
    assert errors.max() < 0.6


@pytest.mark.parametrize(("similarity", "told"), [("lncc", True), ("mi", False)])
def test_only_a_correlation_tells_whether_the_two_are_alike(tiny_pair, similarity, told, monkeypatch):
    asked, whole = [], registration.refine

    def refine(fixed, moving, weight, plan, *rest, **more):
        asked.append(plan)
        return whole(fixed, moving, weight, plan, *rest, **more)

    monkeypatch.setattr(registration, "refine", refine)
    register(*tiny_pair, dataclasses.replace(QUICK, similarity=similarity, affine=False))
    assert [plan.alike < 1 for plan in asked] == [told]


def test_windows_are_smaller_and_stand_closer_where_the_two_are_alike():
    shifted = [torch.rand(1, 1, 24, 24, 24, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    weight = torch.zeros(1, 1, 24, 24, 24)
    weight[..., 12, 12, 12] = 1
    reached = []
    for alike in (False, True):
        make = registration._similarity_maker("auto", True)
        _, slope = make(shifted[0], weight, Level(2, 10), alike)(shifted[1])
        reached.append([int(n.max() - n.min() + 1) for n in slope.nonzero().T[2:]])
    assert reached == [[10] * 3, [5] * 3]


@pytest.mark.parametrize("preset", ["Balanced", "Precise"])
def test_only_the_plans_of_pairs_whose_tissues_are_seen_ask_for_tissues(preset):
    for same, close, tissues in np.ndindex(2, 2, 2):
        plan = registration._plans(bool(same), bool(close), bool(tissues))[preset]
        assert any(level.tissues for level in plan.levels) == bool(same and close and tissues)
