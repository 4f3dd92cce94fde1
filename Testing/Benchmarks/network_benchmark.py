"""What the network is worth, in tables: the start it gives, other contrasts, its parts, its speed in training.

    network_benchmark.py start [--fixed F --moving M --fixed-labels FL --moving-labels ML] [--pairs 18] [--spacing 1.5]
    network_benchmark.py contrast --fixed T1 --moving PD [--pairs 5]
    network_benchmark.py ablation [--fixed ... as above] [--pairs 60]
    network_benchmark.py throughput [--device cuda]
"""

from __future__ import annotations

import argparse
import dataclasses
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
import wavemorph
from wavemorph import demo, evaluation, field
from wavemorph.affine import estimate_affine
from wavemorph.geometry import tensor_from_array
from wavemorph.images import read_labels
from wavemorph.machine import choose_device, keep_freed_memory
from wavemorph.network.passes import predict
from wavemorph.preprocessing import foreground
from wavemorph.synthetic import Difference, make_pair
from wavemorph.training.anatomy import SIZE, SPACING_MM, SyntheticPairs, TrainingPair, load_template
from wavemorph.training.loop import Trainer
from wavemorph.training.recipe import RECIPES

PAPER_SIZE = (160, 192, 224)


def read(path: str) -> sitk.Image:
    return sitk.ReadImage(path, sitk.sitkFloat32)


def affine_of(fixed: sitk.Image, moving: sitk.Image) -> sitk.AffineTransform:
    return estimate_affine(fixed, moving, foreground(fixed), foreground(moving))


def start(options: argparse.Namespace) -> None:
    """Balanced from the network's answer against Balanced from zero, from the same affine."""
    template = sitk.Cast(read(str(demo.template_path())), sitk.sitkFloat32)
    cases = []
    if options.fixed:
        ends = [(options.fixed, options.fixed_labels), (options.moving, options.moving_labels)]
        for (fixed, fixed_labels), (moving, moving_labels) in (ends, ends[::-1]):
            labels = read_labels(fixed_labels), read_labels(moving_labels)

            def dice(transform, labels=labels):
                return evaluation.label_report(*labels, transform)["mean"]["dice_after"]

            cases.append((f"{Path(moving).name} to {Path(fixed).name}, Dice", read(fixed), read(moving), dice))
    for seed in range(options.pairs):
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

    print("| pair | affine | Instant | s | from zero | s | from the network | s |", "|---" * 8 + "|", sep="\n")
    rows = []
    for name, fixed, moving, score in cases:
        affine = affine_of(fixed, moving)
        cells = [score(affine)]
        for preset, weights in (("Instant", "auto"), ("Balanced", "none"), ("Balanced", "auto")):
            settings = wavemorph.Settings(preset=preset, weights=weights, affine=False, spacing_mm=options.spacing)
            result = wavemorph.register(fixed, moving, settings, initial_transform=affine)
            cells += [score(result.transform), result.report["seconds"]["total"]]
        print(f"| {name} | {_cells(cells)} |", flush=True)
        rows.append([*cells, name])
    for ending, better in (("Dice", np.greater), ("error mm", np.less)):
        chosen = np.array([row[:-1] for row in rows if row[-1].endswith(ending)])
        if len(chosen):
            won = int(better(chosen[:, 5], chosen[:, 3]).sum())
            print(f"| **mean, {ending}** | {_cells(chosen.mean(0))} |")
            print(f"\nFrom the network better in {won} of {len(chosen)} ({ending}).\n")


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
        # the two may show more or less of the neck: only what both show has an answer
        mask = foreground(fixed) & sitk.Resample(foreground(other), fixed, aligned, sitk.sitkNearestNeighbor)
        places = np.argwhere(sitk.GetArrayViewFromImage(mask))[:, ::-1]
        places = places[np.random.default_rng(0).choice(len(places), 3000, replace=False)]
        points = [mask.TransformIndexToPhysicalPoint(place.tolist()) for place in places]
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


