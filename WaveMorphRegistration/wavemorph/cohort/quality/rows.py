"""The rows of a quality page: for each subject its numbers, and below them its pictures and what is to be said."""

from __future__ import annotations

import html
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ..finished import MISSING, number

# worst first; the signs carry the verdict where colors cannot
VERDICTS: Mapping[str, tuple[str, str]] = {
    "failed": ("failed", "\u2715"),
    "do not trust": ("distrust", "!"),
    "check": ("check", "?"),
    "good": ("good", "\u2713"),
}


class Column(NamedTuple):
    """A column of numbers: its name in subjects.tsv, its title, the digits after the point, what it means.

    group: the title above it and its neighbors. minor: left out on a narrow screen.
    """

    name: str
    title: str
    digits: int
    meaning: str
    group: str = ""
    minor: bool = False


_SIMILARITY = "Squared local correlation with the template, 1 for equal volumes"
_STRUCTURES = "Mean Dice overlap of the segmented brain structures"
_ERROR = "90 % of the errors of the map are expected to be below this, mm"
COLUMNS = (
    Column("similarity_before", "before", 3, f"{_SIMILARITY}, under the affine", "Similarity", True),
    Column("similarity_after", "after", 3, f"{_SIMILARITY}, registered", "Similarity"),
    Column("structures_before", "before", 3, f"{_STRUCTURES}, under the affine", "Structures", True),
    Column("structures_after", "after", 3, f"{_STRUCTURES}, registered", "Structures"),
    Column("expected_error_median_mm", "median", 2, f"{_ERROR}; median voxel", "Expected error, mm"),
    Column("expected_error_p95_mm", "95 %", 2, f"{_ERROR}; 95th percentile of voxels", "Expected error, mm"),
    Column("displacement_mean_mm", "mean", 2, "Displacement after the affine, mean, mm", "Displacement, mm", True),
    Column("displacement_max_mm", "max", 1, "Displacement after the affine, largest, mm", "Displacement, mm"),
    Column("jacobian_min", "min", 2, "Smallest Jacobian determinant", "Jacobian"),
    Column("jacobian_max", "max", 2, "Largest Jacobian determinant", "Jacobian"),
    Column("jacobian_sd_log", "SD log", 3, "Standard deviation of the logarithm of the Jacobian", "Jacobian", True),
    Column("folded_voxels_central", "central", 0, "Voxels with J <= 0 by central differences", "Folded", True),
    Column("folded_voxels_strict", "strict", 0, "Voxels with any one-sided J <= 0", "Folded"),
    Column("unseen_percent", "%", 0, "Part of the template that the subject's volume does not show", "Not scanned"),
    Column("seconds", "s", 0, "Seconds of the registration", "Time", True),
    Column("peak_memory_mb", "MB", 0, "Largest memory of the process", "Memory", True),
)
_FILES = {
    "transform": "transform",
    "inverse": "inverse",
    "warped": "registered volume",
    "jacobian": "Jacobian",
    "error_map": "expected error",
    "report": "report",
}
_SHOWN = {"subject", "status", "error", "verdict", "reasons", *_FILES, *(column.name for column in COLUMNS)}


@dataclass(frozen=True)
class Shown:
    """A subject as the page shows it: its row of subjects.tsv, and its pictures as data URIs or None."""

    row: Mapping[str, str]
    volume: str | None = None
    jacobian: str | None = None


def verdict_of(row: Mapping[str, str]) -> str:
    """One of `VERDICTS`; a subject that is not done has failed, and a verdict that is not known must be checked."""
    if row["status"] != "done":
        return "failed"
    verdict = row.get("verdict", MISSING)
    return verdict if verdict in VERDICTS and verdict != "failed" else "check"


def worst_first(row: Mapping[str, str]) -> tuple[int, float, str]:
    """Sorts rows by verdict, then by similarity."""
    similarity = number(row, "similarity_after")
    return list(VERDICTS).index(verdict_of(row)), -1.0 if similarity is None else similarity, row["subject"]


