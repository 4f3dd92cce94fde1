"""`make_template`: from the volumes of a population to a template, the maps of all subjects, and tables."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Sequence
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
from ...system.version import __version__
from ..runner import Runner, SerialRunner
from ..study.folder import study_folder
from ..study.records import Record, checksum, provenance
from ..subjects import Subject, subjects_from_files
from .build import MIN_SUBJECTS, Builder, RoundResult
from .keeping import KeepingRunner, RoundStore, remove
from .names import Names, names_for

STATE_FOLDER = ".wavemorph_template"
_RECORD = "record.json"  # of the whole template
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
    *,
    bids: str | os.PathLike | None = None,
    resume: bool = False,
) -> Template:
    """Make an unbiased template of a population: mean intensities in the mean of the subjects' shapes.

    Written into the folder `output`: template.nii.gz, convergence.tsv, subjects.tsv, template.json and for each subject
    NAME/template_to_subject.h5 (template points -> subject points) and NAME/subject_to_template.h5, LPS mm.

    Parameters:
        subjects: at least two, of the same kind of scan; files, or `Subject`s.
        output: a new or an empty folder, or with `resume` that of the template.
        options: see `TemplateOptions`.
        settings: of the registrations; the transform type is chosen here.
        runner: where the subjects are registered; by default one after another in this process.
        report: called with a sentence after each round.
        bids: the BIDS data set that the subjects were read from; the outputs are then a BIDS derivative.
        resume: leave rounds and subjects alone that are complete and made from the same volumes, settings and weights
            by the same version.

    Raises:
        InputError: fewer than two subjects can be used, or the existing template cannot be read.
        SettingsError: a choice is out of range.
        OutputError: the folder cannot be written to, is not empty, or another process works on it.
    """
    chosen, folder = [subject.absolute() for subject in as_subjects(subjects)], Path(os.path.abspath(output))
    options, settings = options or TemplateOptions(), settings or Settings()
    if len(chosen) < MIN_SUBJECTS:
        raise InputError(f"A template needs at least {MIN_SUBJECTS} subjects, not {len(chosen)}.")
    begin = None if options.begin_with is None else read_image(options.begin_with, "template to begin with")
    names = names_for(folder, bids, chosen[0].entities.get("suffix", "T1w"))
    making = _Making(chosen, names, options, settings, begin)
    with study_folder(folder, STATE_FOLDER, "template", resume):
        return making.finished() or making.make(runner or SerialRunner(), report)


def as_subjects(subjects: Iterable[Subject | str | os.PathLike]) -> list[Subject]:
    """Files as subjects named after them; subjects as they are. Raises InputError."""
    given = list(subjects)
    named = [each for each in given if isinstance(each, Subject)]
    return named if len(named) == len(given) and named else subjects_from_files(given)  # type: ignore[arg-type]


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


class _Making:
    """What a template is made from, where its files go, and how it is made."""

    def __init__(
        self,
        subjects: Sequence[Subject],
        names: Names,
        options: TemplateOptions,
        settings: Settings,
        begin: sitk.Image | None,
    ):
        """Raises OutputError where a file cannot be written."""
        self._subjects, self._names, self._options, self._settings = subjects, names, options, settings
        self._begin = begin
        self._state = names.folder / STATE_FOLDER
        self._maps = {each.name: (names.path(each, "transform"), names.path(each, "inverse")) for each in subjects}
        self._files = Outputs(inputs=[each.volume for each in subjects])
        tables = [names.folder / name for name in ("convergence.tsv", "subjects.tsv", "template.json")]
        self._whole = [names.template, *tables]  # files of the template as a whole
        writers = (_write_template, _write_convergence, _write_subjects, self._write_summary)
        for path, writer, called in zip(self._whole, writers, ("template", "rounds", "subjects", "summary")):
            self._files.add(path, writer, (".nii.gz", ".tsv", ".json"), called)

    def finished(self) -> Template | None:
        """The template where it is complete and made from the same; else None."""
        record = Record.read(self._state / _RECORD)
        if record is None or not record.holds(self._whole_made_from, [], self._names.folder):
            return None
        row = record.row
        rounds = tuple(RoundResult(**each) for each in row["rounds"])
        return Template(sitk.ReadImage(str(self._names.template)), rounds, tuple(row["subjects"]), row["left_out"])

    def make(self, runner: Runner, report: Callable[[str], None]) -> Template:
        """Do what is left, and write all files. Files of the work are removed when they are."""
        self._names.write_description()
        work, jobs = self._state / "work", self._state / "jobs"
        builder = Builder(
            list(self._subjects), work, KeepingRunner(runner, self._names.folder, jobs), self._options.symmetric
        )
        store = RoundStore(self._state / "round", (builder.template_path, builder.update_folder))
        rounds = self._rounds(builder, store, report)
        builder.write_maps(lambda subject: self._maps[subject.name])
        used = tuple(subject.name for subject in builder.subjects)
        template = Template(builder.template(), tuple(rounds), used, builder.left_out)
        self._files.write(template)
        self._record(template)
        former = [path for name in template.left_out for path in self._maps[name]]
        for path in (work, jobs, self._state / "round", *former):
            remove(path)
        return template

    def _record(self, template: Template) -> None:
        """Record what `finished` compares."""
        row = {
            "rounds": [each.to_dict() for each in template.rounds],
            "subjects": template.subjects,
            "left_out": template.left_out,
        }
        written = [*self._whole, *(path for name in template.subjects for path in self._maps[name])]
        checksums = {path.relative_to(self._names.folder).as_posix(): checksum(path) for path in written}
        Record(self._whole_made_from, checksums, row).put(self._state / _RECORD)

    def _rounds(self, builder: Builder, store: RoundStore, report: Callable[[str], None]) -> list[RoundResult]:
        """All rounds: those that were kept, and the others made."""
        options, made_from = self._options, self._made_from
        builder.work.mkdir(parents=True, exist_ok=True)
        kept = store.restore(made_from, options.rounds)
        rounds: list[RoundResult] = []
        if kept is not None:
            builder.set_state(kept["builder"])
            rounds = [RoundResult(**each) for each in kept["rounds"]]
        elif self._begin is not None:
            builder.begin_with(self._begin, options.spacing_mm)
        first = 0 if self._begin is None else 1
        for number in range(first + len(rounds), options.rounds + 1):
            rounds.append(self._round(builder, number))
            report(rounds[-1].sentence())
            if number < options.rounds:
                row = {"builder": builder.state(), "rounds": [each.to_dict() for each in rounds]}
                store.save(number, made_from, row)
        return rounds

    def _round(self, builder: Builder, number: int) -> RoundResult:
        options, settings = self._options, self._settings
        if number == 0:
            return builder.linear_start(options.spacing_mm or usual_spacing_mm(builder.subjects), settings)
        assert builder.lattice is not None
        coarse = number == 1 and options.rounds > 1
        spacing = _COARSE * max(builder.lattice.spacing) if coarse else settings.spacing_mm
        here = replace(settings, transform_type="deformable", spacing_mm=spacing)
        return builder.deformable_round(number, options.rounds, here)

    @functools.cached_property
    def _made_from(self) -> dict[str, Any]:
        """What decides the rounds; of more than one, their number does not decide the first ones."""
        options = self._options
        files = {f"{each.name} {what}": path for each in self._subjects for what, path in each.files.items()}
        if options.begin_with is not None:
            files["begin_with"] = Path(options.begin_with)
        choices = {
            "subjects": [each.name for each in self._subjects],
            "spacing_mm": options.spacing_mm,
            "symmetric": options.symmetric,
            "coarse_start": options.rounds > 1,
        }
        readable = {name: path for name, path in files.items() if os.access(path, os.R_OK)}  # others are left out later
        return provenance(readable, self._settings, **choices)

    @property
    def _whole_made_from(self) -> dict[str, Any]:
        return {**self._made_from, "rounds": self._options.rounds}

    def _write_summary(self, template: Template, path: str) -> None:
        write_json(_summary(template, self._options, self._settings), path)


def _write_template(template: Template, path: str) -> None:
    write_image(template.image, path)


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
