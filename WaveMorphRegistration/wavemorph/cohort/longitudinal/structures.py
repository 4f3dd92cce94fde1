"""The volumes of structures at several times: the Jacobian integrated over the structures of the midway space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from ...errors import InputError
from ...io.labels import LabelMap
from ...io.result import Registration
from ...registration.segmentation.stage import segment_volume
from ...spatial.displacement import jacobian_determinant
from ...spatial.grid import WorkingGrid, array_from_tensor
from ...system.machine import choose_device

_MIN_ML = 1e-3  # a structure of less is not measured


@dataclass(frozen=True)
class StructureVolume:
    """The volume of a structure at one time. percent: change against the first time."""

    structure: str
    time: str
    volume_ml: float
    percent: float


def jacobian_on(lattice: WorkingGrid, registration: Registration) -> np.ndarray:
    """(D, H, W): Jacobian determinant of a map at the nodes of the lattice, affine included."""
    determinant = float(np.linalg.det(np.reshape(registration.affine.GetMatrix(), (3, 3))))
    with torch.inference_mode():
        displacement = lattice.from_mm(
            sitk.CompositeTransform([sitk.Transform(registration.affine.GetInverse()), registration.transform])
        )
        return array_from_tensor(jacobian_determinant(displacement) * determinant)


def labels_as_structures(labels: LabelMap, lattice: WorkingGrid, transform: sitk.Transform) -> dict[str, np.ndarray]:
    """Name -> fraction of each voxel of the lattice in the structure, (D, H, W), 0 to 1.

    transform: points of the lattice -> points of the label map, LPS mm.
    """
    found = {}
    for each in labels.structures:
        mask = sitk.Cast(labels.layers[each.layer] == each.label, sitk.sitkFloat32)
        name = each.name or f"label {each.label}"
        found[name] = sitk.GetArrayFromImage(lattice.resample(mask, transform, sitk.sitkLinear))
    return found


def brain_structures(image: sitk.Image, lattice: WorkingGrid, device: str) -> dict[str, np.ndarray]:
    """Name -> probability of each structure of the brain on the lattice, by the shipped network.

    Raises InputError where the volume shows no plausible brain.
    """
    found = segment_volume(image, choose_device(device))
    if found is None:
        raise InputError(
            "No brain was found in the midway volume, so that there are no structures to measure; give a label map "
            "of one time."
        )
    return {name: array_from_tensor(probability) for name, probability in found.by_structure(lattice).items()}


def volumes_of(
    structures: Mapping[str, np.ndarray], jacobians: Mapping[str, np.ndarray], spacing: Sequence[float]
) -> list[StructureVolume]:
    """The volume of each structure at each time, by structure and then in the order of the times.

    structures: fractions (D, H, W) on the midway lattice. jacobians: time -> (D, H, W), midway -> time.
    """
    voxel_ml, rows = float(np.prod(spacing)) / 1000, []
    for name, fraction in structures.items():
        volumes = {time: float(np.sum(fraction * jacobian)) * voxel_ml for time, jacobian in jacobians.items()}
        first = next(iter(volumes.values()))
        if first < _MIN_ML:
            continue
        rows += [StructureVolume(name, time, ml, 100 * (ml / first - 1)) for time, ml in volumes.items()]
    return rows


def write_volumes(rows: Sequence[StructureVolume], path: str) -> None:
    """Write the table: structure, time, volume in ml, change in percent against the first time."""
    lines = ["structure\ttime\tvolume_ml\tpercent_change"]
    lines += [f"{row.structure}\t{row.time}\t{row.volume_ml:.5f}\t{row.percent:.3f}" for row in rows]
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")
