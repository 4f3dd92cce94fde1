"""What a network sees in each of the two volumes, and an affine that brings the same structures together (ours).

Two scans of different contrast, or a whole head and a brain without its skull, share no intensities to compare, but
they show the same structures. Where a volume shows no brain that could be told, `see` gives None and all goes without.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F

from . import field
from .geometry import (
    WorkingGrid,
    grid_along,
    image_from_tensor,
    make_working_grid,
    tensor_from_array,
    tensor_from_image,
)
from .machine import computes_in_bfloat16
from .network.anatomy import STRUCTURES, AnatomyNetwork
from .preprocessing import bounding_box, normalise, seen_on_grid

_SPACING_MM = 1.0  # what the network was trained on
_MARGIN_MM = 2.0
_MOST_VOXELS = 20_000_000  # no head is this large
_SCATTER_MM = 10.0  # root mean square by which middles may miss those of the template: 1 to 8 in heads, more in noise
_SMALL_SCATTER_MM = 5.0  # 1 to 3 in heads that are seen well; 7 and 8 where one on its side was taken for upright
_CERTAIN = 0.7  # mean share of the likeliest structure
_BRIDGE_MM = 4.0  # half the width of bridges from the brain to what is taken for brain outside
_SULCI_MM = 6.0  # half the width of the fluid between folds
_SKULL_MM = 6.0  # what may lie around a bare brain
_COARSE_MM = 3.0  # voxels on which that is told
_HEAD = 0.05  # share of what a volume shows that lies farther than that from the brain, in a whole head
_TURN_DEGREES = 30.0
_UPRIGHT_DEGREES = 10.0  # by which a brain may lie turned and be seen as well
_MOST_LOOKS = 4  # from one start
_AHEAD = 6  # voxels by which a second look moves the coarse lattices on which the network works
_OTHER_STARTS = tuple(  # quarter turns about the axes to the right and to the front, and upside down
    np.array(rows, float)
    for rows in (
        ((1, 0, 0), (0, 0, -1), (0, 1, 0)),
        ((1, 0, 0), (0, 0, 1), (0, -1, 0)),
        ((0, 0, 1), (0, 1, 0), (-1, 0, 0)),
        ((0, 0, -1), (0, 1, 0), (1, 0, 0)),
        ((1, 0, 0), (0, -1, 0), (0, 0, -1)),
    )
)
_RIGHT_FRONT_UP = np.diag([-1.0, -1.0, 1.0])  # columns in LPS
_ODDS = 6.0  # log-odds beyond which nothing more is told of a tissue
_TISSUES = (
    ("white matter", "cerebellar white matter", "pallidum", "thalamus"),
    ("outside", "ventricles"),
    # structures that hardly touch each other share one, so that few do for all; the cerebellum counts as one
    ("thalamus", "pallidum"),
    ("caudate", "putamen"),
    ("ventricles", "hippocampus", "cerebellar cortex", "cerebellar white matter"),
)


@dataclass(frozen=True)
class Anatomy:
    """shares: (1, len(STRUCTURES), D, H, W) on `grid`, of each structure in each voxel; they add up to 1.

    bare: whether the volume shows the brain alone, without skull and scalp. turned: degrees by which the brain lies off
    what the volume says is right, front and up.
    """

    shares: torch.Tensor
    grid: WorkingGrid
    bare: bool
    turned: float = 0.0

    def volumes_ml(self) -> np.ndarray:
        """Of each structure, in the order of STRUCTURES."""
        voxel = float(np.prod(self.grid.spacing)) / 1000
        return np.array(self.shares.sum((0, 2, 3, 4)).tolist()) * voxel

    def centres(self) -> np.ndarray:
        """(len(STRUCTURES), 3): LPS mm of the middle of each structure."""
        return np.array([_centre(self.shares[:, n : n + 1], self.grid) for n in range(len(STRUCTURES))])

    def on(self, grid: WorkingGrid, affine: sitk.Transform | None, size: tuple[int, int, int]) -> torch.Tensor:
        """The shares on a lattice of `size` over the box of `grid`, through `affine`; beyond the volume, "outside"."""
        lattice = grid.resized(size)
        seen = _sampled(self.shares[:, 1:], _between(lattice, self.grid, affine), lattice.shape)
        return torch.cat([1 - seen.sum(1, keepdim=True), seen], 1)

    def tissues(self, grid: WorkingGrid, affine: sitk.Transform | None, size: tuple[int, int, int]) -> torch.Tensor:
        """(1, len(_TISSUES), *size): log-odds of white matter, of fluid and what lies outside, and of single
        structures, from 0 to 1 for -6 to 6.

        Unlike the shares they still have a slope some way from the border between tissues.
        """
        seen = self.on(grid, affine, size)
        shares = [seen[:, [STRUCTURES.index(name) for name in names]].sum(1, keepdim=True) for names in _TISSUES]
        log_odds = torch.logit(torch.cat(shares, 1), eps=1e-6)
        return log_odds.clamp_(-_ODDS, _ODDS).div_(2 * _ODDS).add_(0.5)


def see(
    network: AnatomyNetwork,
    image: sitk.Image,
    foreground: sitk.Image,
    atlas: dict,
    pause: Callable[[], None] = lambda: None,
    twice: bool = False,
) -> Anatomy | None:
    """What `network` sees in `image`, or None where that is no brain.

    A brain that lies turned is looked at again along its own axes, as far as they are known by then: the network
    learned from heads held about upright. Where that leads nowhere it may lie on its face, its side or its head. Of all
    looks the surest counts; twice: the mean of it and of one more, of the mirrored head, for which the network's coarse
    lattices lie elsewhere too, so that chance decides less.
    atlas: for each structure but the first [LPS x, y, z, ml] in the template it learned from. pause() is called before
    each look.
    """
    divisor = network.config.divisor
    first = make_working_grid(image, bounding_box(foreground), _SPACING_MM, _MARGIN_MM, divisor)
    others = (
        grid_along(first.direction @ turn, foreground, _SPACING_MM, _MARGIN_MM, divisor) for turn in _OTHER_STARTS
    )
    surest = None
    for start in itertools.chain([first], others):
        look = None
        for look in _looks(network, image, foreground, atlas, start, pause):
            if _is_a_brain(look, atlas) and (surest is None or _certainty(look) > _certainty(surest)):
                surest = look
        if look is None and start is first:
            break
        if look is not None and _is_found(look, atlas):
            break
    if surest is None:
        return None
    if twice:
        pause()
        fine = surest.grid.resized(tuple(n * 2**network.config.flow_level for n in surest.grid.shape))
        again = _look(network, image, foreground, fine, mirrored=True, ahead=_AHEAD)
        surest = replace(surest, shares=(surest.shares + again.shares).mul_(0.5))
    return replace(surest, turned=_degrees_between(_RIGHT_FRONT_UP, _upright(surest, atlas)))


def _looks(
    network: AnatomyNetwork,
    image: sitk.Image,
    foreground: sitk.Image,
    atlas: dict,
    grid: WorkingGrid,
    pause: Callable[[], None],
) -> Iterator[Anatomy]:
    """Looks along the axes of `grid`, then along those that each look finds the brain to have, until both agree.

    Ends where what is seen cannot be a brain.
    """
    for _ in range(_MOST_LOOKS):
        pause()
        found = _look(network, image, foreground, grid)
        if found is None or not _may_be_a_brain(found, atlas):
            return
        yield found
        if _degrees_off(found, atlas) < _UPRIGHT_DEGREES:
            return
        grid = grid_along(_upright(found, atlas), foreground, _SPACING_MM, _MARGIN_MM, network.config.divisor)


def _look(
    network: AnatomyNetwork,
    image: sitk.Image,
    foreground: sitk.Image,
    grid: WorkingGrid,
    mirrored: bool = False,
    ahead: int = 0,
) -> Anatomy | None:
    """What `network` sees on `grid`, brain or not; None where the grid is too large or too small for a head.

    mirrored: whether left and right are exchanged for the network. ahead: voxels of nothing put before the grid along
    each axis, a multiple of those in one voxel of what comes out.
    """
    if grid.voxels > _MOST_VOXELS or min(grid.size) * _SPACING_MM < 48:
        return None
    device = next(network.parameters()).device
    inside = tensor_from_image(grid.resample(foreground, None, sitk.sitkNearestNeighbor), device)
    seen = normalise(tensor_from_array(seen_on_grid(image, grid, None))[None, None].to(device), inside)
    with torch.inference_mode():
        with torch.autocast(device.type, torch.bfloat16, enabled=computes_in_bfloat16(device)):
            padded = F.pad(seen.flip(-1) if mirrored else seen, [ahead, -ahead % network.config.divisor] * 3)
            log_odds = network(padded)
        coarser = 2**network.config.flow_level
        within = [slice(ahead // coarser, (ahead + n) // coarser) for n in grid.shape]
        shares = log_odds[(..., *within)].float().softmax(1)
        shares = shares.flip(-1) if mirrored else shares
    anatomy = _in_one_piece(shares, grid.resized(tuple(shares.shape[2:])))
    return replace(anatomy, bare=_share_beyond(anatomy, inside) < _HEAD)


def _share_beyond(anatomy: Anatomy, inside: torch.Tensor) -> float:
    """The share of what the volume shows, `inside` (1, 1, D, H, W), beyond the brain, its fluid and the skull."""
    outside, grid = _pooled(anatomy.shares[:, :1], anatomy.grid, _COARSE_MM)
    tissue = image_from_tensor(1 - outside[0, 0], grid) > 0.5
    radius = [round(mm / max(grid.spacing)) for mm in (_SULCI_MM, _SKULL_MM)]
    wide = sitk.BinaryDilate(sitk.BinaryMorphologicalClosing(tissue, [radius[0]] * 3), [radius[1]] * 3)
    shown = F.interpolate(inside, size=grid.shape, mode="area")
    beyond = shown * (1 - tensor_from_image(wide, inside.device))
    return float(beyond.sum() / shown.sum().clamp(min=1))


def _in_one_piece(shares: torch.Tensor, grid: WorkingGrid) -> Anatomy:
    """Without what was taken for brain in scalp and face: the largest piece, once thin bridges are cut."""
    tissue = image_from_tensor(1 - shares[0, 0], grid) > 0.5
    radius = round(_BRIDGE_MM / max(grid.spacing))
    pieces = sitk.RelabelComponent(sitk.ConnectedComponent(sitk.BinaryErode(tissue, [radius] * 3)))
    piece = tensor_from_image(sitk.BinaryDilate(pieces == 1, [radius + 1] * 3), shares.device)
    rest = shares[:, 1:] * piece
    return Anatomy(torch.cat([1 - rest.sum(1, keepdim=True), rest], 1), grid, bare=True)


def _is_a_brain(anatomy: Anatomy, atlas: dict) -> bool:
    """Whether every structure is there without much doubt, about as large as in a brain, and where it lies in one."""
    if not _may_be_a_brain(anatomy, atlas):
        return False
    names = STRUCTURES[1:]
    ratio = anatomy.volumes_ml()[1:] / np.array([atlas[name][3] for name in names])
    widest = np.array([20.0 if name == "ventricles" else 5.0 for name in names])
    if np.any(ratio > widest) or np.any(ratio < 1 / widest):
        return False
    return _scatter_mm(anatomy, atlas) < _SCATTER_MM


def _is_found(anatomy: Anatomy, atlas: dict) -> bool:
    """Whether it is a brain that lies upright in the lattice on which it was seen, and looking may end.

    That it lies otherwise than its volume says is believed only where the structures lie as in a brain.
    """
    if not _is_a_brain(anatomy, atlas) or _degrees_off(anatomy, atlas) >= _UPRIGHT_DEGREES:
        return False
    turned = _degrees_between(_RIGHT_FRONT_UP, _upright(anatomy, atlas))
    return turned < _TURN_DEGREES or _scatter_mm(anatomy, atlas) < _SMALL_SCATTER_MM


def _may_be_a_brain(anatomy: Anatomy, atlas: dict) -> bool:
    """Whether there is little doubt, and all structures together are about as large as a brain.

    In noise the network sees a brain too, but is sure of a voxel to 0.6 in the mean; in real heads to 0.76 and more.
    """
    usual = sum(volume for *_, volume in atlas.values())
    return _certainty(anatomy) >= _CERTAIN and 0.25 < anatomy.volumes_ml()[1:].sum() / usual < 2.5


def _certainty(anatomy: Anatomy) -> float:
    """The mean share of the likeliest structure in the voxels of the brain."""
    tissue = anatomy.shares[0, 0] < 0.5
    return float(anatomy.shares[0].amax(0)[tissue].mean()) if tissue.any() else 0.0


def _laid_on(anatomy: Anatomy, atlas: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(middles of the structures in the template, with ones; their middles here; the (4, 3) that best maps the two)."""
    places = np.array([[*atlas[name][:3], 1.0] for name in STRUCTURES[1:]])
    centres = anatomy.centres()[1:]
    return places, centres, np.linalg.lstsq(places, centres, rcond=None)[0]


