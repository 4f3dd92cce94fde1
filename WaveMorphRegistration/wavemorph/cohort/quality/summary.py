"""The top of a quality page: how many of each verdict, the similarities, the template, and how to read the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..finished import number
from .pictures import JACOBIAN_COLORS, JACOBIAN_RANGE, Frame
from .rows import VERDICTS, Shown, escaped, verdict_of

_PLOT_WIDTH, _PLOT_HEIGHT, _SIDE, _DOT = 460, 130, 10, 4  # pixels; at each side, and the radius of a dot
_BINS = 50  # of the similarity, from 0 to 1
_SHAPES = {  # of a dot of radius 1, so that the verdict is told by more than its color
    "good": '<circle r="1"/>',
    "check": '<path d="M0-1.3 1.3 0 0 1.3-1.3 0z"/>',
    "distrust": '<path d="M-1-1h2v2h-2z"/>',
    "failed": '<path d="M-1-1h2v2h-2z"/>',
}


def counts(subjects: Sequence[Shown]) -> str:
    """A button for each verdict with its number of subjects, which shows only these."""
    found = Counter(verdict_of(shown.row) for shown in subjects)
    buttons = [
        f'<button type="button" class="count {kind}" data-verdict="{kind}" aria-pressed="false">'
        f'<span class="sign" aria-hidden="true">{sign}</span><b>{found[verdict]}</b> {verdict}</button>'
        for verdict, (kind, sign) in VERDICTS.items()
    ]
    return f'<div class="counts" role="group" aria-label="Show one verdict only">{"".join(buttons)}</div>'


def similarity_plot(subjects: Sequence[Shown]) -> str:
    """A dot for each subject over its similarity after registration; each leads to its row."""
    columns: dict[int, list[str]] = {}
    tallest = 1
    for rank, shown in enumerate(subjects):
        value = number(shown.row, "similarity_after")
        if value is None:
            continue
        column = columns.setdefault(min(max(int(value * _BINS), 0), _BINS - 1), [])
        kind = VERDICTS[verdict_of(shown.row)][0]
        name = escaped(shown.row["subject"])
        column.append(f'<a href="#s{rank}" class="{kind}"><title>{name}: {value:.3f}</title>{_SHAPES[kind]}</a>')
        tallest = max(tallest, len(column))
    span, base = _PLOT_WIDTH - 2 * _SIDE, _PLOT_HEIGHT - 22
    step = min(2.3 * _DOT, (base - 2 * _DOT) / tallest)
    dots = [
        f'<g transform="translate({_SIDE + (place + 0.5) / _BINS * span:.1f} {base - 7 - level * step:.1f}) '
        f'scale({_DOT})">{dot}</g>'
        for place, column in sorted(columns.items())
        for level, dot in enumerate(column)
    ]
    ticks = "".join(
        f'<text x="{_SIDE + part * span:.0f}" y="{base + 15}" text-anchor="middle">{part:.1f}</text>'
        f'<path class="axis" d="M{_SIDE + part * span:.0f} {base}v4"/>'
        for part in (0, 0.2, 0.4, 0.6, 0.8, 1)
    )
    return (
        '<figure class="plot"><figcaption>Similarity after registration, one mark a subject</figcaption>'
        f'<svg viewBox="0 0 {_PLOT_WIDTH} {_PLOT_HEIGHT}" role="img" aria-label="Similarity of all subjects; the '
        f'table has the numbers"><path class="axis" d="M{_SIDE} {base}h{span}"/>{ticks}{"".join(dots)}</svg>'
        "</figure>"
    )


def template_figure(frame: Frame) -> str:
    """The fixed volume with its outlines."""
    rows, columns = frame.shape
    return (
        '<figure class="template"><figcaption>The template and its outlines. Right is on the left.</figcaption>'
        f'<div class="picture volume"><img src="{frame.fixed}" width="{columns}" height="{rows}" '
        'alt="The template: axial, coronal and sagittal plane"></div></figure>'
    )


def legend() -> str:
    """The colors of the Jacobian determinant."""
    stops = ",".join(f"rgb{color}".replace(" ", "") for color in JACOBIAN_COLORS)
    ends = [2.0 ** (JACOBIAN_RANGE * part) for part in (-1, -0.5, 0, 0.5, 1)]
    labels = "".join(f"<span>{value:.2g}</span>" for value in ends)
    return (
        '<div class="legend"><span>Jacobian: the subject has less tissue</span>'
        f'<span class="scale"><span class="bar" style="background:linear-gradient(90deg,{stops})"></span>'
        f'<span class="ticks">{labels}</span></span><span>more tissue than the template; '
        "folded voxels are magenta</span></div>"
    )
