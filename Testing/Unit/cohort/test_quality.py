"""The quality page: its planes and pictures by what is known of a phantom, its HTML as a browser would read it."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import numpy as np
import phantoms
import pytest
import SimpleITK as sitk
import studies
from wavemorph.cohort.finished import read_finished
from wavemorph.cohort.quality import write_quality_page
from wavemorph.cohort.quality.pictures import frame_of, jacobian_picture
from wavemorph.cohort.quality.planes import planes_through
from wavemorph.errors import InputError

HOSTILE = 'x"><script>alert(1)</script><img src=http://evil.example/a onerror=alert(2)>'


class Page(HTMLParser):
    """Elements of a page in order, as (tag, attributes), and the text within each tag."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words += data

    def all(self, tag: str, **attributes: str) -> list[dict]:
        return [
            found
            for name, found in self.elements
            if name == tag and all(found.get(key) == value for key, value in attributes.items())
        ]


def lattice(direction=None, spacing=(2.0, 2.0, 2.0), size=(40, 44, 36)) -> sitk.Image:
    image = sitk.Image(size, sitk.sitkFloat32)
    image.SetSpacing(spacing)
    if direction is not None:
        image.SetDirection(np.ravel(direction).tolist())
    center = np.array(image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in size]))
    image.SetOrigin((-center).tolist())
    return image


def ball(image: sitk.Image, center, radius: float) -> np.ndarray:
    points = phantoms.physical_points(image)
    return (((points - np.array(center)) ** 2).sum(-1) < radius**2).astype(np.float32)


def with_array(image: sitk.Image, array: np.ndarray) -> sitk.Image:
    made = sitk.GetImageFromArray(array)
    made.CopyInformation(image)
    return made


