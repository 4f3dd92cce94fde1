"""Synthetic pairs of bodies: each follows from its number alone, and its truth and its weight are right."""

from __future__ import annotations

import pytest
import torch
from wavemorph.spatial.displacement import warp
from wavemorph.training import synthetic_bodies
from wavemorph.training.body_anatomy import FIRST_OTHER, INDEX, OTHERS, TISSUES, draw_anatomy
from wavemorph.training.synthetic_bodies import KINDS, SyntheticBodies, draw_clean_tones, draw_part, draw_tones
from wavemorph.training.synthetic_pairs import SIZE, Draw

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bodies():
    return SyntheticBodies(seed=5)


@pytest.fixture(scope="module")
def first_of_kind(bodies):
    """The first pair of each kind."""
    numbers = {kind: next(n for n in range(100) if bodies.kind(n) == kind) for kind in KINDS}
    return {kind: (number, bodies[number]) for kind, number in numbers.items()}


def test_a_pair_of_bodies_depends_on_seed_and_index_alone(bodies, first_of_kind):
    number, pair = first_of_kind["torso"]
    again, other_seed = SyntheticBodies(seed=5)[number], SyntheticBodies(seed=6)[number]
    for part in ("fixed", "moving", "fixed_target", "moving_target", "weight", "truth"):
        assert torch.equal(getattr(pair, part), getattr(again, part)), part
    assert not torch.equal(pair.fixed, other_seed.fixed)
    assert not torch.equal(pair.fixed, first_of_kind["limb"][1].fixed)


def test_kinds_are_drawn_as_often_as_they_should_be(bodies):
    drawn = [bodies.kind(n) for n in range(400)]
    for kind, fraction in KINDS.items():
        assert drawn.count(kind) / 400 == pytest.approx(fraction, abs=0.08), kind


@pytest.mark.parametrize("kind", KINDS)
def test_the_truth_of_a_pair_of_bodies_aligns_what_the_loss_compares(first_of_kind, kind):
    _, pair = first_of_kind[kind]
    before, after = (
        float(((pair.fixed_target - moving) ** 2 * pair.weight).sum())
        for moving in (pair.moving_target, warp(pair.moving_target, pair.truth))
    )
    assert after < 0.4 * before
    assert 0.05 < float(pair.weight.mean()) < 1
    for image in (pair.fixed, pair.moving):
        assert image.shape == (1, 1, *SIZE)
        assert 0 <= float(image.min()) <= float(image.max()) <= 1.2 + 1e-6
        assert float(image.std()) > 0.05


def test_what_one_of_both_scans_does_not_show_has_no_weight(monkeypatch):
    middle = SIZE[0] // 2
    shown = torch.zeros(1, 1, *SIZE)
    shown[:, :, :middle] = 1
    calls = []

    def lower_half(draw, image):
        calls.append(image)
        return image, shown

    monkeypatch.setattr(synthetic_bodies, "draw_part", lower_half)
    bodies = SyntheticBodies(seed=5)
    for number in range(20):
        calls.clear()
        pair = bodies[number]
        if len(calls) == 2:
            break
    assert len(calls) == 2
    weighted = pair.weight[0, 0] > 0
    assert weighted.any()
    k = torch.arange(SIZE[0]).view(-1, 1, 1).expand(SIZE)[weighted]
    assert int(k.max()) < middle
    assert float((k + pair.truth[0, 0][weighted]).max()) < middle


def test_beyond_a_partial_scan_the_values_of_its_faces_go_on():
    ramp = torch.linspace(0, 1, SIZE[1]).view(1, 1, 1, -1, 1).expand(1, 1, *SIZE)
    cut = 0
    for seed in range(6):
        image, scanned = draw_part(Draw(seed, CPU), ramp)
        assert torch.allclose(image[scanned > 0], ramp[scanned > 0], atol=1e-4)
        step = 2 / (SIZE[1] - 1)
        assert float(image.max()) <= float(ramp[scanned > 0].max()) + step
        assert float(image.min()) >= float(ramp[scanned > 0].min()) - step
        cut += float(scanned.mean()) < 0.9
    assert cut >= 2


def test_every_named_tissue_is_in_one_of_the_anatomies_and_only_torso_and_limb_have_bones_with_marrow():
    found: dict[str, set[int]] = {}
    for kind in KINDS:
        anatomies = [draw_anatomy(Draw(seed, CPU), CPU, kind, is_inside=False) for seed in range(4)]
        found[kind] = {int(label) for anatomy in anatomies for label in anatomy.labels.unique()}
        assert max(found[kind]) < FIRST_OTHER + OTHERS
        assert all(INDEX["air"] in anatomy.labels for anatomy in anatomies)
    assert set.union(*found.values()) >= set(INDEX.values())
    assert {kind for kind in KINDS if INDEX["marrow"] in found[kind]} == {"torso", "limb"}


def test_two_people_differ_in_the_gas_of_their_bowel_and_nowhere_outside_of_it():
    anatomy = draw_anatomy(Draw(1, CPU), CPU, "torso", is_inside=False)
    assert anatomy.hollow.any()
    draw = Draw(3, CPU)
    people = [anatomy.of_one_subject(draw).labels for _ in range(2)]
    gas = [labels == INDEX["gas"] for labels in people]
    assert not torch.equal(*gas)
    assert not ((gas[0] ^ gas[1]) & ~anatomy.hollow).any()
    mass = FIRST_OTHER + OTHERS - 1
    changed = (people[0] != anatomy.labels) & ~anatomy.hollow
    assert set(people[0][changed].tolist()) <= {mass}


def test_ct_orders_tissues_by_density_and_the_compared_contrast_tells_every_tissue_apart():
    for seed in range(5):
        ct = dict(zip(TISSUES, draw_tones(Draw(seed, CPU), is_ct=True).tolist()))
        assert 0 <= ct["air"] <= ct["lung"] <= ct["fat"] < ct["muscle"] < ct["bone"] <= 1
        mr = dict(zip(TISSUES, draw_tones(Draw(seed, CPU), is_ct=False).tolist()))
        assert max(mr["air"], mr["gas"]) < 0.05 < mr["muscle"]
        clean = draw_clean_tones(Draw(seed, CPU))
        assert len(clean) == FIRST_OTHER + OTHERS
        assert len(clean.unique()) == len(clean)
        assert float(clean[0]) == 0