def ablation(options: argparse.Namespace) -> None:
    """Four variants of the default network with the same budget, on synthetic pairs they did not see, and real ones."""
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
            since = time.monotonic()
            with tempfile.TemporaryDirectory() as folder:
                trainer = Trainer(recipe, SyntheticPairs(template, 0, device), Path(folder), device)
                trainer.run()
            seconds = time.monotonic() - since
            model, errors, dices = trainer.network.eval(), [], []
            with torch.inference_mode():
                for index in range(12):
                    pair = unseen[index]
                    found, _ = predict(model, pair.fixed, pair.moving, SPACING_MM)
                    off = (found - pair.truth).square().sum(1, keepdim=True).sqrt() * SPACING_MM
                    errors.append(float((off * pair.weight).sum() / pair.weight.sum()))
                for fixed, moving, fixed_labels, moving_labels in brains:
                    found, _ = predict(model, fixed, moving, SPACING_MM)
                    whole = field.resize(found, tuple(fixed_labels.shape[2:]))
                    warped = field.warp(moving_labels, whole, mode="nearest")
                    dices.append(_mean_dice(fixed_labels, warped))
            count = sum(p.numel() for p in model.parameters())
            real = f"{np.mean(dices):.3f}" if dices else "-"
            print(f"| {downsampling} | {upsampling} | {count:,} | {np.mean(errors):.3f} | {real} | {seconds:.0f} |")


def _brains_at_training_spacing(options: argparse.Namespace) -> list:
    """Two aligned volumes on one 1 mm lattice, both ways: images at half the resolution, labels at the whole."""
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


class _Noise:
    """A pair of random volumes: what a step costs does not depend on what they show."""

    spacing_mm = 1.0

    def __init__(self, device: torch.device):
        volume = torch.rand(1, 1, *PAPER_SIZE, device=device)
        self._pair = TrainingPair(volume, volume.flip(2), volume, volume.flip(2), torch.ones_like(volume))

    def __getitem__(self, index: int) -> TrainingPair:
        return self._pair


def throughput(options: argparse.Namespace) -> None:
    """Pairs a second and peak memory of a training step: the paper's protocol at 160x192x224, and our own recipe."""
    device = choose_device(options.device)
    print("| recipe | lattice | s a pair | pairs/s | peak GB | all of it |", "|---" * 6 + "|", sep="\n")
    for name in ("wavemorph", "ixi"):
        recipe = RECIPES[name]
        source = SyntheticPairs(load_template(), 0, device) if name == "wavemorph" else _Noise(device)
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(recipe, source, Path(folder), device)
            trainer.run(until_pair=1)  # warms up
            since = time.monotonic()
            trainer.run(until_pair=1 + options.pairs)
            seconds = (time.monotonic() - since) / options.pairs
        if device.type == "cuda":
            peak = torch.cuda.max_memory_allocated() / 1e9
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        size = "x".join(map(str, SIZE if name == "wavemorph" else PAPER_SIZE))
        days = seconds * recipe.pairs / 86400
        print(f"| {name} | {size} | {seconds:.2f} | {1 / seconds:.2f} | {peak:.1f} | {days:.2f} days |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=("start", "contrast", "ablation", "throughput"))
    for name in ("fixed", "moving", "fixed-labels", "moving-labels"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--pairs", type=int)
    parser.add_argument("--spacing", type=float, help="mm of the working grid; by default as in everyday work")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    options.pairs = options.pairs or {"start": 18, "contrast": 5, "ablation": 60, "throughput": 3}[options.table]
    if options.table == "contrast" and not (options.fixed and options.moving):
        parser.error("contrast needs --fixed and --moving: two contrasts of one head")
    keep_freed_memory()
    {"start": start, "contrast": contrast, "ablation": ablation, "throughput": throughput}[options.table](options)


if __name__ == "__main__":
    main()