def _scatter_mm(anatomy: Anatomy, atlas: dict) -> float:
    """Root mean square by which the middles of the structures miss those of the template laid on them."""
    places, centres, fitted = _laid_on(anatomy, atlas)
    return float(np.sqrt(((places @ fitted - centres) ** 2).sum(1).mean()))


def _upright(anatomy: Anatomy, atlas: dict) -> np.ndarray:
    """3x3, whose columns are the LPS vectors that point right, to the front and up in the brain as it lies."""
    # both halves of a structure count as one, so that all middles lie in one plane
    left, _, right = np.linalg.svd(_laid_on(anatomy, atlas)[2][1:3].T, full_matrices=False)
    back, up = (left @ right).T
    return np.stack([np.cross(back, up), back, up], 1) @ _RIGHT_FRONT_UP


def _degrees_off(anatomy: Anatomy, atlas: dict) -> float:
    """The angle by which the brain lies turned in the lattice on which it was seen."""
    return _degrees_between(anatomy.grid.direction, _upright(anatomy, atlas))


def _degrees_between(one: np.ndarray, other: np.ndarray) -> float:
    """The angle of the turn from one frame to the other."""
    return float(np.degrees(np.arccos(np.clip((np.trace(one.T @ other) - 1) / 2, -1, 1))))


