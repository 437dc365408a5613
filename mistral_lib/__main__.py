"""The command line, thin: python -m mistral_lib run | check | plan | sweep | train | status | compare | ask |
export | serve | parity | audit | runs | instance | lab.

A command's function returns the exit code, None for 0, and imports what loads slowly.
"""

import argparse
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mistral_lib.commands import instance_commands, run_folders
from mistral_lib.commands import lab as jupyter_lab
from mistral_lib.run import Run, all_runs, params, paths


def check(arguments: argparse.Namespace) -> None:
    settings = params.load(arguments.params_file, arguments.set)
    print(f"{params.to_yaml(settings)}# valid: {len(settings.names())} parameters")


def plan(arguments: argparse.Namespace) -> int:
    from mistral_lib.corpus import sources, stretches
    from mistral_lib.evaluation import enough_data
    from mistral_lib.training import fit_plan, plan_table, workload

    settings = params.load(arguments.params_file, arguments.set)
    work = workload.work_of(settings, arguments.tokens)
    fits = [fit_plan.best(settings, work, instance) for instance in params.instances()]
    print(plan_table.text(fits, work))
    chosen, as_set = next(fit for fit in fits if fit.instance == settings.instance), fit_plan.as_set(settings, work)
    print(f"\nWith these parameters as they are, the run on {settings.instance} {plan_table.memory(as_set, chosen)}.")
    print(f"{plan_table.batch(as_set.settings)}. Peak of each phase:\n{plan_table.phases(as_set)}\nMiB at the highest peak:")
    print("\n".join(f"  {row['part']:<20} {row['mib']:>7,}" for row in plan_table.parts(as_set)))
    print(f"\n{enough_data.text(settings, work)}")
    if settings.engine == "ray":
        print("\n".join(stretches.uncut(sources.of_settings(settings), settings)))
    return 0 if chosen.fits else 1


def run(arguments: argparse.Namespace) -> int:
    from mistral_lib.commands import notebook_runs

    return notebook_runs.run(params.load(arguments.params_file, arguments.set), arguments.only)


def sweep(arguments: argparse.Namespace) -> int:
    from mistral_lib.commands import sweep, sweep_runs

    found = sweep.load(arguments.sweep_file)
    if arguments.engine == "ray":
        return sweep_runs.run_on_cluster(found, arguments.only, arguments.ray_address, arguments.cores)
    return sweep_runs.run(found, arguments.only)


def train(arguments: argparse.Namespace) -> int:
    from mistral_lib.training import train
    from mistral_lib.training.processes import distributed
    from mistral_lib.training.stopping import Stopped

    try:
        result = train.train_folder(arguments.run_folder)
    except Stopped as stopped:
        print(f"interrupted: {stopped}; the same command resumes from there", file=sys.stderr)
        distributed.end_if_lost(stopped, 3)
        return 3
    if result:  # of several processes the first one reports
        losses = result["validation_loss"]
        print(f"complete: validation loss {losses['base']:.4f} → {losses['adapter']:.4f} nats per supervised token")
    return 0


def status(arguments: argparse.Namespace) -> int:
    from mistral_lib.training import training_status

    now = training_status.status(Run.existing(arguments.run_folder))
    print(training_status.describe(now))
    return now.exit_code


def compare(arguments: argparse.Namespace) -> None:
    from mistral_lib.commands import compare_runs

    found, place = compare_runs.write(arguments.run_folders, arguments.out)
    print("\n".join([*compare_runs.sentence(found), f"page: {paths.short(place)}"]))


def ask(arguments: argparse.Namespace) -> None:
    from mistral_lib.commands import ask

    width = shutil.get_terminal_size().columns
    ask.ask(Run.existing(arguments.run_folder), arguments.question, arguments.max_new_tokens, width)


def export(arguments: argparse.Namespace) -> None:
    from mistral_lib.commands import export_command

    print(export_command.export(Run.existing(arguments.run_folder), arguments.forms, arguments.push, arguments.public))


def serve(arguments: argparse.Namespace) -> int:
    from mistral_lib.serving import serve

    return serve.serve(Run.existing(arguments.run_folder), arguments.form, arguments.engine, arguments.port)


def parity(arguments: argparse.Namespace) -> int:
    from mistral_lib.commands import export_command
    from mistral_lib.export import parity

    found = parity.parity(Run.existing(arguments.run_folder), arguments.url, arguments.key_file)
    print(export_command.parity_text(found))
    return 0 if found["passed"] else 1


def audit(arguments: argparse.Namespace) -> int:
    if arguments.claims:
        from mistral_lib.commands import claims

        checked = claims.check(arguments.claims)
        print(claims.text(checked))
        return 0 if claims.all_verified(checked) else 1
    from mistral_lib.preparation import audit

    places = [arguments.folder] if arguments.folder else all_runs()
    findings = [finding for place in places for finding in audit.audit(place)]
    print("\n".join(map(str, findings)) or "no runs yet")
    return 0 if all(finding.status in ("verified", "older") for finding in findings) else 1


def runs(arguments: argparse.Namespace) -> None:
    print(run_folders.table())


def rename(arguments: argparse.Namespace) -> None:
    print(run_folders.rename(arguments.run, arguments.new_name))


def delete(arguments: argparse.Namespace) -> None:
    print(run_folders.delete(arguments.run, arguments.yes))


