"""`down`: everything is removed in the right order, unfetched results are named and kept, and what is left is shown."""

import re
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from mistral_lib.aws import buckets, machines, parameters, roles, schedules, session, volumes
from mistral_lib.aws.errors import AwsError
from mistral_lib.instance import launch, listing, records, removal, resources
from mistral_lib.instance.launch_options import UpOptions
from mistral_lib.run import params
from tests.support.aws_stand_in import FalseAws

REGION = "us-east-1"
OPTIONS = UpOptions(region=REGION, disk_gib=90, ignore_fit=True, wait_minutes=0)


def up(run: str = "first") -> records.Record:
    return launch.up("params/mine.yaml", params.validate({"run_name": run, "instance": "g4dn.xlarge"}), OPTIONS)


def put_results(record: records.Record) -> None:
    for name in ("results/training/result.json", "results.json", "job.json", "corpus/a.jsonl"):
        buckets.put_json({"complete": True}, record.bucket, record.prefix + name, REGION)


def kinds() -> list[str]:
    return [one.kind for one in resources.everything()]


def test_down_removes_everything_and_says_so(home, aws: FalseAws, capsys: pytest.CaptureFixture[str]) -> None:
    record = up()
    parameters.put_token("first", REGION, "hf_secret")
    assert removal.down("first", yes=True) == 0
    shown = capsys.readouterr().out
    assert "nothing is left of first in us-east-1" in shown and record.machine in shown
    assert resources.everything() == [] and records.load("first") is None
    assert machines.get(REGION, record.machine).state == "terminated"


def test_the_timer_is_deleted_after_the_machine_and_the_roles_after_the_timer(home, aws: FalseAws) -> None:
    up()
    removal.down("first", yes=True)
    order = [
        one.action for one in aws.requests if one.action in ("TerminateInstances", "DeleteSecurityGroup", "DeleteSchedule", "DeleteRole")
    ]
    assert order == ["TerminateInstances", "DeleteSecurityGroup", "DeleteSchedule", "DeleteRole", "DeleteRole"]


