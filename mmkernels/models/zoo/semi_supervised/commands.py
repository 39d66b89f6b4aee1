"""What the command semi does."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from mmkernels.models import loop, presets
from mmkernels.models.backends import Backends
from mmkernels.models.recipe import USUAL_DATA
from mmkernels.models.regimes import PseudoLabelConfig
from mmkernels.models.sealed import prepare_folder
from mmkernels.models.zoo.commands import load_task, note
from mmkernels.models.zoo.compression.smaller import smaller
from mmkernels.models.zoo.data import data_of
from mmkernels.models.zoo.objectives import choose
from mmkernels.models.zoo.runs import Results, conduct
from mmkernels.models.zoo.semi_supervised.few_labels import LABELS, with_labels
from mmkernels.models.zoo.semi_supervised.study import SUPERVISED, Plan, Study, as_table, compare, verdict

RESULTS_NAME = "semi_supervised.json"


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """The arguments of `mmkernels semi`, but for --json, --backend and --threads, which other commands share."""
    sub.add_argument("--preset", default="vit", help="a system of the zoo with an image tower (vit)")
    sub.add_argument("--width", type=float, default=1.0, metavar="SHARE", help="of the preset's width (1)")
    sub.add_argument("--layers", type=float, default=1.0, metavar="SHARE", help="of the preset's layers (1)")
    sub.add_argument("--out", default="runs/semi", help="folder of runs and results (runs/semi)")
    sub.add_argument("--data", default=USUAL_DATA.name, help=f"a source of data, or a folder ({USUAL_DATA.name})")
    sub.add_argument("--labels", default="own", help=f"what is told apart: {' or '.join(LABELS)} (own)")
    sub.add_argument("--per-class", type=int, default=4, metavar="N", help="labelled pictures of each class (4)")
    sub.add_argument("--steps", type=int, default=300, help="of every arm (300)")
    sub.add_argument("--pretrain-steps", type=int, default=300, metavar="N", help="without labels; 0: none (300)")
    sub.add_argument("--seeds", type=int, default=3, metavar="N", help="0, 1, ...: of labels, weights and data (3)")
    sub.add_argument("--confidence", type=float, default=0.95, help="of a guess that is taken for the truth (0.95)")
    sub.add_argument("--unlabelled", type=int, default=64, metavar="N", help="pictures without labels of a step (64)")
    sub.add_argument("--weight", type=float, default=1.0, help="of the pseudo-labels' loss (1)")
    sub.add_argument("--rate", type=float, help="peak of the learning rate (the preset's)")


def semi_supervised(args: argparse.Namespace) -> int:
    """Few labels: pseudo-labels and pre-training without labels, beside the labelled part alone, with seeds."""
    page, config = presets.find(args.preset)
    choose([SUPERVISED], config)
    config = smaller(config, args.width, args.layers)
    recipe = page.recipe if args.rate is None else replace(page.recipe, rate=args.rate)
    pseudo = PseudoLabelConfig(args.unlabelled, args.confidence)
    plan = Plan(args.per_class, args.steps, args.pretrain_steps, args.seeds, args.weight, pseudo)
    Backends.choose(args.backend)
    loop.configure_torch(args.threads)
    out = Path(args.out)
    prepare_folder(out)
    data = data_of(config, args.data, ())
    task = with_labels(load_task(config, data, "semi"), args.labels)
    study = Study(args.preset, config, recipe, task, plan, args.backend, data)

    def run(stop: loop.StopRequest) -> Results:
        return compare(study, out, stop, lambda text: note(text, "semi"))

    return conduct("semi", out / RESULTS_NAME, args.json, run, lambda results: (as_table(results), verdict(results)))
