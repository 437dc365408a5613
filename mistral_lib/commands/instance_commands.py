"""The command line of a rented machine: python -m mistral_lib instance plan | up | start | run | watch | fetch | lab | list | down.

Every function imports what it needs: boto3 is an optional package, and nothing else of the command line waits for it.
"""

import argparse
from collections.abc import Callable
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mistral_lib.run import params

ABOUT = "rent a machine on AWS, run there, get the results, and remove it again (docs/instance.md)"


def plan(arguments: argparse.Namespace) -> int:
    from mistral_lib.instance import plan, plan_text

    found = plan.plan(params.load(arguments.params_file, arguments.set), arguments.tokens, arguments.region)
    print(plan_text.text(found, arguments.params_file))
    return 0 if found.recommended else 1


def up(arguments: argparse.Namespace) -> None:
    from mistral_lib.instance import launch
    from mistral_lib.instance.launch_options import UpOptions

    settings = params.load(arguments.params_file, arguments.set)
    launch.up(arguments.params_file, settings, _options(UpOptions, arguments))


def start(arguments: argparse.Namespace) -> None:
    from mistral_lib.instance import restart
    from mistral_lib.instance.launch_options import StartOptions

    settings = params.load(arguments.params_file, arguments.set)
    restart.start(arguments.machine, arguments.params_file, settings, _options(StartOptions, arguments))


def run(arguments: argparse.Namespace) -> int:
    from mistral_lib.rented_run import retry, uploading

    settings, options = params.load(arguments.params_file, arguments.set), _options(uploading.RunOptions, arguments)
    if arguments.retry:
        return retry.run(arguments.params_file, settings, options, arguments.retry)
    uploading.run(settings, options)
    return 0


def watch(arguments: argparse.Namespace) -> int:
    from mistral_lib.rented_run import watching

    return watching.watch(arguments.run, once=arguments.once, seconds=arguments.seconds)


def fetch(arguments: argparse.Namespace) -> int:
    from mistral_lib.rented_run import fetching

    fetched = fetching.fetch(arguments.run)
    print(fetched)
    return 0 if fetched.verified else 1


def lab(arguments: argparse.Namespace) -> int:
    from mistral_lib.rented_run import tunnel

    return tunnel.lab(arguments.run, "served" if arguments.served else "jupyter", arguments.port)


def list_(arguments: argparse.Namespace) -> None:
    from mistral_lib.instance import listing

    print(listing.text(arguments.region))


def down(arguments: argparse.Namespace) -> int:
    from mistral_lib.instance import removal

    if (arguments.run is None) == (not arguments.all):
        raise ValueError(
            "expected the name of one run, or --all for everything with the workbook's tag: `instance list` shows what there is"
        )
    return removal.down(arguments.run, arguments.yes, arguments.delete_results, arguments.region)


def add(commands: Any) -> None:
    """Adds `instance` with its actions to the subparsers of the command line."""
    top = commands.add_parser("instance", help=ABOUT, description=ABOUT)
    actions = top.add_subparsers(required=True, metavar="action")
    file = argparse.ArgumentParser(add_help=False)
    file.add_argument("params_file", type=Path)
    file.add_argument("--set", action="append", default=[], metavar="key=value", help="override one parameter; may be repeated")
    name = argparse.ArgumentParser(add_help=False)
    name.add_argument("run", help="run_name of the parameters")
    command = _action(actions, plan, "machines that fit, with hours, USD, quota and zones, and your stopped machines", file, _region())
    command.add_argument("--tokens", type=int, default=0, help="training tokens of an epoch; default: counted or estimated from the corpus")
    _add_launches(actions, file)
    _add_run(actions, file)
    command = _action(actions, watch, "what the machine and the run do, what they cost and when they stop; until the end", name)
    command.add_argument("--once", action="store_true", help="print it once")
    command.add_argument("--seconds", type=float, default=20, help="between two looks; default: 20")
    _action(actions, fetch, "results into runs/<run>, verified and audited; non-zero unless complete and verified", name)
    command = _action(actions, lab, "JupyterLab of the machine here, through an SSM tunnel; nothing listens to the world", name)
    command.add_argument("--served", action="store_true", help="the served model instead: its OpenAI-compatible address and key")
    command.add_argument("--port", type=int, help="on this computer; default: the same as on the machine")
    command = _action(actions, list_, "everything with the workbook's tag in all regions that were used, and what it costs a day")
    command.add_argument("--region", action="append", help="look there as well; may be repeated")
    command = _action(actions, down, "remove everything of a run, after a question, and show that nothing is left")
    command.add_argument("run", nargs="?", help="run_name of the parameters")
    command.add_argument("--all", action="store_true", help="of all runs")
    command.add_argument("--yes", action="store_true", help="do not ask")
    command.add_argument("--region", action="append", help="look there as well; may be repeated")
    command.add_argument("--delete-results", action="store_true", help="also results in the bucket that were not fetched")


