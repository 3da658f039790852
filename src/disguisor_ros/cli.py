"""Make operating-room video safe to share: replace every face in every camera."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys

from disguisor_ros.errors import UserError
from disguisor_ros.figures import make_folder
from disguisor_ros.paths import source_tree

#: Command -> module that has ``add_arguments(parser)`` and ``main(args) -> exit code``, and help.
COMMANDS = {
    "run": (
        "disguisor_ros.run.command",
        "anonymize a bag: replay it through the graph, record the result",
    ),
    "simulate": (
        "disguisor_ros.sim.command",
        "write a bag of a synthetic operating room, with truth",
    ),
    "evaluate": ("disguisor_ros.eval.evaluate", "score an anonymized bag against the truth"),
    "secure": (
        "disguisor_ros.security",
        "SROS2 keys and permissions for the graph of your cameras",
    ),
    "import": ("disguisor_ros.importers", "turn a public data set into a bag"),
    "demo": ("disguisor_ros.demo", "simulate, anonymize, and make pictures of it"),
    "preview": ("disguisor_ros.eval.media", "contact sheet and video of an anonymized bag"),
    "scoreboard": ("disguisor_ros.eval.scoreboard", "simulate, anonymize and score all scenarios"),
}

#: What ``disguisor benchmark`` can measure.
BENCHMARKS = {
    "or_holistic": ("disguisor_ros.eval.or_holistic", "face recall on a real operating room"),
    "mvor": ("disguisor_ros.eval.mvor", "3D pose error on a real operating room"),
    "pose3d": ("disguisor_ros.eval.pose3d", "cost of pose3d against cameras and people"),
    "registration": ("disguisor_ros.eval.registration", "head registration against FilterReg"),
    "pose2d": ("disguisor_ros.eval.pose2d", "cost of the 2D pose models"),
    "graph": ("disguisor_ros.eval.graph", "frame rate and latency of the whole graph"),
    "faults": ("disguisor_ros.eval.faults", "break the graph at random; count what leaks"),
}


def main(argv: list[str] | None = None) -> int:
    """Entry point of the ``disguisor`` command."""
    if argv is None:
        code = main(sys.argv[1:])
        if code == 130:
            # A loop of a shell goes on after a command that merely returns 130; it ends after one
            # that Ctrl-C has ended, whose code it takes for 130, too.
            sys.stdout.flush()
            sys.stderr.flush()
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        return code
    try:
        return _run(argv)
    except UserError as error:
        print(f"disguisor {argv[0]}: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # of a file or folder that the user named, or a full disk
        where = f"{error.filename}: " if error.filename else ""
        print(f"disguisor {argv[0]}: {where}{error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _run(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="disguisor", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, summary) in COMMANDS.items():
        _add(commands, name, module, summary, wanted=argv[:1] == [name])
    benchmark = commands.add_parser("benchmark", help="measure", description="Measure.")
    benchmarks = benchmark.add_subparsers(dest="benchmark", required=True, metavar="WHAT")
    for name, (module, summary) in BENCHMARKS.items():
        _add(benchmarks, name, module, summary, wanted=argv[:2] == ["benchmark", name])
    args = parser.parse_args(argv)
    tree = source_tree()
    if tree is not None:  # where tools/setup.sh made it
        os.environ.setdefault("ANNY_CACHE_DIR", str(tree / ".cache" / "anny"))
    if getattr(args, "json", None):  # found out before the work, not after it
        make_folder(args.json.parent)
        if args.json.is_dir():
            raise UserError(f"{args.json}: is a folder; name a file")
    return importlib.import_module(args.module).main(args)


def _add(parsers, name: str, module: str, summary: str, wanted: bool) -> None:
    parser = parsers.add_parser(
        name, help=summary, description=summary[0].upper() + summary[1:] + "."
    )
    parser.set_defaults(module=module)
    if wanted:  # its module is imported for its arguments; the others' stay unimported
        importlib.import_module(module).add_arguments(parser)


if __name__ == "__main__":
    sys.exit(main())
