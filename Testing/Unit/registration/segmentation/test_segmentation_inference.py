"""What a network sees in one volume: the structures of the template, geometry against SimpleITK, noise unseen."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
import torch
import wavemorph
from wavemorph.cli.demo import template_path
from wavemorph.errors import Cancelled, InputError, SettingsError, WeightsError
from wavemorph.models import weights
from wavemorph.network import NetworkConfig, SegmentationNetwork, WaveMorphNetwork
from wavemorph.network.segmentation import STRUCTURES
from wavemorph.registration import pipeline as registration
from wavemorph.registration.linear.mutual_information import linear_part
from wavemorph.registration.linear.structures import align_structures
from wavemorph.registration.segmentation import inference as anatomy
from wavemorph.registration.segmentation.brain import BrainSegmentation
from wavemorph.registration.segmentation.inference import mean_dice, overlap, segment
from wavemorph.spatial.grid import WorkingGrid, image_from_tensor, make_working_grid
from wavemorph.spatial.preprocessing import foreground

RAS = np.diag([-1.0, -1.0, 1.0])


@pytest.fixture(scope="module")
def model():
    return weights.resolve_segmentation_model("cpu")


@pytest.fixture(scope="module")
def template():
    return sitk.Cast(sitk.ReadImage(str(template_path())), sitk.sitkFloat32)


def phantom(size, spacing) -> sitk.Image:
    empty = sitk.Image(list(size), sitk.sitkUInt8)
    empty.SetSpacing(spacing)
    return phantoms.head(empty, noise=5.0)


def blobs(grid: WorkingGrid, affine: sitk.Transform | None = None) -> BrainSegmentation:
    """Eleven round structures at fixed places in mm, the same for every grid, seen through `affine`."""
    generator = np.random.default_rng(3)
    middles = generator.uniform(-45, 45, (len(STRUCTURES) - 1, 3))
    k, j, i = np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij")
    points = np.stack([i, j, k], -1).reshape(-1, 3) @ grid.matrix[:3, :3].T + grid.origin
    if affine is not None:
        points = points @ np.reshape(affine.GetMatrix(), (3, 3)).T + affine.TransformPoint((0.0, 0.0, 0.0))
    distances = ((points[:, None] - middles) ** 2).sum(-1)
    shares = np.exp(-distances / (2 * 12.0**2))
    shares = shares / np.maximum(shares.sum(1, keepdims=True), 1) * 0.9
    whole = np.concatenate([1 - shares.sum(1, keepdims=True), shares], 1).T.reshape(1, -1, *grid.shape)
    return BrainSegmentation(torch.tensor(whole, dtype=torch.float32), grid, bare=True)


def sure_blobs(grid: WorkingGrid) -> tuple[BrainSegmentation, dict]:
    """The same structures with hardly a doubt, and the atlas in which they lie as they do here."""
    shares = blobs(grid).shares ** 8
    found = BrainSegmentation(shares / shares.sum(1, keepdim=True), grid, bare=True)
    middles, volumes = found.centers()[1:].tolist(), found.volumes_ml()[1:].tolist()
    return found, {name: [*middle, ml] for name, middle, ml in zip(STRUCTURES[1:], middles, volumes)}


def lattice(size=(36, 40, 38), spacing=4.0) -> WorkingGrid:
    origin = -RAS @ (np.array(size) - 1) * spacing / 2
    return WorkingGrid(size, (spacing,) * 3, tuple(origin.tolist()), RAS)


def affine_of(angles, scales, shift) -> sitk.AffineTransform:
    turn = sitk.Euler3DTransform()
    turn.SetRotation(*np.radians(angles))
    affine = sitk.AffineTransform(3)
    affine.SetMatrix((np.reshape(turn.GetMatrix(), (3, 3)) @ np.diag(scales)).ravel().tolist())
    affine.SetTranslation(shift)
    return affine


def test_structures_seen_through_an_affine_are_those_that_simpleitk_resamples():
    source = blobs(lattice())
    target = lattice(size=(30, 32, 28), spacing=3.0)
    affine = affine_of((8, -5, 12), (1.05, 0.95, 1.1), (4.0, -3.0, 6.0))
    found = source.on(target, affine, target.shape)
    for code in (1, 5, 11):
        image = image_from_tensor(source.shares[0, code], source.grid)
        expected = sitk.GetArrayFromImage(target.resample(image, affine, sitk.sitkLinear, 0.0))
        inside = (slice(4, -4),) * 3
        np.testing.assert_allclose(found[0, code].numpy()[inside], expected[inside], atol=1e-4)
    assert torch.allclose(found.sum(1), torch.ones(()), atol=1e-5)


def test_tissues_are_log_odds_of_sums_of_structures():
    source = blobs(lattice())
    tissues = source.tissues(source.grid, None, source.grid.shape).numpy()
    together = ([1, 5, 7, 10], [0, 3], [7, 10], [8, 9], [3, 4, 5, 11])
    assert tissues.shape[1] == len(together)
    for found, codes in zip(tissues[0], together):
        share = source.shares[0, codes].sum(0).double().numpy()
        with np.errstate(divide="ignore"):
            expected = np.clip(np.log(share / (1 - share)), -6, 6) / 12 + 0.5
        np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("angles", [(3, -4, 5), (28, 0, 0), (-20, 25, 30)])
def test_align_finds_an_affine_that_is_known(angles):
    truth = affine_of(angles, (1.08, 0.94, 1.02), (14.0, -10.0, 7.0))
    fixed, moving = blobs(lattice(), truth), blobs(lattice(size=(40, 42, 44)))
    found, reached = align_structures(fixed, moving)
    points = np.random.default_rng(0).uniform(-40, 40, (50, 3)).tolist()
    off = [np.linalg.norm(np.subtract(found.TransformPoint(p), truth.TransformPoint(p))) for p in points]
    assert max(off) < 1.0
    assert reached > 0.93
    assert reached == pytest.approx(overlap(fixed, moving, found))
    assert overlap(fixed, moving, sitk.AffineTransform(3)) < 0.7


def test_align_is_not_drawn_aside_by_what_lies_outside_the_moving_volume():
    truth = affine_of((4, 3, -6), (1.0, 1.03, 0.97), (3.0, 2.0, -4.0))
    whole = lattice(size=(40, 42, 44))
    low = dataclasses.replace(whole, size=(40, 42, 24), origin=whole.point((0, 0, 10)))
    found, _ = align_structures(blobs(lattice(), truth), blobs(low))
    points = np.random.default_rng(0).uniform(-25, 25, (50, 3)).tolist()
    off = [np.linalg.norm(np.subtract(found.TransformPoint(p), truth.TransformPoint(p))) for p in points]
    assert max(off) < 3.0


def test_mean_dice_is_one_for_the_same_and_plain_arithmetic_otherwise():
    shares = torch.rand(4, 3, 3, 3)
    assert mean_dice(shares, shares) == pytest.approx(1.0)
    other = torch.rand(4, 3, 3, 3)
    plain = [float(2 * torch.minimum(a, b).sum() / (a.sum() + b.sum())) for a, b in zip(shares[1:], other[1:])]
    assert mean_dice(shares, other) == pytest.approx(np.mean(plain), rel=1e-5)


@pytest.mark.parametrize("angles", [(0, 0, 0), (12, 25, -30), (-40, 5, 60)])
def test_the_axes_of_a_brain_are_found_from_where_its_structures_lie(angles):
    truth = affine_of(angles, (1.2, 0.9, 1.05), (14.0, -10.0, 7.0))
    middles = np.random.default_rng(3).uniform(-45, 45, (len(STRUCTURES) - 1, 3))
    middles[:, 0] = 0.0  # of both halves together
    grid = lattice(size=(40, 42, 44))
    shares = torch.zeros(1, len(STRUCTURES), *grid.shape)
    for code, middle in enumerate(middles.tolist(), 1):
        i, j, k = np.round(np.linalg.inv(grid.matrix) @ [*truth.TransformPoint(middle), 1])[:3].astype(int)
        shares[0, code, k, j, i] = 1.0
    atlas = {name: [*middle, 1.0] for name, middle in zip(STRUCTURES[1:], middles.tolist())}
    found = anatomy._upright(BrainSegmentation(shares, grid, bare=True), atlas)
    np.testing.assert_allclose(found.T @ found, np.eye(3), atol=1e-9)
    assert np.linalg.det(found) == pytest.approx(1)
    expected = np.reshape(affine_of(angles, (1, 1, 1), (0, 0, 0)).GetMatrix(), (3, 3)) @ RAS
    assert anatomy._degrees_between(found, expected) < 3.0


def test_of_several_looks_the_surest_counts_and_the_first_where_none_is_surer(monkeypatch):
    image, looks = phantom(size=(32, 36, 30), spacing=(3.0, 3.0, 3.0)), []
    found, atlas = sure_blobs(lattice())

    def less_and_less_sure(*_):
        even = torch.full_like(found.shares, 1 / found.shares.shape[1])
        looks.append(dataclasses.replace(found, shares=torch.lerp(found.shares, even, 0.002 * len(looks))))
        return looks[-1]

    monkeypatch.setattr(anatomy, "_look", less_and_less_sure)
    monkeypatch.setattr(anatomy, "_UPRIGHT_DEGREES", -1.0)
    surest = segment(_Pointwise(), image, foreground(image), atlas)
    assert len(looks) == anatomy._MOST_LOOKS * (1 + len(anatomy._OTHER_STARTS))
    assert surest.shares is looks[0].shares


class _Pointwise(torch.nn.Module):
    """In the place of the network: tells structures by the brightness of each place alone."""

    config = NetworkConfig(flow_level=1, output="anatomy", inputs="image")

    def __init__(self):
        super().__init__()
        self.sure = torch.nn.Parameter(torch.tensor(50.0))

    def forward(self, image):
        tones = torch.linspace(0, 1, len(STRUCTURES)).view(1, -1, 1, 1, 1)
        return -self.sure * (torch.nn.functional.avg_pool3d(image, 2) - tones) ** 2


def test_looking_at_the_mirrored_head_through_moved_lattices_tells_of_the_same_places(template):
    grid = make_working_grid(template, (np.array((20, 30, 40)), np.array((140, 190, 130))), 1.0, 2.0, 16)
    plain, again = (
        anatomy._look(_Pointwise(), template, foreground(template), grid, mirrored, ahead)
        for mirrored, ahead in ((False, 0), (True, 6))
    )
    assert float((plain.shares - again.shares).abs().max()) < 1e-5
    assert not torch.allclose(plain.shares, plain.shares.flip(-1), atol=0.1)


@pytest.mark.parametrize(("preset", "twice"), [("Balanced", False), ("Precise", True)])
def test_precise_looks_twice(preset, twice, monkeypatch):
    image, given = phantom(size=(32, 36, 30), spacing=(3.0, 3.0, 3.0)), []

    def look_once(*_, twice):
        given.append(twice)
        raise Cancelled

    monkeypatch.setattr(registration, "see", look_once)
    with pytest.raises(Cancelled):
        wavemorph.register(image, image, wavemorph.Settings(preset=preset))
    assert given == [twice]


def test_looking_can_be_stopped_before_each_look(monkeypatch):
    image, (found, atlas) = phantom(size=(32, 36, 30), spacing=(3.0, 3.0, 3.0)), sure_blobs(lattice())
    looks, pauses = [], []
    monkeypatch.setattr(anatomy, "_look", lambda *_: looks.append(1) or found)
    monkeypatch.setattr(anatomy, "_UPRIGHT_DEGREES", -1.0)

    def pause():
        pauses.append(len(pauses))
        if len(pauses) == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        segment(_Pointwise(), image, foreground(image), atlas, pause)
    assert pauses == [0, 1, 2]
    assert len(looks) == 2


def test_a_network_for_anatomy_wants_one_image_and_sides_it_can_halve():
    with pytest.raises(SettingsError, match="one image"):
        NetworkConfig(output="anatomy")
    with pytest.raises(SettingsError, match="one image"):
        NetworkConfig(inputs="image")
    network = SegmentationNetwork(NetworkConfig(channels=(4, 4, 8), output="anatomy", inputs="image"))
    assert network(torch.zeros(1, 1, 16, 12, 8)).shape == (1, len(STRUCTURES), 8, 6, 4)
    with pytest.raises(InputError, match="multiples of 4"):
        network(torch.zeros(1, 1, 15, 12, 8))


def test_the_model_of_structures_is_not_offered_for_registration(monkeypatch, tmp_path):
    assert weights.SEGMENTATION_MODEL not in [model.name for model in weights.list_models()]
    path = weights.SHIPPED_FOLDER / f"{weights.ANATOMY_MODEL}.safetensors"
    with pytest.raises(WeightsError, match="registers nothing"):
        weights.resolve(path, "cpu")
    monkeypatch.setattr(weights, "SHIPPED_FOLDER", tmp_path)
    assert weights.resolve_segmentation_model("cpu") is None
    shutil.copy(path, tmp_path)
    with pytest.raises(WeightsError, match="without their card"):
        weights.resolve_segmentation_model("cpu")


def test_without_networks_nothing_is_looked_for_and_the_report_says_so(monkeypatch):
    monkeypatch.setattr(registration, "see", lambda *_, **__: pytest.fail("looked"))
    image = phantom(size=(32, 36, 30), spacing=(3.0, 3.0, 3.0))
    settings = wavemorph.Settings(weights="none", affine=False, inverse=False, spacing_mm=4.0)
    assert wavemorph.register(image, image, settings).report["anatomy"] is None


def test_structures_decide_the_affine_only_where_they_are_seen_well(monkeypatch, template):
    image = sitk.Shrink(template, [4, 4, 4])
    pair = registration.Pair(image, image)
    far = affine_of((0, 0, 0), (1, 1, 1), (30.0, 0, 0))
    clock = registration._Clock(lambda *_: None)
    sights = registration.PairSegmentation(None, None, {})
    monkeypatch.setattr(registration, "estimate_affine", lambda *_, **__: sitk.AffineTransform(3))
    for reached, against, chosen in ((0.8, 0.75, far), (0.55, 0.5, None), (0.6, 0.2, far)):
        monkeypatch.setattr(registration, "align", lambda *_, reached=reached: (far, reached))
        monkeypatch.setattr(registration, "overlap", lambda *_, against=against: against)
        affine, _ = registration._affine_stage(pair, wavemorph.Settings(), None, sights, clock)
        assert linear_part(affine).GetTranslation() == (chosen or sitk.AffineTransform(3)).GetTranslation()


def test_memory_that_does_not_suffice_for_looking_leaves_the_registration_going(monkeypatch):
    called = []

    def exhausted(*_, **__):
        called.append(1)
        raise MemoryError

    monkeypatch.setattr(registration, "see", exhausted)
    image = phantom(size=(32, 36, 30), spacing=(3.0, 3.0, 3.0))
    result = wavemorph.register(image, image, wavemorph.Settings(affine=False, inverse=False, spacing_mm=4.0))
    assert called
    assert result.report["anatomy"] is None


def test_the_network_of_the_paper_keeps_its_own_head():
    assert isinstance(WaveMorphNetwork().flow, torch.nn.Conv3d)
    assert anatomy.STRUCTURES[0] == "outside"