def test_nothing_is_removed_without_the_answer_yes(home, aws: FalseAws, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    record = up()
    for answer in ("no", ""):
        monkeypatch.setattr("builtins.input", lambda question, answer=answer: answer)
        assert removal.down("first") == 1

    def closed(question: str) -> str:
        raise EOFError

    monkeypatch.setattr("builtins.input", closed)
    assert removal.down("first") == 1 and "--yes" in capsys.readouterr().out
    assert machines.get(REGION, record.machine).state == "running"
    monkeypatch.setattr("builtins.input", lambda question: "yes")
    assert removal.down("first") == 0


def test_results_that_were_not_fetched_are_named_and_kept(home, aws: FalseAws, capsys: pytest.CaptureFixture[str]) -> None:
    record = up()
    put_results(record)
    assert removal.down("first", yes=True) == 0
    shown = capsys.readouterr().out
    assert "NOT FETCHED  first: 1 objects" in shown and "instance fetch first" in shown and "but the kept results" in shown
    assert set(buckets.listing(record.bucket, record.prefix, REGION)) == {
        record.prefix + "results/training/result.json",
        record.prefix + "results.json",
    }
    assert set(kinds()) == {"objects", "bucket"}
    assert records.load("first").bucket == record.bucket
    assert removal.down("first", yes=True, delete_results=True) == 0
    assert kinds() == [] and records.load("first") is None


def test_results_that_were_fetched_are_deleted(home, aws: FalseAws) -> None:
    record = up()
    put_results(record)
    records.save(replace(record, fetched=datetime.now(UTC) + timedelta(seconds=2)))
    assert removal.down("first", yes=True) == 0 and kinds() == []


def test_results_that_were_written_after_the_fetch_are_kept(home, aws: FalseAws) -> None:
    record = up()
    put_results(record)
    records.save(replace(record, fetched=datetime.now(UTC) - timedelta(hours=1)))
    removal.down("first", yes=True)
    assert set(kinds()) == {"objects", "bucket"}


def test_after_down_with_kept_results_up_resumes_them_on_a_new_machine(home, aws: FalseAws) -> None:
    first = up()
    put_results(first)
    removal.down("first", yes=True)
    second = up()
    assert second.attempt == 2 and second.bucket == first.bucket and second.complete


def test_another_run_keeps_its_machine_and_the_bucket(home, aws: FalseAws) -> None:
    up()
    other = up("second")
    assert removal.down("first", yes=True) == 0
    assert {one.run for one in resources.everything()} == {"second", "shared"}
    assert machines.get(REGION, other.machine).state == "running" and schedules.existing(REGION, "second")
    assert removal.down(None, yes=True) == 0 and kinds() == []


def test_a_machine_that_cannot_be_terminated_keeps_its_timer(home, aws: FalseAws, capsys: pytest.CaptureFixture[str]) -> None:
    up()
    aws.deny("ec2", "TerminateInstances")
    assert removal.down("first", yes=True) == 1
    shown = capsys.readouterr().out
    assert "ec2:TerminateInstances" in shown and "its timer and everything else stay" in shown and "left:" in shown
    assert schedules.existing(REGION, "first") and roles.existing("first", REGION) and records.load("first").complete
    aws.recover()
    assert removal.down("first", yes=True) == 0


@pytest.mark.parametrize(
    ("service", "action"),
    [
        ("iam", "DeleteRole"),
        ("scheduler", "DeleteSchedule"),
        ("s3", "DeleteObjects"),
        ("ec2", "DeleteSecurityGroup"),
        ("s3", "DeleteBucket"),
    ],
)
def test_what_is_refused_is_named_and_the_rest_is_removed(home, aws: FalseAws, capsys: pytest.CaptureFixture[str], service, action) -> None:
    up()
    aws.deny(service, action)
    assert removal.down("first", yes=True) == 1
    assert f"{service}:{action.replace('DeleteObjects', 'DeleteObject')}" in capsys.readouterr().out
    assert "machine" not in kinds()
    aws.recover()
    assert removal.down("first", yes=True) == 0 and kinds() == []


def test_a_kind_that_is_not_shown_is_not_claimed_to_be_gone(home, aws: FalseAws, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    up()
    aws.deny("iam", "ListRoles")
    monkeypatch.setattr(removal, "LISTED_SECONDS", 0)
    assert removal.down("first", yes=True) == 1
    shown = capsys.readouterr().out
    assert "not seen: role in global" in shown and "nothing is left" not in shown


def test_volumes_and_addresses_with_the_tag_are_removed(home, aws: FalseAws) -> None:
    up()
    client = session.client("ec2", REGION)
    marked = [{"Key": "mistral-workbook", "Value": "first"}]
    client.create_volume(AvailabilityZone=f"{REGION}a", Size=20, TagSpecifications=[{"ResourceType": "volume", "Tags": marked}])
    client.allocate_address(Domain="vpc", TagSpecifications=[{"ResourceType": "elastic-ip", "Tags": marked}])
    assert {"volume", "address"} <= set(kinds())
    assert removal.down("first", yes=True) == 0 and volumes.leftovers(REGION) == []


def test_a_run_that_nobody_knows_is_an_error(home, aws: FalseAws) -> None:
    with pytest.raises(records.RecordError, match=r"no run nobody is known .* nothing was removed: .*instance list"):
        removal.down("nobody", yes=True, extra_regions=[REGION])


def test_a_run_that_is_gone_already_is_no_fault(home, aws: FalseAws, capsys: pytest.CaptureFixture[str]) -> None:
    up()
    assert removal.down("first", yes=True) == 0 and not records.place("first").exists()
    assert removal.down("first", yes=True) == 0
    assert capsys.readouterr().out.count("nothing is left of first in us-east-1") == 2
    with pytest.raises(records.RecordError, match=r"did you mean first\?"):
        removal.down("fist", yes=True)


def test_another_computer_looks_into_all_regions_of_the_account(home, aws: FalseAws, capsys: pytest.CaptureFixture[str]) -> None:
    record = up()
    shutil.rmtree(records.folder())  # as on another computer
    assert removal.down("first", yes=True) == 0
    assert re.search(r"nothing is left of first in .*eu-west-1.*us-east-1.* of account 123456789012", capsys.readouterr().out)
    assert machines.get(REGION, record.machine).state == "terminated" and resources.everything([REGION]) == []


def test_a_misspelled_name_shows_the_runs_that_are_there(home, aws: FalseAws, capsys: pytest.CaptureFixture[str]) -> None:
    up()
    with pytest.raises(records.RecordError, match=r"no run frist .*nothing was removed: did you mean first\?"):
        removal.down("frist", yes=True)
    shown = capsys.readouterr().out
    assert "nothing has the tag of frist in us-east-1 of account 123456789012; other runs that have something there: first" in shown


def test_what_cannot_be_looked_into_is_not_claimed_to_be_empty(home, aws: FalseAws, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    aws.fail("ec2", "DescribeRegions", "RequestLimitExceeded", status=503, times=None)
    with pytest.raises(AwsError, match="listing the regions of the account"):
        removal.down("first", yes=True)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(session.AccessError, match="no AWS credentials"):
        removal.down("first", yes=True, extra_regions=[REGION])
    assert "nothing is left" not in capsys.readouterr().out


def test_a_run_of_another_account_is_refused_with_both_numbers(home, aws: FalseAws, capsys: pytest.CaptureFixture[str]) -> None:
    record = up()
    assert record.account == "123456789012"
    records.save(replace(record, account="999999999999"))
    both = "of AWS account 999999999999, and the present credentials are of account 123456789012"
    for refused in (lambda: removal.down("first", yes=True), up, lambda: records.required("first")):
        with pytest.raises(records.RecordError, match=both):
            refused()
    assert "not looked into: first, launched in account 999999999999" in listing.text()
    assert machines.get(REGION, record.machine).state == "running"
    other = replace(record, run="elsewhere", account="999999999999")
    records.save(record)
    records.save(other)
    assert removal.down(None, yes=True) == 1, "not everything was looked into"
    assert "not looked into: elsewhere, launched in account 999999999999" in capsys.readouterr().out
    assert kinds() == [] and records.load("elsewhere") == other


@pytest.mark.parametrize(("phase", "machine", "said"), [("running", None, True), ("ended", None, False), ("running", "i-0earlier", False)])
def test_the_question_says_that_the_run_still_works(
    home, aws: FalseAws, monkeypatch: pytest.MonkeyPatch, capsys, phase: str, machine: str | None, said: bool
) -> None:
    record = up()
    status = {"phase": phase, "doing": "the run works", "machine": machine or record.machine}
    buckets.put_json(status, record.bucket, record.prefix + "machine/status.json", REGION)
    questions: list[str] = []
    monkeypatch.setattr("builtins.input", lambda question: questions.append(question) or "no")
    assert removal.down("first") == 1
    assert ("although the machine of first is still working?" in questions[0]) == said
    shown = f"STILL WORKING  first on {record.machine}: running, the run works; what it has not uploaded is lost"
    assert (shown in capsys.readouterr().out) == said


def test_a_machine_that_is_not_shown_keeps_its_timer(home, aws: FalseAws, capsys: pytest.CaptureFixture[str]) -> None:
    record = up()
    aws.deny("ec2", "DescribeInstances")
    assert removal.down("first", yes=True) == 1
    assert "its timer and everything else stay" in capsys.readouterr().out
    aws.recover()
    assert machines.get(REGION, record.machine).state == "running"
    assert schedules.existing(REGION, "first") and roles.existing("first", REGION)


def test_results_that_arrive_during_the_question_are_kept(home, aws: FalseAws, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    record = up()
    monkeypatch.setattr("builtins.input", lambda question: put_results(record) or "yes")
    assert removal.down("first") == 0
    assert "but the kept results" in capsys.readouterr().out
    assert record.prefix + "results/training/result.json" in buckets.listing(record.bucket, record.prefix, REGION)
    assert records.load("first").bucket == record.bucket


def test_a_bucket_that_is_not_shown_keeps_the_record(home, aws: FalseAws, monkeypatch: pytest.MonkeyPatch) -> None:
    record = up()
    put_results(record)
    monkeypatch.setattr(removal, "LISTED_SECONDS", 0)
    aws.deny("s3", "ListObjectsV2")
    assert removal.down("first", yes=True) == 1
    aws.recover()
    assert records.load("first").bucket == record.bucket, "fetch still needs it"


def test_a_bucket_whose_tags_may_not_be_read_is_not_claimed_to_be_gone(
    home, aws: FalseAws, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    record = up()
    monkeypatch.setattr(removal, "LISTED_SECONDS", 0)
    aws.deny("s3", "GetBucketTagging")
    assert removal.down("first", yes=True) == 1
    shown = capsys.readouterr().out
    assert f"not seen: bucket in us-east-1: {record.bucket}" in shown and "nothing is left" not in shown
    aws.recover()
    assert removal.down("first", yes=True) == 0 and kinds() == []