def pixels(uri: str, tmp_path) -> np.ndarray:
    kind, content = uri.removeprefix("data:image/").split(";base64,")
    path = tmp_path / f"picture.{'png' if kind == 'png' else 'jpg'}"
    path.write_bytes(base64.b64decode(content))
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study of four subjects, one of each verdict, and its page."""
    folder = tmp_path_factory.mktemp("study")
    image = lattice()
    head = 100 * ball(image, (0, 0, 0), 30) + 80 * ball(image, (0, 0, 0), 18)
    sitk.WriteImage(with_array(image, head), str(folder / "template.nii.gz"))
    volumes = {"warped": head + 1, "jacobian": np.full(head.shape, 1.5, np.float32)}
    numbers = {"similarity_before": 0.5, "seconds": 31.4, "folded_voxels_strict": 0}
    studies.write_table(
        folder,
        [
            studies.done(folder, "good-2", image, similarity_after=0.91, age=70, **volumes, **numbers),
            studies.done(folder, "good-1", image, similarity_after=0.9, age=30, **volumes, **numbers),
            studies.done(folder, "sub-4", image, similarity_after=0.95, verdict="check", reasons="Look.", **volumes),
            studies.done(folder, "sub-3", image, similarity_after=0.1, verdict="do not trust", **volumes),
            {"subject": "sub-0", "status": "failed", "error": "The volume is damaged; copy it again."},
        ],
    )
    path = write_quality_page(folder, folder / "template.nii.gz")
    assert path == folder / "quality.html"
    return path.read_text(encoding="utf-8")


def test_the_worst_subjects_come_first(study):
    names = [each["data-value"] for each in Page(study).all("th", scope="rowgroup")]
    assert names == ["sub-0", "sub-3", "sub-4", "good-1", "good-2"]


def test_the_numbers_are_shown_and_sorted_by_their_exact_values(study):
    page = Page(study)
    assert [each.get("data-value") for each in page.all("td")].count("31.4") == 2
    assert "31" in page.words and "0.910" in page.words and "\u2013" in page.words


def test_each_column_has_a_button_to_sort_by(study):
    page = Page(study)
    columns = [int(each["data-sort"]) for each in page.all("button") if "data-sort" in each]
    cells = study[study.index('<tbody id="s0"') :]
    cells = cells[: cells.index("</tr>")]
    assert sorted(columns) == list(range(len(re.findall("<t[hd]", cells))))


def test_errors_reasons_and_covariates_stand_in_words(study):
    words = Page(study).words
    for text in ("The volume is damaged; copy it again.", "Look.", "age", "70"):
        assert text in words


def test_the_summary_counts_each_verdict(study):
    found = re.findall(r"<b>(\d+)</b> ([a-z ]+)</button>", study)
    assert found == [("1", "failed"), ("1", "do not trust"), ("1", "check"), ("2", "good")]


def test_the_similarity_plot_leads_to_each_row(study):
    page = Page(study)
    ids = {each["id"] for each in page.all("tbody")}
    targets = {each["href"].removeprefix("#") for each in page.all("a") if each["href"].startswith("#")}
    assert targets == ids - {"s0"}  # what failed has no similarity


def test_every_picture_has_words_and_its_size(study):
    pictures = Page(study).all("img")
    assert len(pictures) == 1 + 2 * 4
    assert all(each["alt"] and int(each["width"]) > 0 and int(each["height"]) > 0 for each in pictures)


def test_the_page_loads_nothing_from_anywhere(study):
    page = Page(study)
    sources = [each.get("src") or each.get("href") for _, each in page.elements if "src" in each or "href" in each]
    assert all(source.startswith(("data:image/", "#")) or re.fullmatch(r"[\w./-]+", source) for source in sources)
    assert "http:" not in study and "https:" not in study and not page.all("link")
    assert "default-src 'none'" in study


def test_a_subject_takes_less_than_a_hundred_kilobytes(study):
    assert max(map(len, re.findall("<tbody.*?</tbody>", study, re.DOTALL))) < 100_000


def test_text_from_files_is_never_html(tmp_path):
    image = lattice()
    head = ball(image, (0, 0, 0), 30)
    sitk.WriteImage(with_array(image, head), str(tmp_path / "template.nii.gz"))
    row = {key: HOSTILE for key in studies.COLUMNS}
    good = studies.done(tmp_path, "sub-1", image, warped=head, jacobian=1 + head)
    studies.write_table(
        tmp_path,
        [
            {**row, "status": "done", "jacobian_min": "nan", HOSTILE: HOSTILE},
            {**good, "reasons": HOSTILE, "transform": "javascript:alert(1)", "report": "../../etc/passwd"},
        ],
    )
    page = Page(write_quality_page(tmp_path, tmp_path / "template.nii.gz").read_text(encoding="utf-8"))
    assert len(page.all("script")) == 1
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert all(":" not in each["href"] for each in page.all("a"))
    assert all(each["src"].startswith("data:") for each in page.all("img"))
    assert page.words.count(HOSTILE) > 4  # shown as it is written


def test_a_file_that_is_gone_or_outside_the_study_is_said_to_be_missing(tmp_path):
    image = lattice()
    head = ball(image, (0, 0, 0), 30)
    folder = tmp_path / "study"
    template = tmp_path / "template.nii.gz"
    sitk.WriteImage(with_array(image, head), str(template))
    studies.write_table(
        folder,
        [
            studies.done(folder, "sub-1", image, warped="gone.nii.gz", jacobian=1 + head),
            studies.done(folder, "sub-2", image, warped="../template.nii.gz", jacobian=1 + head),
        ],
    )
    page = write_quality_page(folder, template).read_text(encoding="utf-8")
    assert page.count("A file of this subject is missing") == 2
    assert len(Page(page).all("img")) == 1 + 2


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "no finished study"),
        (b"", "no subjects with a status"),
        (b"subject\tstatus\n", "no subjects with a status"),
        (b"name\tage\na\t3\n", "no subjects with a status"),
        (b"subject\tstatus\n\xff\xfe\t\n", "cannot be read"),
    ],
)
def test_what_is_no_study_is_refused_with_a_sentence(tmp_path, content, sentence):
    if content is not None:
        (tmp_path / "subjects.tsv").write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        read_finished(tmp_path)


FLIPPED = np.diag([-1.0, -1.0, 1.0])
PERMUTED = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]], float)


@pytest.mark.parametrize("direction", [np.eye(3), FLIPPED, PERMUTED, phantoms.rotation((8, -6, 10))])
def test_right_is_left_anterior_is_up_or_left_and_superior_is_up(direction):
    image = lattice(direction)
    inside = with_array(image, (ball(image, (0, 0, 0), 30) > 0).astype(np.uint8))
    planes = planes_through(image, inside)
    axes = direction[:, np.abs(direction).argmax(1)]  # nearest to L, P, S
    axes = axes * np.sign(np.diag(axes))
    for axis, sign, expected in (
        (0, -1, (("left", None), ("left", None), None)),
        (1, -1, ((None, "up"), None, ("left", None))),
        (2, 1, (None, (None, "up"), (None, "up"))),
    ):
        marker = with_array(image, ball(image, sign * 20 * axes[:, axis] - 6 * axes[:, 0] * (axis > 0), 9))
        for slice_lattice, places in zip(planes.lattices, expected):
            if places is None:
                continue
            found = sitk.GetArrayFromImage(sitk.Resample(marker, slice_lattice))[0]
            assert found.max() > 0
            row, column = (np.argwhere(found > 0.5).mean(0) + 0.5) / found.shape
            across, down = places
            assert (column < 0.4) == (across == "left")
            assert (row < 0.4) == (down == "up")


def test_all_pixels_have_one_size_and_the_planes_hold_the_subject():
    image = lattice(spacing=(1.5, 2.0, 3.0))
    inside = with_array(image, (ball(image, (0, 0, 0), 25) > 0).astype(np.uint8))
    for plane in planes_through(image, inside).lattices:
        disk = sitk.GetArrayFromImage(sitk.Resample(inside, plane, sitk.Transform(), sitk.sitkNearestNeighbor))[0] > 0
        size = plane.GetSpacing()[0]
        assert plane.GetSpacing()[1] == size
        assert not (disk[0].any() or disk[-1].any() or disk[:, 0].any() or disk[:, -1].any())
        assert disk.any(0).sum() * size == pytest.approx(50, abs=3.1)
        assert disk.any(1).sum() * size == pytest.approx(50, abs=3.1)


def test_an_image_without_a_subject_is_shown_whole():
    image = lattice()
    planes = planes_through(image, with_array(image, np.zeros((36, 44, 40), np.uint8)))
    assert planes.montage(image).shape[1] == pytest.approx(640, abs=3)


def test_the_outlines_lie_on_the_border_of_the_template(tmp_path):
    image = lattice()
    frame = frame_of(with_array(image, 100 * ball(image, (0, 0, 0), 30) + 80 * ball(image, (0, 0, 0), 15)))
    rgba = pixels(frame.outlines, tmp_path)
    axial = frame.planes.lattices[0]
    width, height = axial.GetSize()[:2]
    outlined = rgba[: 2 * height, : 2 * width]
    for color, radius in (((255, 214, 0), 30), ((0, 220, 255), 15)):
        rows, columns = np.nonzero((outlined[..., 3] > 0) & np.all(outlined[..., :3] == color, axis=-1))
        points = np.stack([columns + 0.5 - width, rows + 0.5 - height], axis=1) / 2 * axial.GetSpacing()[0]
        distances = np.linalg.norm(points, axis=1)
        assert distances.mean() == pytest.approx(radius, abs=1.0)
        assert np.abs(distances - radius).max() < 2.5  # the voxels of the ball have 2 mm


@pytest.mark.parametrize(
    ("value", "color"),
    [(4.0, (178, 24, 43)), (1.0, (247, 247, 247)), (0.25, (33, 102, 172)), (-0.1, (255, 0, 255))],
)
def test_colors_of_the_jacobian_say_more_less_and_folded(tmp_path, value, color):
    image = lattice()
    frame = frame_of(with_array(image, ball(image, (0, 0, 0), 30)))
    jacobian = with_array(image, np.full((36, 44, 40), value, np.float32))
    picture = pixels(jacobian_picture(jacobian, frame.planes, frame.subject), tmp_path)
    deep = np.argwhere(frame.subject).mean(0).astype(int)
    middle = picture[deep[0] - 3 : deep[0] + 3, 100:110]
    assert np.abs(middle.mean((0, 1)) - color).max() < 8
    assert picture[0, 0].max() < 8
