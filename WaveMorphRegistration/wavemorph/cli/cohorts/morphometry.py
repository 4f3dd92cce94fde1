"""`wavemorph morphometry`: where tissue volume differs between the subjects of a finished study."""

from __future__ import annotations

import argparse

from ..progress import TerminalProgress


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("morphometry", help="test where tissue volume differs between the subjects of a study")
    parser.add_argument("--cohort", required=True, metavar="FOLDER", help="the output of wavemorph cohort")
    design = (
        "a .tsv or .csv: the first column names subjects, the others are regressors; an intercept is added. Or the "
        "participants.tsv of a BIDS data set. Default: the columns that came into the study with its subjects"
    )
    parser.add_argument("--design", metavar="TABLE", help=design)
    parser.add_argument("--columns", nargs="+", metavar="NAME", help="which columns are regressors (default: all)")
    contrast = "what is tested: a column of the design, or a number for each, such as 1,-1,0"
    parser.add_argument("--contrast", required=True, metavar="C", help=contrast)
    parser.add_argument("--output", required=True, metavar="FOLDER", help="for maps, clusters, picture and report")
    smoothing = "full width at half maximum of the Gaussian that smooths each map (default: 6)"
    parser.add_argument("--smoothing-mm", type=float, default=6.0, metavar="MM", help=smoothing)
    parser.add_argument("--permutations", type=int, default=1000, metavar="N", help="default: 1000")
    mask = "test only where this is not 0 (default: where the registered volumes have tissue)"
    parser.add_argument("--mask", metavar="M", help=mask)
    parser.add_argument("--seed", type=int, default=0, help="of the permutations (default: 0)")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace, progress: TerminalProgress | None) -> None:
    """Test, write the results, and print what is significant."""
    from ...cohort.morphometry import analyze

    result = analyze(
        options.cohort,
        options.design,
        options.contrast,
        columns=options.columns,
        smoothing_mm=options.smoothing_mm,
        permutations=options.permutations,
        mask=options.mask,
        seed=options.seed,
        progress=progress,
    )
    written = result.save(options.output)
    report, ml = result.report, result.report["significant_ml"]
    print(f"subjects             {len(report['subjects'])}, {report['degrees_of_freedom']} degrees of freedom")
    print(f"contrast             {report['contrast']['name']}: {_weights(report)}")
    print(f"tested               {report['tested_ml']:.0f} ml, {report['voxels']} voxels")
    print(f"t                    {report['t']['min']:.2f} to {report['t']['max']:.2f}")
    print(f"smallest p           {report['smallest_p_fwe']:.3g} (corrected for all voxels)")
    print(f"significant          {ml['more_tissue']:.1f} ml with more tissue, {ml['less_tissue']:.1f} ml with less")
    print("\n".join(f"note: {sentence}" for sentence in result.notes), end="\n" if result.notes else "")
    print("\n".join(f"written: {path}" for path in written))


def _weights(report: dict) -> str:
    pairs = zip(report["contrast"]["weights"], report["columns"])
    return ", ".join(f"{weight:g} {name}" for weight, name in pairs if weight)
