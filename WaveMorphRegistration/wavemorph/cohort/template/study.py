"""`make_template`: from the volumes of a population to a template, the maps of all subjects, and tables."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from ...errors import InputError, SettingsError
from ...io.files import without_names
from ...io.images import read_image
from ...io.outputs import Outputs, write_image, write_json
from ...io.reading import read_lattice
from ...settings import Settings
from ...system.private_folders import private_folder
from ...system.version import __version__
from ..runner import Runner, SerialRunner
from ..subjects import Subject, subjects_from_files
from .build import MIN_SUBJECTS, Builder, RoundResult

TO_SUBJECT, FROM_SUBJECT = "template_to_subject.h5", "subject_to_template.h5"
DEFAULT_ROUNDS = 3
_COARSE = 2  # the first of several rounds is at this many times the spacing of the template
_MOST_ROUNDS = 50


@dataclass(frozen=True)
class TemplateOptions:
    """Choices for `make_template`.

    rounds: registrations of each subject to the template of the round before. spacing_mm: of the template's voxels;
    None for the median of the subjects' finest. symmetric: left-right symmetric. begin_with: an existing template.
    """

    rounds: int = DEFAULT_ROUNDS
    spacing_mm: float | None = None
    symmetric: bool = False
    begin_with: str | os.PathLike | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.rounds <= _MOST_ROUNDS:
            raise SettingsError(f"A template takes 1 to {_MOST_ROUNDS} rounds, not {self.rounds}; 3 are usual.")
        if self.spacing_mm is not None and not 0.001 <= self.spacing_mm <= 100:
            raise SettingsError(f"A template has voxels of 0.001 to 100 mm, not {self.spacing_mm:g} mm.")


@dataclass(frozen=True)
class Template:
    """What `make_template` made.

    image: the template, int16, 0 to 1000. rounds: what each changed, the linear start first. subjects: the names of
    those that it is the mean of. left_out: a sentence for each of the others.
    """

    image: sitk.Image
    rounds: tuple[RoundResult, ...]
    subjects: tuple[str, ...]
    left_out: dict[str, str]


def make_template(
    subjects: Iterable[Subject | str | os.PathLike],
    output: str | os.PathLike,
    options: TemplateOptions | None = None,
    settings: Settings | None = None,
    runner: Runner | None = None,
    report: Callable[[str], None] = lambda sentence: None,
) -> Template:
    """Make an unbiased template of a population: mean intensities in the mean of the subjects' shapes.

    Written into the folder `output`: template.nii.gz, convergence.tsv, subjects.tsv, template.json and for each subject
    NAME/template_to_subject.h5 (template points -> subject points) and NAME/subject_to_template.h5, LPS mm.

    Parameters:
        subjects: at least two, of the same kind of scan; files, or `Subject`s.
        output: a folder; files of the same names in it are replaced.
        options: see `TemplateOptions`.
        settings: of the registrations; the transform type is chosen here.
        runner: where the subjects are registered; by default one after another in this process.
        report: called with a sentence after each round.

    Raises:
        InputError: fewer than two subjects can be used, or the existing template cannot be read.
        SettingsError: a choice is out of range.
        OutputError: the folder cannot be written to.
    """
    chosen, folder = as_subjects(subjects), Path(output)
    options, settings = options or TemplateOptions(), settings or Settings()
    if len(chosen) < MIN_SUBJECTS:
        raise InputError(f"A template needs at least {MIN_SUBJECTS} subjects, not {len(chosen)}.")
    files = Outputs(inputs=[subject.volume for subject in chosen])
    files.add(folder / "template.nii.gz", lambda made, path: write_image(made.image, path), (".nii.gz",), "template")
    files.add(folder / "convergence.tsv", _write_convergence, (".tsv",), "table of rounds")
    files.add(folder / "subjects.tsv", _write_subjects, (".tsv",), "table of subjects")
    files.add(
        folder / "template.json", lambda made, path: write_json(_summary(made, options, settings), path), (".json",)
    )
    begin = None if options.begin_with is None else read_image(options.begin_with, "template to begin with")
    folder.mkdir(parents=True, exist_ok=True)
    with private_folder(folder) as work:
        builder = Builder(chosen, work, runner or SerialRunner(), options.symmetric)
        rounds = _all_rounds(builder, options, settings, begin, report)
        builder.write_maps(lambda subject: (folder / subject.name / TO_SUBJECT, folder / subject.name / FROM_SUBJECT))
        names = tuple(subject.name for subject in builder.subjects)
        template = Template(builder.template(), tuple(rounds), names, builder.left_out)
        files.write(template)
    return template


def as_subjects(subjects: Iterable[Subject | str | os.PathLike]) -> list[Subject]:
    """Files as subjects named after them; subjects as they are. Raises InputError."""
    given = list(subjects)
    named = [each for each in given if isinstance(each, Subject)]
    return named if len(named) == len(given) and named else subjects_from_files(given)  # type: ignore[arg-type]


def _all_rounds(
    builder: Builder,
    options: TemplateOptions,
    settings: Settings,
    begin: sitk.Image | None,
    report: Callable[[str], None],
) -> list[RoundResult]:
    rounds = []
    if begin is None:
        spacing = options.spacing_mm or usual_spacing_mm(builder.subjects)
        rounds.append(builder.linear_start(spacing, settings))
        report(rounds[-1].sentence())
    else:
        builder.begin_with(begin, options.spacing_mm)
    assert builder.lattice is not None
    spacing, fine = max(builder.lattice.spacing), settings.spacing_mm
    for number in range(1, options.rounds + 1):
        coarse = number == 1 and options.rounds > 1
        here = replace(settings, transform_type="deformable", spacing_mm=_COARSE * spacing if coarse else fine)
        rounds.append(builder.deformable_round(number, options.rounds, here))
        report(rounds[-1].sentence())
    return rounds


def usual_spacing_mm(subjects: Iterable[Subject]) -> float:
    """The median of the subjects' finest spacings; volumes that cannot be read are reported later."""
    finest = []
    for subject in subjects:
        try:
            finest.append(min(read_lattice(subject.volume, f"volume of {subject.name}").GetSpacing()))
        except InputError:
            continue
    if not finest:
        raise InputError("None of the volumes can be read; check the files.")
    return float(np.median(finest))


def _write_convergence(template: Template, path: str) -> None:
    rows = [each.to_dict() for each in template.rounds]
    lines = ["\t".join(rows[0]), *("\t".join(_cell(value) for value in row.values()) for row in rows)]
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_subjects(template: Template, path: str) -> None:
    lines = ["subject\tused\treason", *(f"{name}\tyes\tn/a" for name in template.subjects)]
    lines += [f"{name}\tno\t{without_names(' '.join(reason.split()))}" for name, reason in template.left_out.items()]
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _summary(template: Template, options: TemplateOptions, settings: Settings) -> dict[str, Any]:
    """The entries of template.json."""
    return {
        "version": __version__,
        "subjects": len(template.subjects),
        "left_out": len(template.left_out),
        "symmetric": options.symmetric,
        "begun_with_template": options.begin_with is not None,
        "spacing_mm": list(template.image.GetSpacing()),
        "settings": settings.to_dict(),
        "rounds": [each.to_dict() for each in template.rounds],
    }


def _cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
