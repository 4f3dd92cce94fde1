"""The report of a registration: its quality in numbers, its provenance, and warnings."""

from __future__ import annotations

import hashlib
import platform

import numpy as np
import SimpleITK as sitk
import torch

from ..io.points import transform_points
from ..io.result import Registration, displacement_transform
from ..models.weights import LoadedModel
from ..settings import Settings
from ..spatial.displacement import warp_image
from ..spatial.folding import folding_mask
from ..spatial.grid import WorkingGrid, array_from_tensor, tensor_from_array
from ..spatial.inversion import invert_at_points
from ..spatial.nodes import sample_at_points
from ..spatial.preprocessing import Pair, WorkingPair, bounding_box
from ..spatial.subject import Subject
from ..system.machine import peak_memory
from ..system.version import __version__
from .segmentation.brain import matrix_of
from .similarity.lncc import LocalCorrelation

_CONSISTENCY_POINTS = 5000
_SIMILARITY_MEASURE = "squared local correlation, 6 voxels"
_FOLDED_BELOW = 1e-9  # a corner Jacobian: zero, but for rounding
# Limits of the warnings
_UNUSUAL_ROTATION_DEG = 60  # nobody lies so in a scanner
_MIN_SIMILARITY_GAIN = 0.01
_HIGH_SIMILARITY = 0.5
_MIN_SIMILARITY = 0.12
_MIN_STRUCTURE_DICE = 0.35
_MAX_JACOBIAN = 20.0
_MAX_DISPLACEMENT_MM = 40.0  # of a head
_MAX_UNSEEN_PERCENT = 40.0


def quality(
    registration: Registration, working: WorkingPair, displacement: torch.Tensor, jacobian: torch.Tensor
) -> dict:
    """Similarity, folding, Jacobian determinant, displacement and inverse consistency, as entries of the report.

    Measured at the nodes of the working grid in the fixed foreground. displacement: (1, 3, D, H, W) in voxels.
    jacobian: (D, H, W), the Jacobian determinant of the whole map, affine included.
    """
    assert registration.displacement is not None
    mask = working.inside[0, 0]
    nodes = max(int(mask.sum()), 1)
    determinants = jacobian.masked_select(mask)  # an index by a mask takes 24 bytes a node
    folded = int((determinants <= 0).sum())
    mirrored = determinant_of(registration.affine) <= 0
    folded_corners = nodes if mirrored else int((folding_mask(displacement, _FOLDED_BELOW, within=mask) & mask).sum())
    lengths = _lengths_mm(registration.displacement)[array_from_tensor(mask) > 0]
    return {
        "similarity": {"measure": _SIMILARITY_MEASURE, **_similarity(working, displacement)},
        "folding": _folding(folded, folded_corners, nodes),
        "jacobian": {
            "min": float(determinants.min()),
            "max": float(determinants.max()),
            "min_log": float(determinants.clamp(min=1e-3).log().min()),
            "max_log": float(determinants.clamp(min=1e-3).log().max()),
            "sd_log": float(determinants.clamp(1e-3, 1e3).log().std()),
        },
        "displacement_mm": {"mean": float(lengths.mean()), "max": float(lengths.max())},
        "inverse_consistency_mm": _inverse_consistency(registration, mask, displacement),
    }


def describe_subject(
    pair: Pair, grid: WorkingGrid, affine: sitk.Transform, displacement: torch.Tensor | None, inside: torch.Tensor
) -> dict:
    """The entry "subject" of the report: what was taken for it in the fixed volume, and how much of it is in both.

    affine: fixed points -> moving points, LPS mm. displacement: (1, 3, D, H, W) in voxels of `grid`, or None.
    inside: (1, 1, D, H, W) bool, the fixed subject. In the entry, "extent_mm" are the sides of its bounding box along
    the axes of the grid (nearest to R, A, S), "unseen_percent" is the part of it for which the moving volume was not
    scanned under the map, and "rotation_deg" is the rotation of the moving volume against the fixed one.
    """
    first, last = bounding_box(pair.fixed_foreground)
    sides = (last - first + 1) * np.array(pair.fixed.GetSpacing())
    order = np.abs(grid.direction.T @ np.reshape(pair.fixed.GetDirection(), (3, 3))).argmax(1)
    scanned = Subject.outlined_by(pair.moving_foreground).scanned(grid, affine, inside.device)
    unseen = 0.0
    if scanned is not None:
        warped = scanned if displacement is None else warp_image(scanned.float(), displacement)
        unseen = float(((warped <= 0.5) & inside).sum() / inside.sum())
    return {
        "kind": pair.kind,
        "extent_mm": sides[order].tolist(),
        "working_spacing_mm": list(grid.spacing),
        "unseen_percent": 100 * unseen,
        "rotation_deg": round(_rotation_deg(affine)),
    }


