"""What notebook 00 shows: a sentence where nothing can be seen, never an error, never a long wait; machines with the commands that rent them."""

import shlex
import sys
import time

import pytest

from mistral_lib import __main__
from mistral_lib.aws import regions, session
from mistral_lib.instance import in_notebook, launch_options, plan, records
from mistral_lib.run import params, paths
from mistral_lib.run.settings import Settings
from tests.instance.test_plan import own_stopped
from tests.instance.test_resources import up
from tests.support.aws_stand_in import REGION, FalseAws


@pytest.fixture(scope="module")
def seven() -> Settings:
    """Mistral-7B, on a corpus that comes with the library."""
    return params.load(paths.params() / "g5_mistral_7b.yaml", ["run_name=seven", "corpus_paths=[demo:corpus]"])


@pytest.fixture(scope="module")
def table(seven: Settings) -> list[plan.Row]:
    """The rows of the plan, computed once."""
    from mistral_lib.training import workload

    return plan.rows_of(seven, workload.work_of(seven, 2_000_000))


@pytest.fixture
def quick(table: list[plan.Row], monkeypatch: pytest.MonkeyPatch) -> None:
    """The tokens are not counted and the fit plan is not computed again."""
    from mistral_lib.training import workload

    work_of = workload.work_of
    monkeypatch.setattr(workload, "work_of", lambda settings, tokens=0: work_of(settings, 2_000_000))
    monkeypatch.setattr(plan, "rows_of", lambda settings, work: table)


def understood(command: str) -> None:
    """Errors: SystemExit if the command line does not have it."""
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "mistral_lib"]
    __main__.parser().parse_args(words[3:])


# -- what runs and costs now ----------------------------------------------------------------------------------------------


def test_without_credentials_or_boto3_it_is_the_same_plain_sentence(home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "has_credentials", lambda: False)
    without_credentials = in_notebook.running()
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "boto3", None)  # an import of it fails
    assert in_notebook.running() == without_credentials == in_notebook.NO_ACCOUNT
    assert without_credentials.count("\n") == 0 and without_credentials.endswith(").")


def test_a_machine_in_the_configured_region_is_listed_with_its_cost(home, aws: FalseAws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", REGION)
    assert in_notebook.running(60) == f"Nothing with the workbook's tag in {REGION} of account 123456789012"
    record = up()
    shown = in_notebook.running(60)
    assert record.machine in shown and "USD a day as they are" in shown


def test_a_service_that_does_not_answer_costs_the_notebook_no_time(home, aws: FalseAws) -> None:
    regions.remember(REGION)
    aws.delay("ec2", "DescribeInstances", seconds=4.0)
    began = time.monotonic()
    shown = in_notebook.running(seconds=0.3)
    assert time.monotonic() - began < 3
    assert shown == "AWS did not answer within 0.3 seconds; in a terminal: python -m mistral_lib instance list"


def test_what_is_refused_or_damaged_becomes_a_sentence(home, aws: FalseAws) -> None:
    regions.remember(REGION)
    aws.deny("ec2", "DescribeInstances")
    assert "not seen: machine in us-east-1" in in_notebook.running(60)
    records.place("torn").parent.mkdir(parents=True, exist_ok=True)
    records.place("torn").write_text("{")
    assert in_notebook.running(60).startswith("What runs on AWS is not known (runs/.instances/torn.json cannot be read")


# -- machines to rent -----------------------------------------------------------------------------------------------------


def test_without_an_account_the_machines_of_the_table_are_shown(home, seven: Settings, quick, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "has_credentials", lambda: False)
    first, last = in_notebook.machines(seven)
    assert "being asked" in first.notes[-1] and "no AWS credentials" in last.notes[-1] and last.notes[1].startswith("Disk: ")
    assert [row["machine"] for row in last.machines] == list(plan.rented()) == list(last.commands)
    assert set(last.machines[0]) == {"machine", "GPU", "fits", "hours", "USD", "USD an hour"}, "what was not seen has no column"
    assert last.commands["g5.xlarge"] == ["python -m mistral_lib instance up runs/seven.yaml --region <region>"]


def test_with_an_account_quotas_and_own_stopped_machines_are_shown(
    home, aws: FalseAws, seven: Settings, quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REGION", REGION)
    small, large = own_stopped("g5.xlarge", 30), own_stopped("g5.xlarge", 500)
    *_, found = in_notebook.machines(seven)
    assert found.machines[0]["quota, vCPUs"] == "0 of 8 in use"
    assert {row["id"]: row["fits"] == "would fit" for row in found.own} == {small: False, large: True}
    assert found.commands["g5.xlarge"] == [
        f"python -m mistral_lib instance up runs/seven.yaml --region {REGION}",
        f"python -m mistral_lib instance start runs/seven.yaml {large} --region {REGION}",
    ]
    for command in found.commands["g5.xlarge"]:
        understood(command)


def test_a_quota_of_zero_leaves_no_command_and_says_why(
    home, aws: FalseAws, seven: Settings, quick, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REGION", REGION)
    aws.quotas["L-DB2E81BA"] = 0.0
    *_, found = in_notebook.machines(seven)
    assert set(map(tuple, found.commands.values())) == {()}
    assert "the quota is 0 vCPUs, 0 in use, 4 needed" in found.machines[0]["why not"]


def test_a_run_longer_than_the_default_limit_gets_more_hours(seven: Settings, table: list[plan.Row]) -> None:
    from dataclasses import replace

    long = [replace(row, hours=(10.0, launch_options.MAX_HOURS)) for row in table]
    (command,) = in_notebook.commands(plan.Plan("seven", "stated", long, {}, 0, REGION), seven)["g5.xlarge"]
    understood(command)
    assert command.endswith(f"--region {REGION} --max-hours 15")


def test_a_corpus_that_is_not_there_is_named(home) -> None:
    (found,) = in_notebook.machines(params.validate({"run_name": "nothing", "corpus_paths": ["corpora/nowhere"]}))
    assert not found.machines and "corpora/nowhere" in found.notes[0]
