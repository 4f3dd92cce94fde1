"""The numbers that say how good a registration is, what they were made with, and doubts in words."""

from __future__ import annotations

import hashlib
import platform

import numpy as np
import SimpleITK as sitk
import torch

from . import __version__, field
from .finishing import folded_nodes, inverted_at, sampled
from .geometry import tensor_from_array
from .machine import peak_memory
from .points import transform_points
from .preprocessing import Pair, WorkingPair
from .result import Registration, displacement_transform
from .settings import Settings
from .similarity import LocalCorrelation

_POINTS = 5000
_LYING = 60  # degrees: no head is held so in a scanner
_FOLDED = 1e-9  # below it a corner counts as folded: zero, but for rounding


def quality(
    registration: Registration, working: WorkingPair, displacement: torch.Tensor, jacobian: torch.Tensor
) -> dict:
    """Similarity, folding, volume change, displacement and inverse consistency.

    Taken at the nodes of the working grid inside the fixed foreground; `displacement` is (1, 3, D, H, W) in voxels,
    `jacobian` (D, H, W) the determinant of the whole map.
    """
    mask = working.inside[0, 0] > 0
    nodes = max(int(mask.sum()), 1)
    whole = jacobian[mask]
    folded = int((whole <= 0).sum())
    mirrored = np.linalg.det(np.reshape(registration.affine.GetMatrix(), (3, 3))) <= 0
    folded_corners = nodes if mirrored else int(folded_nodes(displacement, _FOLDED, within=mask)[mask].sum())
    lengths = _lengths_mm(registration.displacement)[mask.cpu().numpy()]
    return {
        "similarity": {"measure": "squared local correlation, 6 voxels", **_similarity(working, displacement)},
        "folding": {
            "central_voxels": folded,
            "central_percent": 100 * folded / nodes,
            "strict_voxels": folded_corners,
            "strict_percent": 100 * folded_corners / nodes,
            "evaluated_voxels": nodes,
        },
        "jacobian": {
            "min": float(whole.min()),
            "max": float(whole.max()),
            "min_log": float(whole.clamp(min=1e-3).log().min()),
            "max_log": float(whole.clamp(min=1e-3).log().max()),
            "sd_log": float(whole.clamp(1e-3, 1e3).log().std()),
        },
        "displacement_mm": {"mean": float(lengths.mean()), "max": float(lengths.max())},
        "inverse_consistency_mm": _inverse_consistency(registration, mask, displacement),
    }