def linear_quality(affine: sitk.AffineTransform, working: WorkingPair, moving_before: torch.Tensor) -> dict:
    """The entries of `quality` for a linear map: its similarity is measured, the others follow from its matrix.

    moving_before: (1, 1, D, H, W), the moving image as it lies; `working` holds it under the linear map.
    """
    nodes, determinant = max(int(working.inside.sum()), 1), determinant_of(affine)
    folded = nodes if determinant <= 0 else 0
    log = float(np.log(np.clip(determinant, 1e-3, None)))
    before, after = (_local_correlation(working, moving).value() for moving in (moving_before, working.moving))
    return {
        "similarity": {"measure": _SIMILARITY_MEASURE, "before": before, "after": after},
        "folding": _folding(folded, folded, nodes),
        "jacobian": {"min": determinant, "max": determinant, "min_log": log, "max_log": log, "sd_log": 0.0},
        "displacement_mm": {"mean": 0.0, "max": 0.0},
        "inverse_consistency_mm": {"mean": 0.0, "p99": 0.0, "max": 0.0, "points": 0, "inverse": "linear"},
    }


def determinant_of(affine: sitk.AffineTransform) -> float:
    """The determinant of the matrix of an affine."""
    return float(np.linalg.det(np.reshape(affine.GetMatrix(), (3, 3))))


def _rotation_deg(affine: sitk.Transform) -> float:
    """The angle of the rotation nearest to a linear transform; of one that mirrors, to its opposite."""
    left, _, right = np.linalg.svd(matrix_of(affine)[:3, :3])
    rotation = left @ right
    rotation = rotation if np.linalg.det(rotation) > 0 else -rotation
    return float(np.degrees(np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1))))


def provenance(pair: Pair, settings: Settings, model: LoadedModel | None, device: torch.device) -> dict:
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
        "inputs": dict(zip(("fixed", "moving"), map(_describe, pair.inputs))),
        "weights": {"name": model.card.name, "sha256": model.sha256} if model is not None else None,
    }


def quality_warnings(report: dict, length_scale: float = 1.0) -> list[str]:
    """Sentences that say why the result should be checked before it is used; none for a good result.

    length_scale: size of the subject relative to a head.
    """
    sentences = []
    similarity, jacobian = report["similarity"], report["jacobian"]
    gained = similarity["after"] - similarity["before"]
    linear = report["transform_type"] != "deformable"  # a pair that lies aligned gains nothing by a linear map
    if gained < (-_MIN_SIMILARITY_GAIN if linear else _MIN_SIMILARITY_GAIN) and similarity["before"] < _HIGH_SIMILARITY:
        what = "alignment" if linear else "deformation"
        sentences.append(
            f"The {what} did not increase the similarity of the volumes; check the result before you use it."
        )
    if similarity["after"] < _MIN_SIMILARITY:
        sentences.append(
            f"The similarity after registration is low (local correlation {similarity['after']:.2f}); the volumes may "
            "show different anatomy, or the alignment may have failed."
        )
    segmentation = report["segmentation"]
    if segmentation is not None and segmentation["after"] < _MIN_STRUCTURE_DICE:
        sentences.append(
            f"The segmented structures of the brain overlap by only {segmentation['after']:.2f} after registration "
            "(mean Dice); the alignment may have failed."
        )
    rotations = segmentation["rotation_deg"] if segmentation is not None else {}
    for which, degrees in rotations.items():
        if degrees > _UNUSUAL_ROTATION_DEG:
            sentences.append(
                f"The brain in the {which} volume is rotated by {degrees} degrees; if the orientation in its file is "
                "wrong, left and right may be exchanged too, which registration cannot detect."
            )
    if segmentation is None and report["subject"]["rotation_deg"] > _UNUSUAL_ROTATION_DEG:
        sentences.append(
            f"The moving volume is rotated by {report['subject']['rotation_deg']} degrees against the fixed one; if "
            "the orientation in a file is wrong, left and right may be exchanged too, which registration cannot detect."
        )
    if report["folding"]["strict_voxels"]:
        sentences.append(f"{report['folding']['strict_voxels']} voxels are folded; the inverse is not valid there.")
    if jacobian["max"] > _MAX_JACOBIAN:
        sentences.append(
            f"Some moving tissue is {jacobian['max']:.0f} times as large as the fixed tissue; check the Jacobian."
        )
    if report["displacement_mm"]["max"] > _MAX_DISPLACEMENT_MM * length_scale:
        sentences.append(
            f"The largest displacement is {report['displacement_mm']['max']:.3g} mm, which is implausible."
        )
    if report["subject"]["unseen_percent"] > _MAX_UNSEEN_PERCENT:
        sentences.append(
            f"{report['subject']['unseen_percent']:.0f} % of the fixed subject is not in the moving volume; there the "
            "map only continues that of its surroundings."
        )
    return sentences


