"""The quality page of a study: one static file, without network and without scripts of others."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import SimpleITK as sitk

from ...errors import InputError
from ...io.outputs import Outputs
from ...io.reading import read_volume
from ...system.version import __version__
from ..finished import file_of, read_finished
from .assets import SCRIPT, STYLE
from .pictures import Frame, frame_of, jacobian_picture, volume_picture
from .rows import Shown, body, escaped, header, worst_first
from .summary import counts, legend, similarity_plot, template_figure

PAGE = "quality.html"
_EXPLANATION = """\
<details class="explanation"><summary>How to read this page</summary><ul>
<li><b>Verdict.</b> Look at each registration that is not <i>good</i> before you use it. <i>failed</i>: there is no
result. The reasons stand beside the pictures.</li>
<li><b>Pictures.</b> Each subject's volume, registered to the template, with the outlines of the <i>template</i>: yellow
around the whole, cyan around the brighter part. Where the registration is right, they follow the subject's borders.
Planes: axial, coronal, sagittal. The patient's right is on the left, in the sagittal plane anterior.</li>
<li><b>Jacobian.</b> The volume of the subject's tissue relative to the template's, size of the head included: red where
the subject has more, blue where it has less. A voxel is folded where it is not positive.</li>
<li><b>Numbers.</b> Rest the pointer on the title of a column to read what it means. A click sorts; <i>Verdict</i> sorts
worst first again. A dash: not measured.</li></ul></details>"""
_CONTROLS = """\
<div class="controls">
<label>Find <input type="search" id="find" placeholder="subject, reason, covariate"></label>
<label><input type="checkbox" data-toggle="no-pictures" checked> Pictures</label>
<label><input type="checkbox" data-toggle="no-outlines" checked> Outlines</label>
<label><input type="checkbox" data-toggle="show-template"> Template in place of the volumes</label>
<label><input type="checkbox" data-toggle="large"> Large</label>
<output id="shown"></output></div>"""


def write_quality_page(study_folder: str | os.PathLike, fixed_path: str | os.PathLike) -> Path:
    """Write quality.html into the folder of a finished study, and return its path.

    A row for each subject of subjects.tsv, worst first. A picture that cannot be made is left out, and the row says so.

    Parameters:
        study_folder: with subjects.tsv and the volumes that it names.
        fixed_path: the fixed volume of all registrations.

    Raises:
        InputError: there is no table, or the fixed volume cannot be read.
        OutputError: the page cannot be written.
    """
    study = Path(study_folder)
    rows = sorted(read_finished(study), key=worst_first)
    frame = frame_of(read_volume(fixed_path, "fixed volume").image)
    subjects = [_shown(study, row, frame) for row in rows]
    files = Outputs(inputs=[fixed_path])
    files.add(study / PAGE, _write_text, (".html",), "quality page")
    return files.write(_document(os.path.basename(os.path.realpath(study)), subjects, frame))[0]


def _write_text(text: str, path: str) -> None:
    Path(path).write_text(text, encoding="utf-8")


def _shown(study: Path, row: Mapping[str, str], frame: Frame) -> Shown:
    """A subject with the pictures that can be made of it."""
    pictures = {}
    for column, picture in (("warped", volume_picture), ("jacobian", jacobian_picture)):
        image = _image(file_of(study, row, column))
        pictures[column] = None if image is None else picture(image, frame.planes, frame.subject)
    return Shown(row, pictures["warped"], pictures["jacobian"])


def _image(path: Path | None) -> sitk.Image | None:
    if path is None:
        return None
    try:
        return read_volume(path).image
    except InputError:
        return None


def _document(study: str, subjects: list[Shown], frame: Frame) -> str:
    title = f"Quality of registrations: {escaped(study)}"
    style = f':root{{--outlines:url("{frame.outlines}");--template:url("{frame.fixed}")}}{STYLE}'
    checksum = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode("ascii")
    # even a text that slipped through as HTML could neither run nor load anything
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{checksum}'"
    bodies = "\n".join(body(shown, rank, frame.shape) for rank, shown in enumerate(subjects))
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{style}</style></head>
<body><header><h1>{title}</h1><p class="program">{len(subjects)} subjects, WaveMorph {__version__}</p></header>
<main><section class="summary" aria-label="Summary"><div>{counts(subjects)}{_EXPLANATION}</div>
{similarity_plot(subjects)}{template_figure(frame)}</section>
{_CONTROLS}{legend()}
<table><caption>Subjects, worst first</caption>{header()}
{bodies}</table></main>
<script>{SCRIPT}</script></body></html>
"""
