"""The rounds of a template: register, average the shapes, average the intensities in the mean shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from ...errors import Cancelled, InputError, WaveMorphError
from ...io.files import short_reason
from ...io.images import read_image
from ...io.result import Registration
from ...registration.linear.mutual_information import estimate_rigid
from ...registration.verdict import DO_NOT_TRUST
from ...settings import Settings
from ...spatial.grid import WorkingGrid, image_from_tensor, make_working_grid, tensor_from_array
from ...spatial.preprocessing import foreground
from ..runner import Runner
from ..subjects import Subject
from . import jobs
from .lattice import lattice_around, mask_on, points_of, set_geometry
from .shape import (
    RigidMotion,
    ShapeUpdate,
    mean_shape,
    mirrored_mean,
    node_points,
    procrustes_alignment,
    rigid_half,
    sampled_nodes,
    shape_update,
)

MIN_SUBJECTS = 2
TEMPLATE_FILE = "template.nrrd"  # of a round, in the folder for temporary files
_MANY_VOXELS = 2_000_000  # of a template, from which on maps are averaged and stored at every second node
_TOP = 1000  # the intensity of what was 1


@dataclass(frozen=True)
class RoundResult:
    """What a round changed.

    number: 0 for the linear start. spacing_mm: of the registrations. subjects: how many the mean is made of.
    shape_mean_mm, shape_max_mm: displacement of the template by the mean of the maps, over the subject.
    similarity: mean over the subjects, of the template of the round before. sharpness: gradient energy of the new
    template relative to the mean of its registered subjects.
    """

    number: int
    spacing_mm: float
    subjects: int
    shape_mean_mm: float
    shape_max_mm: float
    similarity: float
    sharpness: float

    def to_dict(self) -> dict[str, Any]:
        """The entries by name, ready for JSON."""
        return asdict(self)

    def sentence(self) -> str:
        """The numbers as text."""
        what = "affine" if self.number == 0 else f"round {self.number}"
        return (
            f"{what}: {self.subjects} subjects at {self.spacing_mm:.3g} mm, shape moved by {self.shape_mean_mm:.3f} mm "
            f"(at most {self.shape_max_mm:.2f} mm), similarity {self.similarity:.3f}, sharpness {self.sharpness:.2f}"
        )


@dataclass
class Builder:
    """Makes a template in rounds, in a folder for temporary files that all workers see.

    subjects: those that are still taken part of. left_out: a sentence for each of the others. lattice: of the template.
    """

    subjects: list[Subject]
    work: Path
    runner: Runner
    symmetric: bool = False
    lattice: WorkingGrid | None = None
    left_out: dict[str, str] = field(default_factory=dict)

    def folder(self, subject: Subject) -> Path:
        """Where the files of a subject are."""
        return self.work / "subjects" / subject.name

    @property
    def template_path(self) -> Path:
        """The template of the last round."""
        return self.work / TEMPLATE_FILE

    @property
    def update_folder(self) -> Path:
        """The last update of the shape."""
        return self.work / jobs.UPDATE

    def state(self) -> dict[str, Any]:
        """What is to be known of the builder besides its files, ready for JSON."""
        assert self.lattice is not None
        return {"lattice": self.lattice.to_dict(), "left_out": self.left_out}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` said, with the files of that time in place."""
        self.lattice = WorkingGrid.from_dict(state["lattice"])
        for name, sentence in state["left_out"].items():
            self.leave_out(name, sentence)

    def linear_start(self, spacing_mm: float, settings: Settings) -> RoundResult:
        """The mean of affinely registered subjects in their mean affine shape and pose.

        spacing_mm: of the template. The subject to which the others are registered gives no more than any other.
        """
        reference = self._readable_reference()
        fixed = read_image(reference.volume, f"volume of {reference.name}")
        inside_fixed = foreground(fixed)
        coarse = max(4 * spacing_mm, *fixed.GetSpacing())
        whole = np.zeros(3), np.array(fixed.GetSize()) - 1
        nodes = make_working_grid(fixed, whole, coarse, 0.0, 1)
        linear = replace(settings, transform_type="affine", spacing_mm=2 * spacing_mm)
        found = self._register("template, linear", Path(reference.volume), nodes, linear)
        inside = mask_on(nodes, inside_fixed)
        positions = self._mean_positions(found, nodes, inside, raw_pose=True)
        self.lattice, center = lattice_around(positions[inside], spacing_mm)
        positions = positions - center
        update = shape_update(positions, nodes, inside)
        sharpness = self._average("template, linear", found, update, inside_fixed, symmetric=False)
        if self.symmetric:
            update = shape_update(self._pose_of_mirror_plane()(positions), nodes, inside)
            sharpness = self._average("template, symmetric", found, update, inside_fixed, symmetric=True)
        return RoundResult(0, 2 * spacing_mm, len(found), update.mean_mm, update.max_mm, _similarity(found), sharpness)

    def begin_with_linear(self, maps: Mapping[str, sitk.AffineTransform], spacing_mm: float) -> None:
        """Take linear maps as the start: points of the template -> points of each subject, LPS mm, by their names.

        The template lies where these maps say, on a lattice of `spacing_mm` around all subjects.
        """
        points = []
        for subject in self.subjects:
            image = read_image(subject.volume, f"volume of {subject.name}")
            back = sitk.AffineTransform(maps[subject.name].GetInverse())
            inside = points_of(foreground(image))
            points.append(inside @ np.reshape(back.GetMatrix(), (3, 3)).T + back.TransformPoint((0.0, 0.0, 0.0)))
            linear = Registration(maps[subject.name], None, None, None, None, report={"transform_type": "affine"})
            linear.save(self.folder(subject) / jobs.REGISTRATION, volumes=())
        grid, middle = lattice_around(np.concatenate(points), spacing_mm)
        self.lattice = replace(grid, origin=tuple(np.add(grid.origin, middle).tolist()))
        still = shape_update(node_points(self.map_lattice), self.map_lattice, np.ones(self.map_lattice.shape, bool))
        whole = sitk.Image(self.lattice.size, sitk.sitkUInt8) + 1
        set_geometry(whole, self.lattice)
        self._average("midway space", maps, still, whole, symmetric=False)

    def begin_with(self, template: sitk.Image, spacing_mm: float | None) -> None:
        """Take an existing template, on its own lattice or on one of another spacing (mm) over the same box."""
        whole = np.zeros(3), np.array(template.GetSize()) - 1
        self.lattice = make_working_grid(template, whole, spacing_mm or min(template.GetSpacing()), 0.0, 1)
        image = sitk.Cast(self.lattice.resample(template), sitk.sitkFloat32)
        if self.symmetric:
            sitk.WriteImage(image, str(self.template_path))
            motion = self._pose_of_mirror_plane()
            inverse = sitk.Transform(motion.transform().GetInverse())
            image = _symmetrized(self.lattice.resample(image, inverse))
        sitk.WriteImage(image, str(self.template_path))

    def deformable_round(self, number: int, rounds: int, settings: Settings) -> RoundResult:
        """Register every subject to the template, and make the next template."""
        stage = f"template, round {number} of {rounds}"
        found = self._register(stage, self.template_path, self.map_lattice, settings)
        return self.average_round(number, stage, found)

    def average_round(self, number: int, stage: str, found: Mapping[str, Any]) -> RoundResult:
        """Make the next template of subjects whose maps to this one are in their folders.

        found: by their names, what `jobs.register_subject` returns.
        """
        nodes, inside_fixed = self.map_lattice, foreground(sitk.ReadImage(str(self.template_path)))
        inside = mask_on(nodes, inside_fixed)
        update = shape_update(self._mean_positions(found, nodes, inside), nodes, inside)
        sharpness = self._average(stage, found, update, inside_fixed, self.symmetric)
        spacing = max(result["spacing_mm"] for result in found.values())
        return RoundResult(number, spacing, len(found), update.mean_mm, update.max_mm, _similarity(found), sharpness)

    @property
    def map_lattice(self) -> WorkingGrid:
        """The lattice on which maps are averaged and stored: that of the template, or half of a large one."""
        assert self.lattice is not None
        return self.lattice.halved() if self.lattice.voxels > _MANY_VOXELS else self.lattice

    @property
    def store_spacing_mm(self) -> float | None:
        """The spacing at which maps are stored; None for that of the template."""
        return None if self.map_lattice is self.lattice else max(self.map_lattice.spacing)

    def write_maps(self, targets: Callable[[Subject], tuple[Path, Path]]) -> None:
        """Write the maps of all subjects. targets: the files for a subject, to it and from it."""
        assert self.lattice is not None
        work = {
            subject.name: jobs.MapJob(
                self.folder(subject), self.update_folder, self.lattice, self.store_spacing_mm, *targets(subject)
            )
            for subject in self.subjects
        }
        self.run_jobs(jobs.write_maps, work, "writing maps")

    def template(self) -> sitk.Image:
        """The template of the last round, int16: 0 to 1000 for the range of the subjects' intensities."""
        values = sitk.GetArrayFromImage(sitk.ReadImage(str(self.template_path)))
        image = sitk.GetImageFromArray(np.rint(_TOP * values).astype(np.int16))
        image.CopyInformation(sitk.ReadImage(str(self.template_path)))
        return image

    def _register(
        self,
        stage: str,
        fixed: Path,
        nodes: WorkingGrid,
        settings: Settings,
    ) -> dict[str, dict[str, Any]]:
        """Register all subjects; returns the results of those that can be trusted, in the order of the subjects."""
        work = {
            subject.name: jobs.RegistrationJob(subject, fixed, self.folder(subject), nodes, settings)
            for subject in self.subjects
        }
        found = self.run_jobs(jobs.register_subject, work, stage)
        for name, result in list(found.items()):
            if result["verdict"]["level"] == DO_NOT_TRUST:
                self.leave_out(name, "Its registration cannot be trusted: " + " ".join(result["verdict"]["reasons"]))
                del found[name]
        self._check_enough()
        return found

    def run_jobs(self, function: Callable[[Any], Any], work: Mapping[str, Any], stage: str) -> dict[str, Any]:
        """The results by name, in the order of the subjects; a subject that fails is left out from here on."""
        results: dict[str, Any] = {}
        for name, outcome in self.runner.run(function, work, stage):
            if isinstance(outcome, Cancelled):
                raise outcome
            if isinstance(outcome, Exception):
                self.leave_out(name, _sentence(outcome))
            else:
                results[name] = outcome
        self._check_enough()
        return {name: results[name] for name in work if name in results}

    def leave_out(self, name: str, sentence: str) -> None:
        """Go on without a subject."""
        self.left_out[name] = sentence
        self.subjects = [subject for subject in self.subjects if subject.name != name]

    def _check_enough(self) -> None:
        if len(self.subjects) < MIN_SUBJECTS:
            name, sentence = next(iter(self.left_out.items()), ("", ""))
            raise InputError(
                f"Only {len(self.subjects)} of {len(self.subjects) + len(self.left_out)} subjects can be used, and a "
                f"template needs {MIN_SUBJECTS}; {name}: {sentence}"
            )

    def _readable_reference(self) -> Subject:
        """The first subject whose volume can be read; those before it are left out."""
        while True:
            self._check_enough()
            subject = self.subjects[0]
            try:
                read_image(subject.volume, f"volume of {subject.name}")
                return subject
            except InputError as error:
                self.leave_out(subject.name, str(error))

    def _mean_positions(
        self, found: Mapping[str, Any], nodes: WorkingGrid, inside: np.ndarray, raw_pose: bool = False
    ) -> np.ndarray:
        """(D, H, W, 3): the mean shape at the nodes, LPS mm.

        It lies where the template lies, or with raw_pose as the subjects lie on average.
        """
        files = [self.work / "subjects" / name / jobs.DISPLACEMENT for name in found]
        sample = sampled_nodes(inside)
        points = node_points(nodes).reshape(-1, 3)[sample]
        shapes = [points + np.load(file, mmap_mode="r").reshape(-1, 3)[sample] for file in files]
        pose = np.mean(shapes, axis=0) if raw_pose else points
        alignments = procrustes_alignment(shapes, pose)
        positions = mean_shape((np.load(file) for file in files), alignments, nodes)
        return mirrored_mean(positions, nodes) if self.symmetric and not raw_pose else positions

    def _average(
        self, stage: str, found: Mapping[str, Any], update: ShapeUpdate, inside_fixed: sitk.Image, symmetric: bool
    ) -> float:
        """Write the template in the mean shape; returns its sharpness. inside_fixed: mask of the fixed volume."""
        assert self.lattice is not None
        update.map.save(self.update_folder, volumes=())
        moved = self.lattice.resample(inside_fixed, update.map.inverse, sitk.sitkNearestNeighbor)
        inside = sitk.GetArrayFromImage(moved) > 0
        mask = self.work / "inside.npy"
        np.save(mask, inside)
        work = {
            subject.name: jobs.WarpingJob(subject, self.folder(subject), self.update_folder, self.lattice, mask)
            for subject in self.subjects
            if subject.name in found
        }
        results = self.run_jobs(jobs.warp_subject, work, f"{stage}, resampling")
        total, count = np.zeros(self.lattice.shape), np.zeros(self.lattice.shape, np.uint32)
        for name in results:
            values = np.load(self.work / "subjects" / name / jobs.WARPED).astype(np.float32)
            seen = ~np.isnan(values)
            total[seen] += values[seen]
            count += seen
        mean = np.clip(total / np.maximum(count, 1), 0, None).astype(np.float32)
        image = image_from_tensor(tensor_from_array(mean), self.lattice)
        image = _symmetrized(image) if symmetric else image
        sitk.WriteImage(image, str(self.template_path))
        energy = jobs.gradient_energy(sitk.GetArrayViewFromImage(image), inside, self.lattice.spacing)
        return energy / float(np.mean([result["energy"] for result in results.values()]))

    def _pose_of_mirror_plane(self) -> RigidMotion:
        """The rigid motion of the template after which its plane of symmetry is the middle plane of the lattice.

        For a symmetry s of the template T and the mirror m of the lattice, the registration of T with its mirror image
        gives q = m s. With p = q^(-1/2), T(p x) is symmetric about the plane of m.
        """
        assert self.lattice is not None
        template = sitk.ReadImage(str(self.template_path))
        mirrored = sitk.GetImageFromArray(np.ascontiguousarray(sitk.GetArrayFromImage(template)[:, :, ::-1]))
        mirrored.CopyInformation(template)
        found = estimate_rigid(
            template, mirrored, foreground(template), foreground(mirrored), initial=sitk.AffineTransform(3)
        )
        translation = np.array(found.TransformPoint((0.0, 0.0, 0.0)))
        return rigid_half(RigidMotion(np.reshape(found.GetMatrix(), (3, 3)), translation))


def _symmetrized(image: sitk.Image) -> sitk.Image:
    values = sitk.GetArrayFromImage(image)
    mean = sitk.GetImageFromArray(0.5 * (values + values[:, :, ::-1]))
    mean.CopyInformation(image)
    return mean


def _similarity(found: Mapping[str, Any]) -> float:
    return float(np.mean([result["similarity"] for result in found.values()]))


def _sentence(error: Exception) -> str:
    """What a table says of a subject that failed."""
    return str(error) if isinstance(error, WaveMorphError) else f"{type(error).__name__}: {short_reason(error)}"
