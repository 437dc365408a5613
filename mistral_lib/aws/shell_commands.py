"""Shell commands on a machine by Systems Manager: no port is open, and no key is needed.

Source: boto3, SSM.Client.send_command and get_command_invocation (which keeps 24,000 characters of the output).
"""

from typing import Any

from mistral_lib.aws import errors, session, waiting

DOCUMENT = "AWS-RunShellScript"
LISTED_SECONDS = 20  # until a command that was sent is listed
LAST_LINES = 10
RUNNING = ("Pending", "InProgress", "Delayed", "Cancelling")


class CommandError(errors.AwsError):
    """The command did not succeed. exit_code: of the shell, None if it did not end; output: what it had printed."""

    def __init__(self, message: str, code: str, exit_code: int | None = None, output: str = "") -> None:
        super().__init__(message, code)
        self.exit_code, self.output = exit_code, output


def reachable(machine_id: str, region: str) -> bool:
    """Whether the machine's agent reports to Systems Manager. Errors: AwsError."""
    asked = [{"Key": "InstanceIds", "Values": [machine_id]}]
    with errors.explained(f"asking whether {machine_id} can be reached"):
        found = session.client("ssm", region).describe_instance_information(Filters=asked)["InstanceInformationList"]
    return any(one["InstanceId"] == machine_id and one["PingStatus"] == "Online" for one in found)


def wait_reachable(machine_id: str, region: str, seconds: float) -> bool:
    """Whether the machine can be reached within the seconds. Errors: AwsError."""
    return any(reachable(machine_id, region) for _ in waiting.tries(seconds, first=3.0))


def send(machine_id: str, region: str, lines: list[str], seconds: int) -> str:
    """Run the lines as root and return what they print. Errors: CommandError if it fails or takes longer than the seconds, AwsError."""
    client = session.client("ssm", region)
    asked = {"commands": lines, "executionTimeout": [str(seconds)]}
    with errors.explained(f"sending a command to {machine_id}"):
        try:
            sent = client.send_command(
                InstanceIds=[machine_id], DocumentName=DOCUMENT, Parameters=asked, TimeoutSeconds=max(30, min(seconds, 600))
            )
        except client.exceptions.InvalidInstanceId as error:
            raise CommandError(
                f"{machine_id} does not report to Systems Manager: it may still start, be stopped, or have no way to the internet; "
                "wait two minutes and run the command again",
                "InvalidInstanceId",
            ) from error
    return _result(client, machine_id, sent["Command"]["CommandId"], seconds)


def _result(client: Any, machine_id: str, command: str, seconds: int) -> str:
    last: dict[str, Any] = {}
    for left in waiting.tries(seconds + LISTED_SECONDS):
        with errors.explained(f"waiting for a command on {machine_id}"):
            try:
                last = client.get_command_invocation(CommandId=command, InstanceId=machine_id)
            except client.exceptions.InvocationDoesNotExist:
                if left <= 0:
                    raise
                continue
        if last["Status"] == "Success":
            return last.get("StandardOutputContent", "")
        if last["Status"] not in RUNNING:
            raise _failed(machine_id, last)
    raise CommandError(f"the command on {machine_id} did not end within {seconds} s: it may still run; run it again", "TimedOut", output=last.get("StandardOutputContent", ""))  # fmt: skip


def _failed(machine_id: str, last: dict[str, Any]) -> CommandError:
    output = last.get("StandardOutputContent", "") + last.get("StandardErrorContent", "")
    lines = "\n".join(output.strip().splitlines()[-LAST_LINES:])
    if last["Status"] == "TimedOut":
        return CommandError(f"the command on {machine_id} was stopped after its time; its last lines:\n{lines}", "TimedOut", output=output)
    found = last.get("ResponseCode", -1)
    return CommandError(f"the command on {machine_id} ended with {last['Status']}, exit code {found}; its last lines:\n{lines}", last["Status"], found, output)  # fmt: skip
