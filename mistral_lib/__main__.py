"""The command line, thin: python -m mistral_lib run | check | plan | sweep | train | status | tensorboard | compare | audit | lab."""

import argparse
import sys
from pathlib import Path

from mistral_lib.run import params


def check(arguments: argparse.Namespace) -> int:
    print(params.to_yaml(params.load(arguments.params_file, arguments.set)), end="")
    return 0


def plan(arguments: argparse.Namespace) -> int:
    from mistral_lib.training import fit_plan, plan_table, workload

    settings = params.load(arguments.params_file, arguments.set)
    work = workload.work_of(settings, arguments.tokens)
    fits = fit_plan.plan(settings, work)
    print(plan_table.text(fits, work))
    chosen = next(fit for fit in fits if fit.instance == settings.instance)
    print(f"\n{settings.instance}, the instance of these parameters, MiB at the peak of a step:")
    print("\n".join(f"  {row['part']:<20} {row['mib']:>7,}" for row in plan_table.parts(chosen)))
    return 0 if chosen.fits else 1


def run(arguments: argparse.Namespace) -> int:
    from mistral_lib.commands import notebook_runs

    return notebook_runs.run(params.load(arguments.params_file, arguments.set), arguments.only)


def sweep(arguments: argparse.Namespace) -> int:
    from mistral_lib.commands import sweep, sweep_runs

    return sweep_runs.run(sweep.load(arguments.sweep_file), arguments.only)


def train(arguments: argparse.Namespace) -> int:
    from mistral_lib.run import Run
    from mistral_lib.training import train as training
    from mistral_lib.training.stopping import Stopped

    try:
        result = training.train(Run.existing(arguments.run_folder))
    except Stopped as stopped:
        print(f"interrupted: {stopped}; the same command goes on from there", file=sys.stderr)
        return 3
    if not result:
        return 0  # one of several processes, and not the one that tells
    losses = result["validation_loss"]
    print(f"complete: validation loss {losses['base']:.4f} → {losses['adapter']:.4f} nats per supervised token")
    return 0


def status(arguments: argparse.Namespace) -> int:
    from mistral_lib.run import Run
    from mistral_lib.training import training_status

    now = training_status.status(Run.existing(arguments.run_folder))
    print(training_status.describe(now))
    return now.exit_code


def tensorboard(arguments: argparse.Namespace) -> int:
    from mistral_lib.commands import tensorboard_export
    from mistral_lib.run import Run, paths

    folder = tensorboard_export.export(Run.existing(arguments.run_folder))
    print(f"tensorboard --logdir {paths.short(folder)}")
    return 0


def compare(arguments: argparse.Namespace) -> int:
    from mistral_lib.commands import compare_runs
    from mistral_lib.run import paths

    found, place = compare_runs.write(arguments.run_folders, arguments.out)
    print("\n".join([*compare_runs.sentence(found), f"page: {paths.short(place)}"]))
    return 0


def audit(arguments: argparse.Namespace) -> int:
    from mistral_lib.preparation import audit
    from mistral_lib.run import all_runs

    places = [arguments.folder] if arguments.folder else all_runs()
    findings = [finding for place in places for finding in audit.audit(place)]
    print("\n".join(map(str, findings)) or "no runs yet")
    return 0 if all(finding.status == "verified" for finding in findings) else 1


def lab(arguments: argparse.Namespace) -> int:
    from mistral_lib.commands import lab

    lab.open_lab(arguments.port, arguments.jupyter)
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m mistral_lib", description="The Mistral workbook's command line.")
    commands = top.add_subparsers(required=True, metavar="command")
    for work, text in (
        (run, "run the notebooks headless, skipping what is done"),
        (check, "validate parameters and show them resolved"),
        (plan, "what fits on which machine, how long, at what price"),
    ):
        command = commands.add_parser(work.__name__, help=text)
        command.add_argument("params_file", type=Path)
        command.add_argument("--set", action="append", default=[], metavar="key=value", help="override one parameter; may be repeated")
        command.set_defaults(work=work)
        if work is plan:
            command.add_argument("--tokens", type=int, default=0, help="training tokens of one pass, where no data is prepared yet")
        if work is run:
            command.add_argument("--only", nargs="+", default=[], metavar="NN", help="notebook numbers, such as 01 02")
    command = commands.add_parser("sweep", help="run the alternatives of a sweep file one after another and compare them")
    command.add_argument("sweep_file", type=Path)
    command.add_argument("--only", nargs="+", default=[], metavar="NN", help="notebook numbers, such as 02 03 04")
    command.set_defaults(work=sweep)
    command = commands.add_parser("train", help="the trainer process of one run folder")
    command.add_argument("run_folder", type=Path)
    command.set_defaults(work=train)
    command = commands.add_parser(
        "status", help="how a training stands; exit code 0 complete, 1 failed, 3 interrupted, 4 running, 5 hung, 6 not started"
    )
    command.add_argument("run_folder", type=Path)
    command.set_defaults(work=status)
    command = commands.add_parser("tensorboard", help="write a training's log as TensorBoard event files (extra: pip install tensorboard)")
    command.add_argument("run_folder", type=Path)
    command.set_defaults(work=tensorboard)
    command = commands.add_parser("compare", help="two or more evaluated runs, paired on the same test records, as one HTML page")
    command.add_argument("run_folders", type=Path, nargs="+")
    command.add_argument("--out", type=Path, help="where the page is written; default: runs/comparisons/")
    command.set_defaults(work=compare)
    command = commands.add_parser("audit", help="re-check runs or an adapter folder; non-zero unless all is verified")
    command.add_argument("folder", type=Path, nargs="?")
    command.set_defaults(work=audit)
    command = commands.add_parser("lab", help="JupyterLab at the first notebook: this machine only, behind a token")
    command.add_argument("--port", type=int, help="default: the first free one from 8888 on")
    command.add_argument("jupyter", nargs="*", metavar="-- option", help="further options for `jupyter lab`, after --")
    command.set_defaults(work=lab)
    return top


def main() -> int:
    arguments = parser().parse_args()
    try:
        return arguments.work(arguments)
    except (ValueError, RuntimeError, OSError, ModuleNotFoundError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