def provenance(pair: Pair, settings: Settings, model, device: torch.device) -> dict:
    """Device, versions, settings, peak memory, checksums of the inputs and of the weights."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "wavemorph": __version__,
        "device": {"type": device.type, "name": name, "threads": torch.get_num_threads()},
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "SimpleITK": sitk.Version.VersionString(),
            "numpy": np.__version__,
        },
        "settings": settings.to_dict(),
        "peak_memory_mb": peak_memory(device),
        "inputs": {"fixed": _describe(pair.fixed), "moving": _describe(pair.moving)},
        "weights": {"name": model.card.name, "sha256": model.sha256} if model is not None else None,
    }


def doubts(report: dict) -> list[str]:
    """Sentences for a person when the result should not be trusted as it is."""
    sentences = []
    similarity, jacobian = report["similarity"], report["jacobian"]
    if similarity["after"] < similarity["before"] + 0.01 and similarity["before"] < 0.5:
        sentences.append("The deformation did not make the two volumes more alike; look at the result before using it.")
    if similarity["after"] < 0.12:
        sentences.append(
            f"The two volumes are hardly alike even after registration (local correlation {similarity['after']:.2f}); "
            "they may show different anatomy or a failed alignment."
        )
    if report["anatomy"] is not None and report["anatomy"]["after"] < 0.35:
        sentences.append(
            f"The structures of the brain that the network sees overlap by only {report['anatomy']['after']:.2f} after "
            "registration (mean Dice); the alignment may have failed."
        )
    turned = report["anatomy"]["turned_degrees"] if report["anatomy"] is not None else {}
    for which, degrees in turned.items():
        if degrees > _LYING:
            sentences.append(
                f"The brain in the {which} volume lies {degrees} degrees off upright; if its file states the "
                "orientation wrongly, left and right may be exchanged too, which no registration can tell."
            )
    if report["folding"]["strict_voxels"]:
        sentences.append(f"{report['folding']['strict_voxels']} voxels are folded; the inverse is wrong there.")
    if jacobian["max"] > 20:
        sentences.append(f"Some moving tissue is {jacobian['max']:.0f} times as large as the fixed; look there.")
    if report["displacement_mm"]["max"] > 40:
        sentences.append(f"The largest displacement is {report['displacement_mm']['max']:.0f} mm: implausible.")
    return sentences


def _similarity(working: WorkingPair, displacement: torch.Tensor) -> dict[str, float]:
    measure = LocalCorrelation(working.fixed, working.weight * working.inside, signed=False, stride=2)
    return {
        "before": measure.value(working.moving),
        "after": measure.value(field.warp_image(working.moving, displacement)),
    }


def _lengths_mm(displacement: sitk.Image) -> np.ndarray:
    vectors = sitk.GetArrayViewFromImage(displacement)[1:-1, 1:-1, 1:-1]  # without the ring of zeros
    return np.sqrt(np.einsum("kjic,kjic->kji", vectors, vectors))


def _inverse_consistency(registration: Registration, mask: torch.Tensor, displacement: torch.Tensor) -> dict:
    """Distance from where a point started to where forward and inverse bring it, at random points of the mask.

    inverse: "fields", those of the registration; or, where it has none, "iteration": the map inverted point by point,
    as Slicer does it on demand.
    """
    generator = np.random.default_rng(0)
    nodes = np.argwhere(mask.cpu().numpy())
    chosen = nodes[generator.integers(len(nodes), size=_POINTS)]
    chosen = chosen + generator.uniform(-0.5, 0.5, chosen.shape)
    by_fields = registration.inverse_displacement is not None
    distances = _by_fields(registration, chosen) if by_fields else _by_iteration(registration, chosen, displacement)
    return {
        "mean": float(distances.mean()),
        "p99": float(np.percentile(distances, 99)),
        "max": float(distances.max()),
        "points": _POINTS,
        "inverse": "fields" if by_fields else "iteration",
    }


def _by_fields(registration: Registration, kji: np.ndarray) -> np.ndarray:
    """mm, from places (N, 3) of the working grid."""
    indices = kji[:, ::-1] + 1  # the field has one ring more
    points = [registration.displacement.TransformContinuousIndexToPhysicalPoint(index.tolist()) for index in indices]
    # part by part: a field in a transform is float64, and a composite copies it
    places = transform_points(points, displacement_transform(registration.displacement))
    places = transform_points(places, registration.affine)
    places = transform_points(places, registration.affine.GetInverse())
    for image in (registration.inverse_displacement, registration.inverse_correction):
        places = transform_points(places, displacement_transform(image))
    return np.linalg.norm(places - np.asarray(points), axis=1)


def _by_iteration(registration: Registration, kji: np.ndarray, displacement: torch.Tensor) -> np.ndarray:
    """mm, from places (N, 3) of the working grid."""
    places = tensor_from_array(kji.T).to(displacement.device)
    moved = places + sampled(displacement, places)
    back = inverted_at(displacement, moved, -sampled(displacement, moved), steps=20, tolerance=1e-3)
    spacing = displacement.new_tensor(registration.displacement.GetSpacing()[::-1]).view(3, 1)
    return np.array(((moved + back - places) * spacing).square().sum(0).sqrt().tolist())


def _describe(image: sitk.Image) -> dict:
    """Size, spacing and a checksum over the voxels and the geometry."""
    digest = hashlib.sha256(np.ascontiguousarray(sitk.GetArrayViewFromImage(image)))
    digest.update(repr((image.GetOrigin(), image.GetSpacing(), image.GetDirection())).encode())
    return {"size": list(image.GetSize()), "spacing_mm": list(image.GetSpacing()), "sha256": digest.hexdigest()}
