"""`compare_times`: from the volumes of one patient to a midway space, maps between the times, and volume changes."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from ...errors import InputError
from ...io.images import read_image, same_lattice
from ...io.labels import LabelMap, read_label_map
from ...io.outputs import Outputs, write_image, write_json, write_transform
from ...io.result import Registration
from ...registration.verdict import DO_NOT_TRUST
from ...settings import Settings
from ...spatial.preprocessing import foreground
from ...system.private_folders import private_folder
from ...system.version import __version__
from ..runner import Runner, SerialRunner
from ..subjects import Subject
from ..template.build import Builder, RoundResult
from ..template.jobs import composed_registration
from ..template.lattice import points_of
from ..template.shape import RigidMotion
from ..template.study import as_subjects, usual_spacing_mm
from .jobs import RefinementJob, RigidJob, refine_time, register_rigidly
from .midway import composed, inverted, midway_motions
from .structures import StructureVolume, brain_structures, jacobian_on, labels_as_structures, volumes_of, write_volumes

MIDWAY = "midway"  # as the space of a label map
# A second round followed the noise: of three structures in scans of 2 mm, the largest error rose from 0.42 to 0.51 %.
ROUNDS = 1
_MAX_TIMES = 20


@dataclass(frozen=True)
class Longitudinal:
    """What `compare_times` found.

    image: the mean of all times in the midway space, int16, 0 to 1000. volumes: of each structure at each time.
    report: verdicts, rounds and settings, ready for JSON. maps: midway points -> points of each time, by its name.
    """

    image: sitk.Image
    volumes: Sequence[StructureVolume]
    report: dict[str, Any]
    maps: Mapping[str, Registration]


def compare_times(
    times: Iterable[Subject | str | os.PathLike],
    output: str | os.PathLike,
    labels: str | os.PathLike | None = None,
    labels_of: str | None = None,
    settings: Settings | None = None,
    runner: Runner | None = None,
    report: Callable[[str], None] = lambda sentence: None,
) -> Longitudinal:
    """Compare several scans of one patient by one protocol, all treated alike.

    Written into the folder `output`: midway.nii.gz (the mean of all times), volumes.tsv, report.json, and for any two
    times A and B maps/A_to_B.h5 (points of A -> points of B, LPS mm), also to and from "midway". All of them go through
    the midway space, so that they are consistent.

    Parameters:
        times: at least two, in any order; changes are stated against the first.
        output: a folder; files of the same names in it are replaced.
        labels: a label map, whose structures are measured; without it those of the shipped brain segmentation.
        labels_of: the name of the time that the labels belong to, or "midway"; by default the one whose voxels they
            have.
        settings: of the rigid registrations, and the device.
        runner: where the times are registered; by default one after another in this process.
        report: called with a sentence after each round.

    Raises:
        InputError: a volume or label map cannot be used, or two times cannot be aligned.
        OutputError: the folder cannot be written to.
    """
    chosen, folder = [time.absolute() for time in as_subjects(times)], Path(os.path.abspath(output))
    settings = settings or Settings()
    if not 2 <= len(chosen) <= _MAX_TIMES:
        raise InputError(f"A longitudinal study takes 2 to {_MAX_TIMES} times, not {len(chosen)}.")
    label_map = None if labels is None else read_label_map(labels, "label map")
    space = None if label_map is None else _space_of(label_map, labels_of, chosen)
    files = _outputs(folder, chosen)
    folder.mkdir(parents=True, exist_ok=True)
    with private_folder(folder) as work:
        builder = Builder(list(chosen), work, runner or SerialRunner())
        verdicts = _align_rigidly(builder, settings)
        rounds = []
        for number in range(1, ROUNDS + 1):
            rounds.append(_round(builder, number))
            report(rounds[-1].sentence())
        lattice = builder.lattice
        assert lattice is not None
        image = builder.template()
        maps, jacobians = {}, {}
        for time in chosen:
            parts = builder.folder(time), builder.update_folder, lattice
            maps[time.name] = composed_registration(*parts, builder.store_spacing_mm)
            jacobians[time.name] = jacobian_on(lattice, composed_registration(*parts))
    if label_map is None:
        structures = brain_structures(sitk.Cast(image, sitk.sitkFloat32), lattice, settings.device)
    else:
        to_labels = sitk.Transform() if space == MIDWAY else maps[str(space)].transform
        structures = labels_as_structures(label_map, lattice, to_labels)
    volumes = volumes_of(structures, jacobians, lattice.spacing)
    found = Longitudinal(image, volumes, _report(chosen, verdicts, rounds, settings, space), maps)
    files.write(found)
    return found


def _align_rigidly(builder: Builder, settings: Settings) -> dict[str, dict[str, Any]]:
    """Start with the rigid midway space of all times; returns the verdicts on all times but the first.

    The first time gives the starts only: all ordered pairs are registered from them, and treated alike.
    """
    times, rigid = builder.subjects, replace(settings, transform_type="rigid")
    starts = _rigid_motions(builder.runner, [(0, n) for n in range(1, len(times))], times, rigid, None)
    for (_, n), (_, verdict) in starts.items():
        if verdict is not None and verdict["level"] == DO_NOT_TRUST:
            raise InputError(
                f"{times[n].name} cannot be aligned with {times[0].name}: {' '.join(verdict['reasons'])} Check that "
                "both show the same patient, or leave one out."
            )
    still = RigidMotion(np.eye(3), np.zeros(3))
    to_time = [still, *(starts[0, n][0] for n in range(1, len(times)))]
    pairs = list(itertools.permutations(range(len(times)), 2))
    near = {(i, j): composed(to_time[j], inverted(to_time[i])) for i, j in pairs}
    motions = _rigid_motions(builder.runner, pairs, times, rigid, near)
    centers = [points_of(foreground(read_image(time.volume, f"volume of {time.name}"))).mean(0) for time in times]
    midway = midway_motions({pair: motion for pair, (motion, _) in motions.items()}, centers)
    linear = {time.name: motion.transform() for time, motion in zip(times, midway)}
    builder.begin_with_linear(linear, usual_spacing_mm(times))
    return {times[n].name: verdict for (_, n), (_, verdict) in starts.items() if verdict is not None}


def _rigid_motions(
    runner: Runner,
    pairs: Sequence[tuple[int, int]],
    times: Sequence[Subject],
    settings: Settings,
    starts: Mapping[tuple[int, int], RigidMotion] | None,
) -> dict[tuple[int, int], tuple[RigidMotion, dict[str, Any] | None]]:
    """What `register_rigidly` returns for each pair. Raises the error of a pair that fails."""
    near = starts or dict.fromkeys(pairs)
    work = {f"{times[i].name} to {times[j].name}": RigidJob(times[i], times[j], settings, near[i, j]) for i, j in pairs}
    found = {}
    for key, outcome in runner.run(register_rigidly, work, "rigid alignment" if starts is None else "rigid, all pairs"):
        if isinstance(outcome, Exception):
            raise outcome
        found[key] = outcome
    return {pair: found[key] for pair, key in zip(pairs, work)}


def _round(builder: Builder, number: int) -> RoundResult:
    lattice = builder.lattice
    assert lattice is not None
    stage = f"midway space, round {number} of {ROUNDS}"
    work = {
        time.name: RefinementJob(
            builder.template_path,
            len(builder.subjects),
            builder.folder(time),
            builder.update_folder,
            lattice,
            builder.map_lattice,
        )
        for time in builder.subjects
    }
    found = builder.run_jobs(refine_time, work, stage)
    if builder.left_out:
        raise InputError("; ".join(f"{name}: {sentence}" for name, sentence in builder.left_out.items()))
    return builder.average_round(number, stage, found)


def _space_of(labels: LabelMap, labels_of: str | None, times: Sequence[Subject]) -> str:
    """The name of the time that a label map belongs to, or "midway". Raises InputError where it is not known."""
    names = [time.name for time in times]
    if labels_of is not None:
        if labels_of not in (*names, MIDWAY):
            raise InputError(f'There is no time "{labels_of}" for the labels; there are {", ".join(names)}, midway.')
        return labels_of
    same = [time.name for time in times if same_lattice(labels.layers[0], read_image(time.volume, time.name))]
    if len(same) != 1:
        have = "none of the times has" if not same else f"{' and '.join(same)} have"
        raise InputError(f"It is not clear which time the labels belong to: {have} their voxels; give --labels-of.")
    return same[0]


def _outputs(folder: Path, times: Sequence[Subject]) -> Outputs:
    files = Outputs(inputs=[time.volume for time in times])
    files.add(folder / "midway.nii.gz", lambda made, path: write_image(made.image, path), (".nii.gz",), "midway volume")
    files.add(folder / "volumes.tsv", lambda made, path: write_volumes(made.volumes, path), (".tsv",), "volumes")
    files.add(folder / "report.json", lambda made, path: write_json(made.report, path), (".json",), "report")
    for first, second in itertools.permutations([*(time.name for time in times), MIDWAY], 2):

        def write(made: Longitudinal, path: str, first: str = first, second: str = second) -> None:
            write_transform(between(made.maps, first, second), path)

        files.add(folder / "maps" / f"{first}_to_{second}.h5", write, (".h5",), "map")
    return files


def between(maps: Mapping[str, Registration], first: str, second: str) -> sitk.Transform:
    """Points of one time (or of "midway") -> points of another, LPS mm, through the midway space."""
    parts = [] if second == MIDWAY else [sitk.Transform(maps[second].transform)]
    parts += [] if first == MIDWAY else [sitk.Transform(maps[first].inverse)]
    composed = sitk.CompositeTransform(parts)
    composed.FlattenTransform()
    return composed


def _report(
    times: Sequence[Subject],
    verdicts: Mapping[str, dict[str, Any]],
    rounds: Sequence[RoundResult],
    settings: Settings,
    space: str | None,
) -> dict[str, Any]:
    return {
        "version": __version__,
        "times": [{"name": time.name, "verdict_against_first": verdicts.get(time.name)} for time in times],
        "structures": "of the brain segmentation" if space is None else f"of a label map of {space}",
        "rounds": [each.to_dict() for each in rounds],
        "settings": settings.to_dict(),
    }
