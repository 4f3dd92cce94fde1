"""Many subjects: cohorts, templates, longitudinal studies and morphometry, on Dask where there are more processes.

`run` registers every subject to one volume; importing this package imports neither torch nor Dask.
"""

from __future__ import annotations

from typing import Any

__all__ = ["compare_times", "make_template", "run"]


def __getattr__(name: str) -> Any:
    if name == "run":
        from .study.run import run

        return run
    if name == "make_template":
        from .template.study import make_template

        return make_template
    if name == "compare_times":
        from .longitudinal.study import compare_times

        return compare_times
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