def align(
    fixed: Anatomy, moving: Anatomy, start: sitk.AffineTransform | None = None
) -> tuple[sitk.AffineTransform, float]:
    """(the affine, fixed points -> moving points, that lays like structures on each other; their overlap under it).

    By Gauss-Newton on the squared difference of the shares: from `start`, or from the best of rotations about the
    middles of the two brains. The overlap is the mean soft Dice of the structures.
    """
    problem = _Overlap(fixed, moving)
    starts = [start] if start is not None else _starts(fixed, moving)
    coarse = sorted((problem.matrix_of(each) for each in starts), key=problem.coarse.cost)[:3]
    found = [problem.coarse.descend(matrix, steps=25) for matrix in coarse]
    best = problem.fine.descend(min(found, key=problem.coarse.cost), steps=12)
    return problem.affine_of(best), problem.fine.dice(best)


def overlap(fixed: Anatomy, moving: Anatomy, affine: sitk.Transform) -> float:
    """Mean soft Dice of the structures under an affine."""
    problem = _Overlap(fixed, moving)
    return problem.fine.dice(problem.matrix_of(affine))


def mean_dice(fixed: torch.Tensor, moving: torch.Tensor) -> float:
    """Mean soft Dice of the structures but the first, of shares (len(STRUCTURES), ...) twice; absent ones left out."""
    fixed, moving = fixed[1:].flatten(1), moving[1:].flatten(1)
    both, either = torch.minimum(fixed, moving).sum(1), fixed.sum(1) + moving.sum(1)
    there = fixed.sum(1) > 0
    return float((2 * both / either.clamp(min=1e-6))[there].mean()) if there.any() else 0.0


