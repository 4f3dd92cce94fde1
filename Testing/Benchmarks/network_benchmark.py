"""What the networks contribute, in tables: against optimization alone, other contrasts, ablation, peers.

network_benchmark.py start [--fixed F --moving M --fixed-labels FL --moving-labels ML] [--pairs 18] [--spacing 1.5]
network_benchmark.py contrast --fixed T1 --moving PD [--pairs 5]
network_benchmark.py orientation --fixed F --moving M
network_benchmark.py ablation [--fixed ... as above] [--pairs 60]
network_benchmark.py peers [--fixed ... as above] [--pairs 60]
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np
import SimpleITK as sitk
import torch
import unet
import wavemorph
from wavemorph.cli import demo
from wavemorph.evaluation import metrics as evaluation
from wavemorph.io.images import read_labels
from wavemorph.models.weights import resolve_segmentation_model
from wavemorph.network import WaveMorphNetwork
from wavemorph.registration import schedules
from wavemorph.registration.deformable.inference import predict
from wavemorph.registration.deformable.optimizer import PyramidLevel
from wavemorph.registration.linear.mutual_information import estimate_affine
from wavemorph.registration.linear.structures import align_structures
from wavemorph.registration.segmentation.brain import BrainSegmentation
from wavemorph.registration.segmentation.inference import SegmentationInput, segment
from wavemorph.spatial.displacement import resize, warp
from wavemorph.spatial.grid import tensor_from_array
from wavemorph.spatial.preprocessing import foreground
from wavemorph.system.machine import choose_device, freed_memory_kept
from wavemorph.training.known_deformation import Difference, make_pair
from wavemorph.training.loop import Trainer
from wavemorph.training.recipe import RECIPES, Recipe
from wavemorph.training.synthetic_pairs import SPACING_MM, SyntheticPairs, load_template

RAS = np.diag([-1.0, -1.0, 1.0])
CUBE = 240  # voxels of 1 mm along each side
ORIENTATIONS = (
    (0, 0, 0), (15, 0, 0), (45, 0, 0), (30, -30, 30), (60, 0, 0), (-60, 0, 0), (0, 75, 0), (90, 0, 0), (-90, 0, 0),
    (0, 90, 0), (0, -90, 0), (0, 0, 90), (0, 0, 180), (0, 180, 0), (180, 0, 0), (60, 40, 50), (120, 30, 20),
    (-100, 0, 70),
)  # fmt: skip
ROTATIONS = ((0, 0, 0), (20, 0, 0), (0, -20, 15), (-25, 15, 20))  # degrees about x, y and z, resampled


def read(path: str) -> sitk.Image:
    return sitk.ReadImage(path, sitk.sitkFloat32)


def affine_of(fixed: sitk.Image, moving: sitk.Image) -> sitk.AffineTransform:
    return estimate_affine(fixed, moving, foreground(fixed), foreground(moving))


def start(options: argparse.Namespace) -> None:
    """With the networks against optimization from zero without any, each from the volumes to the result.

    Both take the same time: real pairs by Balanced with the networks, synthetic ones, where the affine by mutual
    information takes long, by Precise; from zero by so many more iterations than Balanced's as take that long.
    """
    different_contrast, balanced = schedules._DIFFERENT_CONTRAST, schedules._WITHOUT_NETWORK["Balanced"]
    longer = {
        "Balanced": dataclasses.replace(
            different_contrast["Balanced"], levels=(PyramidLevel(4, 80), PyramidLevel(2, 90)), tolerance=0.0
        )
    }
    template = sitk.Cast(read(str(demo.template_path())), sitk.sitkFloat32)
    cases = []
    if options.fixed:
        roles = [(options.fixed, options.fixed_labels), (options.moving, options.moving_labels)]
        for (fixed, fixed_labels), (moving, moving_labels) in (roles, roles[::-1]):
            labels = read_labels(fixed_labels), read_labels(moving_labels)

            for angles in ROTATIONS if options.first == 0 else ():
                rotation = sitk.Euler3DTransform()
                rotation.SetCenter(_center(labels[1]))
                rotation.SetRotation(*np.radians(angles).tolist())
                rotated = [
                    sitk.Resample(image, image, rotation, interpolator, 0.0)
                    for image, interpolator in ((read(moving), sitk.sitkLinear), (labels[1], sitk.sitkNearestNeighbor))
                ]

                def dice(transform, labels=(labels[0], rotated[1])):
                    return evaluation.label_report(*labels, transform)["mean_common"]["dice_after"]

                name = (
                    f"{Path(moving).name.split('.')[0]} rotated by {angles} to {Path(fixed).name.split('.')[0]}, Dice"
                )
                cases.append((name, read(fixed), rotated[0], dice))
    for seed in range(options.first, options.first + options.pairs):
        difference = Difference(
            deformation_mm=3.0 + seed % 3,
            scales_mm=((40.0, 20.0), (30.0, 12.0))[seed % 2],
            rotation=4.0,
            gamma=(0.7, 1.0, 1.6)[seed % 3],
            noise=(0.01, 0.03)[seed % 2],
            reversed_contrast=seed % 4 == 3,
        )
        pair = make_pair(template, difference, 100 + seed)
        name = f"template {seed}{', contrast reversed' if difference.reversed_contrast else ''}, error mm"
        cases.append((name, pair.fixed, pair.moving, lambda transform, pair=pair: pair.error_mm(transform).mean()))

    print("| pair | before | Instant | s | from zero | s | with the networks | s |", "|---" * 8 + "|", sep="\n")
    rows = []
    for name, fixed, moving, score in cases:
        cells = [score(sitk.AffineTransform(3))]
        real = name.endswith("Dice")
        for preset, weights in (("Instant", "auto"), ("Balanced", "none"), ("Balanced" if real else "Precise", "auto")):
            settings = wavemorph.Settings(preset=preset, weights=weights, spacing_mm=options.spacing)
            levels = (PyramidLevel(4, 50), PyramidLevel(2, 40), PyramidLevel(1, 6 if real else 5))
            changed = {
                "_WITHOUT_NETWORK": {"Balanced": dataclasses.replace(balanced, levels=levels, tolerance=0.0)},
                "_DIFFERENT_CONTRAST": longer if weights == "none" else different_contrast,
            }
            with mock.patch.multiple(schedules, **changed):
                result = wavemorph.register(fixed, moving, settings)
            cells += [score(result.transform), result.report["seconds"]["total"]]
        print(f"| {name} | {_cells(cells)} |", flush=True)
        rows.append([*cells, name])
    for ending, better in (("Dice", np.greater), ("error mm", np.less)):
        chosen = np.array([row[:-1] for row in rows if row[-1].endswith(ending)])
        if len(chosen):
            won = int(better(chosen[:, 5], chosen[:, 3]).sum())
            print(f"| **mean, {ending}** | {_cells(chosen.mean(0))} |")
            print(f"\nWith the networks better in {won} of {len(chosen)} ({ending}).\n")


def _center(image: sitk.Image) -> tuple[float, ...]:
    return image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])


def _cells(numbers) -> str:
    """Scores with three digits, and after each but the first its seconds."""
    return " | ".join(f"{value:.1f}" if n in (2, 4, 6) else f"{value:.3f}" for n, value in enumerate(numbers))


def contrast(options: argparse.Namespace) -> None:
    """Two contrasts of one head, one of them deformed in a known way: the network alone, from the affine without it."""
    fixed, other = read(options.fixed), read(options.moving)
    aligned = affine_of(fixed, other)
    print("| deformation | before, mm | Instant | 95 % | with its own affine stage | folded |")
    print("|---" * 6 + "|")
    for seed in range(options.pairs):
        same = Difference(
            rotation=2.0, translation_mm=2.0, scale=0.02, gamma=1.0, bias=0.0, noise=0.0, obliqueness=0.0,
            spacing_mm=other.GetSpacing(),
        )  # fmt: skip
        pair = make_pair(other, same, 200 + seed)
        alone = wavemorph.Settings(preset="Instant", affine=False)
        result = wavemorph.register(fixed, pair.moving, alone, initial_transform=aligned)
        searched = wavemorph.register(fixed, pair.moving, wavemorph.Settings(preset="Instant"))
        # the volumes may show more or less of the neck: the error is known only where both show tissue
        mask = foreground(fixed) & sitk.Resample(foreground(other), fixed, aligned, sitk.sitkNearestNeighbor)
        indices = np.argwhere(sitk.GetArrayViewFromImage(mask))[:, ::-1]
        indices = indices[np.random.default_rng(0).choice(len(indices), 3000, replace=False)]
        points = [mask.TransformIndexToPhysicalPoint(index.tolist()) for index in indices]
        true = np.array([pair.truth.TransformPoint(aligned.TransformPoint(point)) for point in points])

        def error(transform, points=points, true=true):
            found = np.array([transform.TransformPoint(point) for point in points])
            return np.linalg.norm(found - true, axis=1)

        ended = error(result.transform)
        print(
            f"| {seed} | {error(aligned).mean():.2f} | {ended.mean():.2f} | {np.percentile(ended, 95):.2f} | "
            f"{error(searched.transform).mean():.2f} | {result.report['folding']['strict_voxels']} |",
            flush=True,
        )


def orientation(options: argparse.Namespace) -> None:
    """In which orientations the structures of the moving head are segmented and aligned to those of the fixed head."""
    model = resolve_segmentation_model(choose_device(options.device))
    fixed, moving = read(options.fixed), read(options.moving)

    def segmentation_of(image: sitk.Image) -> BrainSegmentation | None:
        return segment(SegmentationInput(model.network, image, foreground(image), model.card.extra["atlas"]))

    fixed_segmentation, corner = segmentation_of(fixed), np.array(_center(moving)) - RAS @ np.full(3, (CUBE - 1) / 2)
    print("| rotated by | overlap of the structures after the affine | s to segment |", "|---" * 3 + "|", sep="\n")
    for angles in ORIENTATIONS:
        rotation = sitk.Euler3DTransform()
        rotation.SetCenter(_center(moving))
        rotation.SetRotation(*np.radians(angles).tolist())
        # in a cube of voxels of 1 mm, so that no part of the head is cut off
        cube = (rotation, sitk.sitkLinear, corner.tolist(), (1.0,) * 3, RAS.ravel().tolist(), 0.0)
        rotated, since = sitk.Resample(moving, (CUBE,) * 3, *cube), time.monotonic()
        found = segmentation_of(rotated)
        seconds = time.monotonic() - since
        dice = "not found" if found is None else f"{align_structures(fixed_segmentation, found)[1]:.3f}"
        print(f"| {angles} | {dice} | {seconds:.1f} |", flush=True)


def ablation(options: argparse.Namespace) -> None:
    """Four variants of the default network with the same budget, scored on other synthetic pairs and on real ones."""
    device = choose_device(options.device)
    template = load_template()
    unseen = SyntheticPairs(template, seed=999, device=device)
    brains = _brains_at_training_spacing(options) if options.fixed else []
    print("| downsampling | upsampling | parameters | error mm, 12 synthetic pairs | Dice, real | training s |")
    print("|---" * 6 + "|")
    for downsampling in ("mswf", "max"):
        for upsampling in ("dysample", "trilinear"):
            recipe = RECIPES["wavemorph"]
            network = dataclasses.replace(
                recipe.network, downsampling=downsampling, upsampling=upsampling, passes_mm=(4.0, 4.0, 2.0)
            )
            recipe = dataclasses.replace(recipe, network=network, pairs=options.pairs)
            model, seconds = _trained(recipe, SyntheticPairs(template, 0, device), device)
            errors, dices, _ = _scores(model, unseen, brains)
            real = f"{np.mean(dices):.3f}" if dices else "-"
            print(
                f"| {downsampling} | {upsampling} | {_parameters(model):,} | {np.mean(errors):.3f} | {real} | "
                f"{seconds:.0f} |",
                flush=True,
            )


def peers(options: argparse.Namespace) -> None:
    """Our default network and a U-Net, on the same pairs with the same loss: for as many pairs, and as many steps."""
    device = choose_device(options.device)
    template = load_template()
    brains = _brains_at_training_spacing(options) if options.fixed else []
    recipe = dataclasses.replace(RECIPES["wavemorph"], pairs=options.pairs)
    steps = options.pairs * len(recipe.network.passes_mm)
    once = dataclasses.replace(recipe, network=dataclasses.replace(recipe.network, passes_mm=()), pairs=steps)
    print("| network | pairs | parameters | training s a pair | s to register one | error mm, unseen | Dice, real |")
    print("|---" * 7 + "|")
    for name, chosen, network in (
        ("WaveMorph", recipe, WaveMorphNetwork),
        ("U-Net, the same passes", recipe, unet.UNet),
        ("U-Net, one pass, as many steps", once, unet.UNet),
    ):
        torch.manual_seed(chosen.seed)
        source = SyntheticPairs(template, 0, device)
        model, seconds = _trained(chosen, source, device, network(chosen.network))
        errors, dices, each = _scores(model, SyntheticPairs(template, 999, device), brains)
        real = f"{np.mean(dices):.3f}" if dices else "-"
        print(
            f"| {name} | {chosen.pairs} | {_parameters(model):,} | {seconds / chosen.pairs:.2f} | {each:.2f} | "
            f"{np.mean(errors):.3f} | {real} |",
            flush=True,
        )


def _trained(recipe: Recipe, source, device: torch.device, network: torch.nn.Module | None = None):
    """(the network, seconds): trained by the recipe from the start to the end."""
    since = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(recipe, source, Path(folder), device, network)
        trainer.run()
    return trainer.network.eval(), time.monotonic() - since


def _scores(model: torch.nn.Module, unseen, brains: list, count: int = 12) -> tuple[list, list, float]:
    """(mm on synthetic pairs, Dice on real ones, seconds a prediction), all on the lattice of the training."""
    errors, dices, seconds = [], [], 0.0
    with torch.inference_mode():
        for index in range(count):
            pair, since = unseen[index], time.monotonic()
            found, _ = predict(model, pair.fixed, pair.moving, SPACING_MM)
            off = (found - pair.truth).square().sum(1, keepdim=True).sqrt() * SPACING_MM
            errors.append(float((off * pair.weight).sum() / pair.weight.sum()))
            seconds += time.monotonic() - since
        for fixed, moving, fixed_labels, moving_labels in brains:
            found, _ = predict(model, fixed, moving, SPACING_MM)
            whole = resize(found, tuple(fixed_labels.shape[2:]))
            dices.append(_mean_dice(fixed_labels, warp(moving_labels, whole, mode="nearest")))
    return errors, dices, seconds / count


def _parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _brains_at_training_spacing(options: argparse.Namespace) -> list:
    """Two aligned volumes on one 1 mm lattice, in both directions: images at half resolution, labels at full."""

    def tensor(image):
        return tensor_from_array(sitk.GetArrayFromImage(image))[None, None]

    volumes = [tensor(sitk.DICOMOrient(read(path), "RAS")) for path in (options.fixed, options.moving)]
    labels = [
        tensor(sitk.DICOMOrient(sitk.Cast(read_labels(path), sitk.sitkFloat32), "RAS"))
        for path in (options.fixed_labels, options.moving_labels)
    ]
    half = [torch.nn.functional.avg_pool3d(v / torch.quantile(v[v > 0][::50], 0.995), 2).clamp(0, 1.2) for v in volumes]
    return [(half[0], half[1], *labels), (half[1], half[0], *labels[::-1])]


def _mean_dice(a: torch.Tensor, b: torch.Tensor) -> float:
    present = [int(n) for n in torch.unique(a) if n > 0]
    return float(np.mean([float(2 * ((a == n) & (b == n)).sum() / ((a == n).sum() + (b == n).sum())) for n in present]))


TABLES = {
    "start": start,
    "contrast": contrast,
    "orientation": orientation,
    "ablation": ablation,
    "peers": peers,
}
PAIRS = {"start": 18, "contrast": 5, "ablation": 60, "peers": 60}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=list(TABLES))
    for name in ("fixed", "moving", "fixed-labels", "moving-labels"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--pairs", type=int)
    parser.add_argument("--first", type=int, default=0, help="seed of the first synthetic pair")
    parser.add_argument("--spacing", type=float, help="mm of the working grid; by default that of the engine")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    options.pairs = options.pairs or PAIRS.get(options.table)
    if options.table in ("contrast", "orientation") and not (options.fixed and options.moving):
        parser.error(f"{options.table} needs --fixed and --moving, two heads or two contrasts of one")
    with freed_memory_kept():
        TABLES[options.table](options)


if __name__ == "__main__":
    main()