def lab(arguments: argparse.Namespace) -> None:
    jupyter_lab.open_lab(arguments.port, arguments.jupyter, arguments.fresh)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m mistral_lib", description="The Mistral workbook's command line.")
    commands = top.add_subparsers(required=True, metavar="command")
    _add_notebook_commands(commands)
    _add_run_commands(commands)
    instance_commands.add(commands)
    command = _add(commands, lab, "JupyterLab at the first notebook, as a working copy in workbook/; on this machine only, with a token")
    command.add_argument("--port", type=int, help="default: the first free one from 8888 on")
    command.add_argument("--fresh", action="store_true", help="move changed copies to workbook/previous/ and copy all notebooks again")
    command.add_argument("jupyter", nargs="*", metavar="-- option", help="further options for `jupyter lab`, after --")
    return top


def _add(commands: Any, work: Callable, text: str, *shared: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """A command with its function's name. shared: parsers whose arguments it takes as well."""
    command = commands.add_parser(work.__name__, help=text, description=text, parents=shared)
    command.set_defaults(work=work)
    return command


def _argument(*names: str, **options: Any) -> argparse.ArgumentParser:
    """An argument that several commands share."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(*names, **options)
    return shared


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number, at least 1")
    return int(text)


def _add_notebook_commands(commands: Any) -> None:
    """Commands that take a parameter file or a sweep file."""
    file = _argument("params_file", type=Path)
    override = _argument("--set", action="append", default=[], metavar="key=value", help="override one parameter; may be repeated")
    only = _argument("--only", nargs="+", default=[], metavar="NN", help="notebook numbers, such as 02 03 04")
    _add(commands, run, "run the notebooks headless, skipping what is complete", file, override, only)
    _add(commands, check, "validate parameters and print all of them", file, override)
    command = _add(commands, plan, "which machine it fits on, how long it takes, at what price", file, override)
    command.add_argument("--tokens", type=int, default=0, help="training tokens of one pass; default: counted or estimated from the corpus")
    command = _add(commands, sweep, "run the alternatives of a sweep file, one after another or side by side, and compare them", only)
    command.add_argument("sweep_file", type=Path)
    command.add_argument(
        "--engine", choices=("local", "ray"), default="local", help="local: one after another; ray: side by side on a cluster"
    )
    command.add_argument(
        "--ray-address", default="auto", help="head of the Ray cluster as HOST:PORT; auto: that of this machine; local: a new one"
    )
    command.add_argument(
        "--cores",
        type=_positive,
        metavar="N",
        help="of each alternative on a cluster; default: with GPUs one GPU and its part of the cores, else half a node",
    )


def _add_run_commands(commands: Any) -> None:
    """Commands for one or several run folders."""
    folder = _argument("run_folder", type=Path)
    _add(commands, train, "the trainer process of one run folder", folder)
    codes = "exit code 0 complete, 1 failed, 3 interrupted, 4 running, 5 hung, 6 not started"
    _add(commands, status, f"the state of a training; {codes}", folder)
    actions = _add(commands, runs, "list the runs; rename or delete one").add_subparsers(metavar="action")
    name = _argument("run", help="its name, as `runs` lists it")
    _add(actions, rename, "rename a run; no stage has to run again", name).add_argument("new_name")
    command = _add(actions, delete, "delete a run folder, after a question", name)
    command.add_argument("--yes", action="store_true", help="do not ask")
    command = _add(commands, compare, "two or more evaluated runs, paired on the same test records, as one HTML page")
    command.add_argument("run_folders", type=Path, nargs="+")
    command.add_argument("--out", type=Path, help="where the page is written; default: runs/comparisons/")
    command = _add(commands, ask, "base model and adapter answer questions, side by side", folder)
    command.add_argument("question", nargs="+", help="one or more, each in quotation marks")
    command.add_argument("--max-new-tokens", type=int, metavar="N", help="tokens of the longest answer; default: max_new_tokens of the run")
    _add_serving_commands(commands, folder)
    command = _add(
        commands, audit, "check runs, an adapter folder or claims again; non-zero if anything is missing, altered, stale or refuted"
    )
    command.add_argument("folder", type=Path, nargs="?")
    command.add_argument("--claims", type=Path, metavar="FILE", help="what somebody says is there, as in params/claims_example.yaml")


def _add_serving_commands(commands: Any, folder: argparse.ArgumentParser) -> None:
    """Commands for an adapter that is handed on."""
    command = _add(commands, export, "merge the adapter and write the files that other programs load", folder)
    command.add_argument(
        "--as", dest="forms", nargs="+", metavar="FORM", help="merged, f16, q8_0, q4_k_m, gguf (the last two), lora-gguf, ollama"
    )
    command.add_argument("--push", metavar="OWNER/NAME", help="upload to this repository of the Hugging Face hub, private unless --public")
    command.add_argument("--public", action="store_true", help="with --push: a repository that everybody can read")
    command = _add(commands, serve, "an OpenAI-compatible server on this machine only, behind a key", folder)
    command.add_argument("--form", help="default: the smallest exported form that keeps enough of the adapter")
    command.add_argument("--engine", choices=("auto", "llama.cpp", "vllm"), default="auto")
    command.add_argument("--port", type=int, help="default: the first free one from 8001 on")
    command = _add(commands, parity, "is each exported form, or what answers at an address, the adapter? non-zero unless all are", folder)
    command.add_argument("--url", help="a server with OpenAI's API; default: the exported files")
    command.add_argument("--key-file", type=Path, help="with --url: the file that holds its key")


def main() -> int | None:
    arguments = parser().parse_args()
    try:
        return arguments.work(arguments)
    except (ValueError, RuntimeError, OSError, ModuleNotFoundError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: what was finished is kept, and the same command resumes", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
