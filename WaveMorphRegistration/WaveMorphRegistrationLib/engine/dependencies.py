"""The packages that the engine needs in addition to Slicer's own; installed on a click, never at import.

PyTorch is installed by the PyTorch extension, which selects the build for the computer; safetensors by pip. Whether
torch is installed is found out without importing it: only the worker process imports it.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path

import slicer
from wavemorph.errors import WaveMorphError

from ..translation import _

REQUIREMENTS = Path(__file__).resolve().parents[2] / "Resources" / "requirements.txt"
TORCH_REQUIREMENT = ">=2.1"
_REQUESTER = "WaveMorph"


class DependencyError(WaveMorphError):
    """A package is missing and was not installed; the message says what to do."""


def ensureDependencies() -> None:
    """Install missing packages if the user agrees. Raises DependencyError where the worker cannot run afterwards."""
    _ensureTorch()
    missing = missingRequirements(_readRequirements(REQUIREMENTS))
    if missing:
        _install(missing)


def missingRequirements(requirements: list[str]) -> list[str]:
    """The requirements that no installed package satisfies; no package is imported."""
    return [text for text in requirements if not _isSatisfied(text)]


def _ensureTorch() -> None:
    problem = _torchProblem()
    if problem is None:
        return
    try:
        import PyTorchUtils
    except ImportError as error:
        raise DependencyError(
            _(
                "{problem} Install the extension PyTorch in the Extensions Manager, restart Slicer, and press Register "
                "again."
            ).format(problem=problem)
        ) from error
    try:
        installed = PyTorchUtils.PyTorchUtilsLogic().installTorch(
            askConfirmation=True, torchVersionRequirement=TORCH_REQUIREMENT
        )
    except Exception as error:  # the installation raises many kinds; the user gets one message
        raise DependencyError(
            _("PyTorch could not be installed ({reason}). Install it in the module PyTorch Utils.").format(
                reason=" ".join(str(error).split())[:200]
            )
        ) from error
    if installed is None or _torchProblem() is not None:
        raise DependencyError(_("WaveMorph needs PyTorch; press Register again to install it."))


def _torchProblem() -> str | None:
    """What is wrong with the installation of torch, as one sentence; None where it looks usable."""
    if importlib.util.find_spec("torch") is None:
        return _("PyTorch is not installed.")
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        version = None
    if not version:
        return _("PyTorch is only partly installed; uninstall it in the module PyTorch Utils.")
    if not _isSatisfied("torch" + TORCH_REQUIREMENT):
        return _("PyTorch {version} is too old; WaveMorph needs {minimum} or later.").format(
            version=version, minimum=TORCH_REQUIREMENT.replace(">=", "")
        )
    return None


def _install(missing: list[str]) -> None:
    names = ", ".join(missing)
    try:
        try:
            from slicer.packaging import pip_ensure  # Slicer 5.12 and later: asks, and shows progress
        except ImportError:
            if not slicer.util.confirmOkCancelDisplay(_("WaveMorph needs {names}. Install now?").format(names=names)):
                raise DependencyError(_notInstalledMessage(names)) from None
            slicer.util.pip_install(missing)
        else:
            pip_ensure(missing, requester=_REQUESTER)
    except DependencyError:
        raise
    except Exception as error:  # refused, offline, no space: pip raises many kinds
        raise DependencyError(_notInstalledMessage(names)) from error
    if missingRequirements(missing):
        raise DependencyError(_notInstalledMessage(names))


def _notInstalledMessage(names: str) -> str:
    return _("WaveMorph needs the package {names}, which was not installed; press Register to try again.").format(
        names=names
    )


def _readRequirements(path: Path) -> list[str]:
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def _isSatisfied(text: str) -> bool:
    from packaging.requirements import Requirement  # part of Slicer's Python; imported only when it is used

    requirement = Requirement(text)
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return bool(version) and requirement.specifier.contains(version, prereleases=True)
