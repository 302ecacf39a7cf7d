"""Command line: ``flagst demo | train | predict | evaluate``, also ``python -m flagst``."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from flagst import __version__
from flagst._keys import TARGETS
from flagst.cli import demo, files
from flagst.cli.console import quiet

DATA_HELP = "h5ad file with obsm['X_image'] or an image in uns['spatial'], or SpatialData zarr"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command of ``flagst``.

    Parameters
    ----------
    argv
        Arguments; by default those of the process.

    Returns
    -------
    Exit status: 0, or 1 after an error, which is printed.

    Raises
    ------
    SystemExit
        The arguments are wrong, or ask for help or the version.

    Examples
    --------
    >>> from flagst.__main__ import main
    >>> main(["evaluate", "missing.h5ad"])  # the message goes to stderr
    1
    """
    arguments = build_parser().parse_args(argv)
    try:
        with quiet(verbose=arguments.verbose):
            arguments.run(arguments)
    except (KeyError, ValueError, TypeError, OSError, RuntimeError, ImportError) as error:
        if arguments.verbose:
            raise
        # the text of a KeyError would be in quotation marks
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"flagst {arguments.command}: {message}", file=sys.stderr)
        return 1
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command line. Nothing heavy is imported."""
    parser = argparse.ArgumentParser(prog="flagst", description="Spatial gene expression from H&E histology.")
    parser.add_argument("--version", action="version", version=f"flagst {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_demo(commands)
    _add_train(commands)
    _add_predict(commands)
    _add_evaluate(commands)
    return parser


def _add_demo(commands) -> None:
    parser = _add(commands, "demo", "train a model, predict another section, print scores, save figures", demo.run)
    parser.add_argument("--data", choices=("simulated", "her2st"), default="simulated", help="default: simulated")
    parser.add_argument("--data-dir", type=Path, help="folder of HER2ST; default: $FLAGST_DATA_DIR, else download it")
    parser.add_argument("--out", type=Path, default=Path("flagst_demo"), help="default: %(default)s")
    _add_training(parser)


def _add_train(commands) -> None:
    parser = _add(commands, "train", "train a model on a file and save it", files.train)
    parser.add_argument("data", type=Path, help=DATA_HELP)
    parser.add_argument("--model", type=Path, required=True, help="folder to save the model in")
    parser.add_argument("--sections", nargs="+", metavar="NAME", help="sections to train on; default: all")
    parser.add_argument("--section-key", default="section", help="column of obs with sections; default: %(default)s")
    parser.add_argument("--layer", help="layer with raw counts; default: X")
    parser.add_argument("--n-genes", type=int, help="number of genes to select; default: the file's panel, else all")
    _add_training(parser)


def _add_predict(commands) -> None:
    parser = _add(commands, "predict", "predict the sections of a file, or a slide, with a saved model", files.predict)
    parser.add_argument("data", type=Path, nargs="?", help=f"{DATA_HELP}; or give --image")
    parser.add_argument("--model", type=Path, required=True, help="folder of the saved model")
    parser.add_argument(
        "--out", type=Path, required=True, help="file to write: .h5ad, or .zarr if DATA is a zarr or with --image"
    )
    parser.add_argument(
        "--structure",
        type=float,
        default=0.5,
        help="from 0, the mean, to 1, a full sample; default: %(default)s",
    )
    parser.add_argument(
        "--n-samples", type=int, help="samples for --std and --quantiles; default: 50 if one of them is given"
    )
    parser.add_argument("--std", action="store_true", help="also write the standard deviation over samples")
    parser.add_argument(
        "--quantiles", type=float, nargs="+", default=[], metavar="Q", help="calibrated quantiles, such as 0.05 0.95"
    )
    parser.add_argument("--allow-missing", action="store_true", help="also predict genes that are not in DATA")
    parser.add_argument(
        "--encoder-path",
        type=Path,
        metavar="PATH",
        help="weights of the image encoder of the training data, if image features have to be computed",
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed; default: 0")
    parser.add_argument("--overwrite", action="store_true", help="replace existing output")
    _add_slide(parser)


def _add_slide(parser: argparse.ArgumentParser) -> None:
    slide = parser.add_argument_group("a slide without expression")
    slide.add_argument(
        "--image", type=Path, metavar="FILE", help="OME-TIFF, TIFF, SVS, OME-Zarr, SpatialData zarr, PNG"
    )
    slide.add_argument(
        "--um-per-px", type=float, metavar="UM", help="micrometres per pixel; default: recorded in the file"
    )
    slide.add_argument(
        "--pitch-um", type=float, metavar="UM", help="distance of spots; default: as in the training sections, else 100"
    )
    slide.add_argument("--layout", choices=("hex", "square"), help="default: as in the training sections, else hex")
    slide.add_argument("--section", metavar="NAME", help="name of the section; default: name of the file")
    slide.add_argument("--image-key", metavar="NAME", help="name of the image, if a SpatialData zarr has several")
    slide.add_argument("--without-image", action="store_true", help="do not write the full-resolution image")
    slide.add_argument("--resume", action="store_true", help="use the image features of a run that was stopped")


def _add_evaluate(commands) -> None:
    parser = _add(commands, "evaluate", "compare a prediction with the counts in the same file", files.evaluate)
    parser.add_argument("data", type=Path, help="output of 'flagst predict'")
    parser.add_argument("--layer", default="flagst", help="layer with the prediction; default: %(default)s")
    parser.add_argument("--target", choices=TARGETS, help="unit of the prediction; default: recorded in the file")
    parser.add_argument("--out", type=Path, help="also write all metrics of every section as CSV")


def _add(commands, name: str, text: str, run: Callable) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(run=run)
    parser.add_argument("-v", "--verbose", action="store_true", help="show logs, warnings and tracebacks")
    return parser


def _add_training(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target", choices=TARGETS, default="lognorm", help="unit of expression; default: %(default)s")
    parser.add_argument("--max-epochs", type=int, help="training epochs; default: chosen by the model")
    parser.add_argument("--seed", type=int, default=0, help="random seed; default: 0")
    parser.add_argument("--overwrite", action="store_true", help="replace existing output")


if __name__ == "__main__":
    sys.exit(main())