def header() -> str:
    """The head of the table: two rows of titles, with a button to sort by each column."""
    groups, titles = [], []
    for number_of, column in enumerate(COLUMNS):
        same = [other for other in COLUMNS if other.group == column.group]
        major = [other for other in same if not other.minor]
        if same[0] == column:
            narrow = f' data-narrow="{len(major)}"' if len(major) < len(same) else ""
            minor = "" if major else ' class="minor"'
            groups.append(f'<th scope="colgroup" colspan="{len(same)}"{narrow}{minor}>{escaped(column.group)}</th>')
        titles.append(
            f'<th scope="col" class="number{" minor" if column.minor else ""}" title="{escaped(column.meaning)}">'
            f'<button type="button" data-sort="{number_of + 2}">{escaped(column.title)}</button></th>'
        )
    sort_by_name = '<th scope="col" rowspan="2"><button type="button" data-sort="0">Subject</button></th>'
    sort_by_verdict = '<th scope="col" rowspan="2"><button type="button" data-sort="1">Verdict</button></th>'
    return f"<thead><tr>{sort_by_name}{sort_by_verdict}{''.join(groups)}</tr><tr>{''.join(titles)}</tr></thead>"


def body(shown: Shown, rank: int, shape: tuple[int, int]) -> str:
    """The rows of one subject. rank: of the verdict and the similarity, from the worst. shape: of its pictures."""
    row = shown.row
    verdict = verdict_of(row)
    kind, sign = VERDICTS[verdict]
    name = escaped(row["subject"])
    cells = [
        f'<th scope="rowgroup" data-value="{name}">{name}</th>',
        f'<td data-value="{rank}"><span class="verdict {kind}"><span aria-hidden="true">{sign}</span> '
        f"{verdict}</span></td>",
        *(_cell(row, column) for column in COLUMNS),
    ]
    return (
        f'<tbody id="s{rank}" data-verdict="{kind}"><tr>{"".join(cells)}</tr>'
        f'<tr class="details"><td colspan="{len(cells)}">{_details(shown, shape)}</td></tr></tbody>'
    )


def _cell(row: Mapping[str, str], column: Column) -> str:
    value = number(row, column.name)
    kind = "number minor" if column.minor else "number"
    if value is None:
        return f'<td class="{kind}" data-value="">\u2013</td>'
    return f'<td class="{kind}" data-value="{value:.9g}">{value:.{column.digits}f}</td>'


def _details(shown: Shown, shape: tuple[int, int]) -> str:
    row = shown.row
    name = escaped(row["subject"])
    rows, columns = shape
    pictures = [
        f'<div class="picture {kind}"><img src="{uri}" width="{columns}" height="{rows}" decoding="async" '
        f'alt="{alt} of {name}: axial, coronal and sagittal plane"></div>'
        for kind, uri, alt in (
            ("volume", shown.volume, "Registered volume"),
            ("jacobian", shown.jacobian, "Jacobian determinant"),
        )
        if uri
    ]
    words = f'<div class="words">{_words(shown)}</div>'
    return f'<div class="subject"><div class="pictures">{"".join(pictures)}</div>{words}</div>'


def _words(shown: Shown) -> str:
    """Error or reasons, covariates, and links to the files."""
    row = shown.row
    parts = [f"<p>{escaped(row[key])}</p>" for key in ("error", "reasons") if row.get(key, MISSING) != MISSING]
    if row["status"] == "done" and (shown.volume is None or shown.jacobian is None):
        parts.append("<p>A file of this subject is missing or cannot be read, so that it is not shown.</p>")
    covariates = [
        f"<dt>{escaped(key)}</dt><dd>{escaped(value)}</dd>" for key, value in row.items() if key not in _SHOWN
    ]
    links = [
        f'<a href="{escaped(urllib.parse.quote(row[key]))}">{title}</a>'
        for key, title in _FILES.items()
        if row.get(key, MISSING) != MISSING
    ]
    if covariates:
        parts.append(f"<dl>{''.join(covariates)}</dl>")
    if links:
        parts.append(f'<p class="files">Files: {", ".join(links)}</p>')
    return "".join(parts)


def escaped(text: str) -> str:
    """A text from a file in HTML, without signs that control a terminal or the direction of writing."""
    return html.escape("".join(each if each.isprintable() else " " for each in text), quote=True)