def _similarity(working: WorkingPair, displacement: torch.Tensor) -> dict[str, float]:
    measure = _local_correlation(working, working.moving)
    return {"before": measure.value(), "after": measure.value(displacement)}


def _local_correlation(working: WorkingPair, moving: torch.Tensor) -> LocalCorrelation:
    return LocalCorrelation(working.fixed, moving, working.weight * working.inside, signed=False, stride=2)


def _folding(central: int, strict: int, nodes: int) -> dict:
    return {
        "central_voxels": central,
        "central_percent": 100 * central / nodes,
        "strict_voxels": strict,
        "strict_percent": 100 * strict / nodes,
        "evaluated_voxels": nodes,
    }


def _lengths_mm(displacement: sitk.Image) -> np.ndarray:
    vectors = sitk.GetArrayViewFromImage(displacement)[1:-1, 1:-1, 1:-1]  # without the ring of zeros
    return np.sqrt(np.einsum("kjic,kjic->kji", vectors, vectors))


def _inverse_consistency(registration: Registration, mask: torch.Tensor, displacement: torch.Tensor) -> dict:
    """Distance in mm between points and their images under the map and its inverse, at random points of the mask.

    "inverse" in the entry: "fields", those of the registration; or, where it has none, "iteration": the map inverted
    point by point, as Slicer does on demand.
    """
    generator = np.random.default_rng(0)
    nodes = np.flatnonzero(array_from_tensor(mask))
    indices = nodes[generator.integers(len(nodes), size=_CONSISTENCY_POINTS)]
    chosen = np.stack(np.unravel_index(indices, mask.shape), -1).astype(float)
    chosen = chosen + generator.uniform(-0.5, 0.5, chosen.shape)
    by_fields = registration.inverse_displacement is not None
    distances = _by_fields(registration, chosen) if by_fields else _by_iteration(registration, chosen, displacement)
    return {
        "mean": float(distances.mean()),
        "p99": float(np.percentile(distances, 99)),
        "max": float(distances.max()),
        "points": _CONSISTENCY_POINTS,
        "inverse": "fields" if by_fields else "iteration",
    }


def _by_fields(registration: Registration, kji: np.ndarray) -> np.ndarray:
    """Round-trip errors (N,) in mm, from continuous indices (N, 3) of the working grid."""
    indices = kji[:, ::-1] + 1  # the field has one ring more
    displacement = registration.displacement
    assert displacement is not None
    to_mm = displacement.TransformContinuousIndexToPhysicalPoint
    points = np.array([to_mm(index.tolist()) for index in indices])
    # part by part: a field in a transform is float64, and a composite copies it
    moved = transform_points(points, displacement_transform(displacement))
    moved = transform_points(moved, registration.affine)
    moved = transform_points(moved, registration.affine.GetInverse())
    for image in (registration.inverse_displacement, registration.inverse_correction):
        assert image is not None
        moved = transform_points(moved, displacement_transform(image))
    return np.linalg.norm(moved - points, axis=1)


def _by_iteration(registration: Registration, kji: np.ndarray, displacement: torch.Tensor) -> np.ndarray:
    """Round-trip errors (N,) in mm, from continuous indices (N, 3) of the working grid."""
    start = tensor_from_array(kji.T).to(displacement.device)
    moved = start + sample_at_points(displacement, start)
    first_guess = -sample_at_points(displacement, moved)
    inverse = invert_at_points(displacement, moved, first_guess, steps=20, tolerance=1e-3)
    assert registration.displacement is not None
    spacing = displacement.new_tensor(registration.displacement.GetSpacing()[::-1]).view(3, 1)
    return np.array(((moved + inverse - start) * spacing).square().sum(0).sqrt().tolist())


def _describe(image: sitk.Image) -> dict:
    """Size, spacing and a checksum over the voxels and the geometry."""
    digest = hashlib.sha256(np.ascontiguousarray(sitk.GetArrayViewFromImage(image)).data)
    digest.update(repr((image.GetOrigin(), image.GetSpacing(), image.GetDirection())).encode())
    return {"size": list(image.GetSize()), "spacing_mm": list(image.GetSpacing()), "sha256": digest.hexdigest()}