class _Overlap:
    """The squared difference of shares, at two resolutions. Matrices are 4x4, fixed LPS mm -> moving LPS mm."""

    def __init__(self, fixed: Anatomy, moving: Anatomy):
        self.coarse, self.fine = (_Level(fixed, moving, spacing) for spacing in (8.0, 4.0))

    @staticmethod
    def matrix_of(affine: sitk.Transform) -> np.ndarray:
        origin = np.array(affine.TransformPoint((0.0, 0.0, 0.0)))
        matrix = np.eye(4)
        matrix[:3, 3] = origin
        for axis in range(3):
            matrix[:3, axis] = np.array(affine.TransformPoint(tuple(np.eye(3)[axis]))) - origin
        return matrix

    @staticmethod
    def affine_of(matrix: np.ndarray) -> sitk.AffineTransform:
        affine = sitk.AffineTransform(3)
        affine.SetMatrix(matrix[:3, :3].ravel().tolist())
        affine.SetTranslation(matrix[:3, 3].tolist())
        return affine


class _Level:
    """One resolution, at the voxels of the fixed brain and around it, where the moving volume reaches."""

    def __init__(self, fixed: Anatomy, moving: Anatomy, spacing_mm: float):
        shares, grid = _pooled(fixed.shares, fixed.grid, spacing_mm)
        self._moving, self._moving_grid = _pooled(moving.shares, moving.grid, spacing_mm)
        near = F.max_pool3d(1 - shares[:, :1], 5, 1, 2)[0, 0] > 0.1
        kji = near.nonzero()
        self._fixed = shares[0, 1:, near].double()
        ones = torch.ones(len(kji), 1)
        to_mm = _tensor(grid.matrix)
        self._points = torch.cat([kji.flip(1), ones], 1).double() @ to_mm.T
        amount = self._fixed.sum(1).clamp(min=1)
        self._weights = (amount.rsqrt() / amount.rsqrt().mean())[:, None]
        slopes = [field.gradient(self._moving[:, c : c + 1]) for c in range(1, len(STRUCTURES))]
        self._slopes = torch.cat(slopes, 1)  # of each structure along k, j, i

    def _seen(self, matrix: np.ndarray, source: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(C, N) and, for each point, whether it lies within the moving volume."""
        to_index = _tensor(np.linalg.inv(self._moving_grid.matrix) @ matrix)
        ijk = (self._points @ to_index.T)[:, :3]
        last = torch.tensor(self._moving_grid.size, dtype=torch.float64) - 1
        places = (ijk / last * 2 - 1).to(source.dtype)
        values = F.grid_sample(source, places.view(1, 1, 1, -1, 3), align_corners=True)[0, :, 0, 0]
        return values.double(), ((ijk >= 0) & (ijk <= last)).all(1)

    def cost(self, matrix: np.ndarray) -> float:
        seen, within = self._seen(matrix, self._moving[:, 1:])
        squares = (self._weights * (seen - self._fixed) ** 2).sum(0)
        # where the moving volume does not reach nothing is known, and it would not do to hide there
        missing = (self._weights * self._fixed**2).sum(0)
        return float(torch.where(within, squares, missing).sum())

    def dice(self, matrix: np.ndarray) -> float:
        seen, within = self._seen(matrix, self._moving[:, 1:])
        fixed, seen = self._fixed[:, within], seen[:, within]
        both, either = torch.minimum(fixed, seen).sum(1), fixed.sum(1) + seen.sum(1)
        known = fixed.sum(1) > 0.2 * self._fixed.sum(1)
        return float((2 * both / either.clamp(min=1e-6))[known].mean()) if known.any() else 0.0

    def descend(self, matrix: np.ndarray, steps: int) -> np.ndarray:
        """Levenberg and Marquardt's way down from `matrix`."""
        middle, reach = self._points[:, :3].mean(0), 50.0  # mm: makes the twelve numbers alike in size
        local = torch.cat([(self._points[:, :3] - middle) / reach, self._points[:, 3:]], 1)
        back = np.eye(4)
        back[:3, :3] /= reach
        back[:3, 3] = -np.array(middle.tolist()) / reach
        to_index = _tensor(np.linalg.inv(self._moving_grid.matrix)[:3, :3])
        cost, damping, system = self.cost(matrix), 1e-2, None
        for _ in range(steps):
            if system is None:
                seen, within = self._seen(matrix, self._moving[:, 1:])
                slopes, _ = self._seen(matrix, self._slopes)
                slopes = slopes.view(-1, 3, len(local)).flip(1)  # along i, j, k
                slopes = torch.einsum("can,ab->cbn", slopes, to_index)  # per mm
                weights = self._weights * within
                curvature = torch.einsum("can,cbn,cn->nab", slopes, slopes, weights)
                pull = torch.einsum("can,cn->na", slopes, weights * (self._fixed - seen))
                hessian = torch.einsum("nab,nx,ny->axby", curvature, local, local).reshape(12, 12)
                system = hessian, torch.einsum("na,nx->ax", pull, local).reshape(12)
            hessian, right = system
            damped = hessian + damping * torch.diag(hessian.diagonal() + 1e-9)
            step = np.array(torch.linalg.solve(damped, right).reshape(3, 4).tolist())
            proposed = matrix.copy()
            proposed[:3] += step @ back
            reached = self.cost(proposed)
            if reached < cost:
                small = np.abs(step).max() < 0.02
                matrix, cost, damping, system = proposed, reached, damping / 4, None
                if small:
                    break
            else:
                damping *= 8
                if damping > 1e4:
                    break
        return matrix


def _starts(fixed: Anatomy, moving: Anatomy) -> list[sitk.AffineTransform]:
    """Rotations about the middles of the two brains, with the ratio of their sizes.

    About no turn at all, and about that of the axes along which the two were seen, where they were seen turned.
    """
    brains = [1 - anatomy.shares[:, :1] for anatomy in (fixed, moving)]
    pivot, target = (_centre(brain, anatomy.grid) for brain, anatomy in zip(brains, (fixed, moving)))
    scale = (moving.volumes_ml()[1:].sum() / fixed.volumes_ml()[1:].sum()) ** (1 / 3)
    bases = [np.eye(3)]
    if _degrees_between(fixed.grid.direction, moving.grid.direction) > _UPRIGHT_DEGREES:
        bases.append(moving.grid.direction @ fixed.grid.direction.T)
    starts = []
    for base in bases:
        for angles in np.ndindex(3, 3, 3):
            turn = sitk.Euler3DTransform()
            turn.SetRotation(*(np.radians(_TURN_DEGREES) * (np.array(angles) - 1)).tolist())
            matrix = np.reshape(turn.GetMatrix(), (3, 3)) @ base * float(np.clip(scale, 0.8, 1.25))
            start = sitk.AffineTransform(3)
            start.SetCenter(pivot.tolist())
            start.SetMatrix(matrix.ravel().tolist())
            start.SetTranslation((target - pivot).tolist())
            starts.append(start)
    return starts


def _centre(share: torch.Tensor, grid: WorkingGrid) -> np.ndarray:
    total, kji = share.sum().clamp(min=1e-6), []
    for axis in range(3):
        others = [a + 2 for a in range(3) if a != axis]
        places = torch.arange(share.shape[axis + 2], device=share.device, dtype=share.dtype)
        kji.append(float((share.sum((0, 1, *others)) * places).sum() / total))
    return np.array(grid.point(kji[::-1]))


def _pooled(shares: torch.Tensor, grid: WorkingGrid, spacing_mm: float) -> tuple[torch.Tensor, WorkingGrid]:
    size = tuple(max(4, round(n * own / spacing_mm)) for n, own in zip(grid.shape, grid.spacing[::-1]))
    shares = F.interpolate(shares, size=size, mode="area").cpu()  # small, and float64 is not for every GPU
    return shares, grid.resized(size)


def _tensor(matrix: np.ndarray) -> torch.Tensor:
    """float64, without torch's numpy bridge."""
    return torch.tensor(matrix.tolist(), dtype=torch.float64)


def _between(target: WorkingGrid, source: WorkingGrid, affine: sitk.Transform | None) -> np.ndarray:
    """4x4, index (i, j, k) of `target` -> index of `source`."""
    through = _Overlap.matrix_of(affine) if affine is not None else np.eye(4)
    return np.linalg.inv(source.matrix) @ through @ target.matrix


def _sampled(image: torch.Tensor, matrix: np.ndarray, shape: tuple[int, int, int]) -> torch.Tensor:
    """`image` (1, C, ...) at the nodes of a lattice of `shape`, whose indices (i, j, k) `matrix` maps to its own."""
    axes = [torch.arange(n, device=image.device, dtype=torch.float32) for n in shape]
    k, j, i = torch.meshgrid(*axes, indexing="ij")
    rows = matrix.tolist()
    last = [max(n - 1, 1) for n in reversed(image.shape[2:])]
    places = [(r[0] * i + r[1] * j + r[2] * k + r[3]) * (2 / n) - 1 for r, n in zip(rows, last)]
    return F.grid_sample(image, torch.stack(places, -1)[None], align_corners=True)
