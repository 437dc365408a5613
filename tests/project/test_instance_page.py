"""docs/instance.md says of the code what the code does: options, defaults, quotas and prices."""

import re
from itertools import chain

import pytest

from mistral_lib import __main__
from mistral_lib.aws import prices, quotas
from mistral_lib.instance import launch_options, launch_steps
from mistral_lib.on_machine import ending
from mistral_lib.rented_run.uploading import RunOptions
from mistral_lib.run import params, paths

PAGE = (paths.project() / "docs" / "instance.md").read_text()
WORDS = 1300
ACTIONS = __main__.parser()._subparsers._group_actions[0].choices["instance"]._subparsers._group_actions[0].choices


def test_its_length_is_limited() -> None:
    assert len(PAGE.split()) <= WORDS


def test_every_option_that_it_names_exists_and_every_action_is_shown() -> None:
    options = set(chain.from_iterable(action.option_strings for command in ACTIONS.values() for action in command._actions))
    assert set(re.findall(r"--[a-z][a-z-]+", PAGE)) <= options
    assert set(re.findall(r"-m mistral_lib instance (\w+)", PAGE)) == set(ACTIONS)


@pytest.mark.parametrize(
    ("sentence", "value"),
    [
        (r"`--max-hours` \(default (\d+)\)", launch_options.MAX_HOURS),
        (r"up to `--wait-minutes` \((\d+)\)", launch_options.UpOptions().wait_minutes),
        (r"no file for (\d+) minutes \(`--hang-minutes`\)", RunOptions().hang_minutes),
        (r"no job for (\d+) minutes \(`--idle-minutes`\)", launch_options.UpOptions().idle_minutes),
        (r"up to (\d+) minutes before the end", ending.LONGEST_WRAP_UP / 60),
        (r"EventBridge schedule (\d+) minutes later", launch_steps.GRACE.total_seconds() / 60),
        (r"150 GiB for a 7B run \| ([\d.]+) a day", round(150 * prices.DAY_PRICES["volume"], 2)),
        (r"public address of a running machine \| ([\d.]+) a day", prices.DAY_PRICES["address"]),
        (r"bucket \| ([\d.]+) per GiB and month", prices.S3_PER_GIB_MONTH),
    ],
)
def test_its_numbers_are_those_of_the_code(sentence: str, value: float) -> None:
    assert [float(number) for number in re.findall(sentence, PAGE)] == [value]


def test_its_prices_and_quotas_are_those_of_the_tables() -> None:
    row = next(line for line in PAGE.splitlines() if line.startswith("| g4dn.xlarge"))
    names, numbers = re.findall(r"g\w+\.\w+", row), re.findall(r"\d+\.\d+", row)
    machines = params.instances()
    assert [float(number) for number in numbers] == [machines[name]["usd_per_hour"] for name in names]
    assert {machines[name]["priced"] for name in names} == {prices.PRICED} and f"read in {prices.PRICED}" in PAGE
    for spot in (False, True):
        family = quotas.of("g5.xlarge", spot)
        assert f"*{family.name}* (`{family.code}`)" in PAGE