def _add_launches(actions: Any, file: argparse.ArgumentParser) -> None:
    """`up` and `start`, which share the limits of time and money."""
    limits = argparse.ArgumentParser(add_help=False)
    limits.add_argument("--max-hours", type=float, help="from launch to the end at the latest; default: 12")
    limits.add_argument("--max-usd", type=float, help="the machine ends when it has cost so much")
    limits.add_argument("--idle-minutes", type=float, default=30.0, help="without a job, after which the machine ends; default: 30")
    limits.add_argument("--usd-per-hour", type=float, help="the price to count with; default: that of params/instances.yaml")
    limits.add_argument("--bucket", help="an own bucket; default: one is made, private and encrypted")
    limits.add_argument("--profile-name", help="an instance profile that an administrator made; default: one with least rights is made")
    limits.add_argument("--timer-role", metavar="ARN", help="a role for the timer in AWS that an administrator made")
    limits.add_argument("--subnet", help="default: those of the default VPC")
    limits.add_argument("--ignore-fit", action="store_true", help="also if the run does not fit by the plan")
    command = _action(actions, up, "launch a machine for this run; a second call finds the first machine", file, _region(), limits)
    command.add_argument("--type", help="default: `instance` of the parameters")
    command.add_argument("--spot", action="store_true", help="cheaper, and may be taken away: see `run --retry`")
    command.add_argument(
        "--nodes", type=int, metavar="N", help="N machines together with Ray: a head, which has the run, and workers (docs/cluster.md)"
    )
    command.add_argument("--image", help="an image id; default: the newest one of AWS with a driver")
    command.add_argument("--disk-gib", type=int, help="default: what the plan needs")
    command.add_argument("--wait-minutes", type=float, default=30.0, help="for capacity, over all zones; default: 30")
    command.add_argument("--dry-run", action="store_true", help="print what would be made, make nothing")
    command = _action(actions, start, "start a stopped machine for this run", file, _region(), limits)
    command.add_argument("machine", help="its id, as `plan` shows it: i-…")
    command.add_argument("--retry-minutes", type=float, default=0.0, help="wait for capacity in its zone; default: 0")
    command.add_argument("--change-type", metavar="TYPE", help="if there is no capacity: change to this type")
    command.add_argument("--move-to", metavar="PLACE", help="if there is no capacity: launch an image of it in this zone or region")


def _add_run(actions: Any, file: argparse.ArgumentParser) -> None:
    command = _action(actions, run, "send code, parameters and corpus to the machine, which then runs and stops by itself", file)
    command.add_argument("--only", nargs="+", default=[], metavar="NN", help="notebook numbers, such as 02 03 04")
    command.add_argument("--dirty", action="store_true", help="send the tracked files as they are, also with uncommitted changes")
    command.add_argument("--upload-model", type=Path, metavar="FOLDER", help="send this local base model; default: the hub or s3://")
    command.add_argument("--token-file", type=Path, help="file with the hub's token; default: HF_TOKEN, or that of `hf auth login`")
    command.add_argument("--idle-minutes", type=float, default=30.0, help="without work, after which the machine ends; default: 30")
    command.add_argument("--hang-minutes", type=float, default=60.0, help="without progress, after which the run is stopped; default: 60")
    command.add_argument("--retry", type=int, default=0, metavar="N", help="stay, and launch up to N new machines after spot notices")


def _region() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--region", help="default: AWS_REGION, AWS_DEFAULT_REGION or that of the profile; never guessed")
    return shared


def _action(actions: Any, work: Any, text: str, *shared: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """An action with its function's name. shared: parsers whose arguments it takes as well."""
    command = actions.add_parser(work.__name__.rstrip("_"), help=text, description=text, parents=shared)
    command.set_defaults(work=work if work is plan else _with_boto3(work))
    return command


def _with_boto3(work: Callable[[argparse.Namespace], int | None]) -> Callable[[argparse.Namespace], int | None]:
    """The work of an action that needs an account. Errors: ModuleNotFoundError before it begins."""

    def checked(arguments: argparse.Namespace) -> int | None:
        if find_spec("boto3") is None:
            raise ModuleNotFoundError("`instance` needs the package boto3, which is not installed: pip install -e '.[aws]'")
        return work(arguments)

    return checked


def _options(kind: type, arguments: argparse.Namespace) -> Any:
    """A dataclass of options, from the arguments of the same names."""
    return kind(**{field.name: getattr(arguments, field.name) for field in fields(kind) if hasattr(arguments, field.name)})
