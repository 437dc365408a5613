"""The role of the machine with its instance profile, and the role of the outside timer. IAM is the same in all regions.

Source: boto3, IAM.Client; IAM, "IAM roles for Amazon EC2".
"""

import json
from collections.abc import Callable
from typing import Any

from mistral_lib.aws import errors, names, policies, session
from mistral_lib.aws.names import Names
from mistral_lib.run import files, paths

POLICY = "mistral-workbook"  # name of the one policy inside each role


def ensure(run: str, bucket: str, region: str) -> str:
    """The instance profile of the run's machine, made if it is missing; its policy is written again. Errors: AwsError.

    If the right is missing, the message names a file with the policy that an administrator can use instead.
    """
    own, account = names.of(run), session.account(region)
    trust, policy = policies.machine_trust(region), policies.machine_policy(own, bucket, account, region)
    try:
        _role(own, own.role, trust, policy, region)
        _profile(own, region)
    except errors.AwsError as error:
        if not error.denied:
            raise
        raise errors.AwsError(f"{error}. {_by_an_administrator(own, trust, policy)}", error.code) from error
    return own.profile


def ensure_timer(run: str, region: str) -> str:
    """The ARN of the role that the outside timer uses, made if it is missing. Errors: AwsError, as in `ensure`."""
    own, account = names.of(run), session.account(region)
    trust, policy = policies.timer_trust(account, region), policies.timer_policy(own, account, region)
    try:
        return _role(own, own.timer_role, trust, policy, region)
    except errors.AwsError as error:
        if not error.denied:
            raise
        raise errors.AwsError(f"{error}. {_timer_by_an_administrator(own, trust, policy)}", error.code) from error


def existing(run: str | None, region: str) -> dict[str, str]:
    """`{role name: run}` of the workbook's roles; instance profiles without their role are listed as `profile/<name>`."""
    client = session.client("iam", region)
    found: dict[str, str] = {}
    with errors.explained("listing the roles"):
        for page in client.get_paginator("list_roles").paginate():
            for role in page["Roles"]:
                if role["RoleName"].startswith(f"{names.TAG}-"):
                    tags = client.list_role_tags(RoleName=role["RoleName"])["Tags"]
                    found[role["RoleName"]] = names.run_of(tags)
        for page in client.get_paginator("list_instance_profiles").paginate():
            for profile in page["InstanceProfiles"]:
                name = profile["InstanceProfileName"]
                if name.startswith(f"{names.TAG}-") and name not in found:
                    tags = client.get_instance_profile(InstanceProfileName=name)["InstanceProfile"].get("Tags", [])
                    found[f"profile/{name}"] = names.run_of(tags)
    return {name: owner for name, owner in found.items() if owner and run in (None, owner)}


def delete(run: str, region: str) -> None:
    """Delete the profile and both roles of the run; what is missing is skipped. Errors: AwsError."""
    own, client = names.of(run), session.client("iam", region)
    with errors.explained(f"deleting the roles of {run}"):
        _unless_gone(lambda: _empty(client, own.profile))
        _unless_gone(lambda: client.delete_instance_profile(InstanceProfileName=own.profile))
        for role in (own.role, own.timer_role):
            _unless_gone(lambda role=role: client.delete_role_policy(RoleName=role, PolicyName=POLICY))
            _unless_gone(lambda role=role: client.delete_role(RoleName=role))


def _empty(client: Any, profile: str) -> None:
    """An instance profile can be deleted when no role is in it."""
    for role in client.get_instance_profile(InstanceProfileName=profile)["InstanceProfile"]["Roles"]:
        client.remove_role_from_instance_profile(InstanceProfileName=profile, RoleName=role["RoleName"])


def _role(own: Names, name: str, trust: policies.Policy, policy: policies.Policy, region: str) -> str:
    """The role's ARN. A role of this name that is not the run's is left alone."""
    client = session.client("iam", region)
    with errors.explained(f"making the role {name}"):
        try:
            asked = {
                "AssumeRolePolicyDocument": json.dumps(trust),
                "Tags": names.tags(own.run),
                "Description": f"mistral-workbook, run {own.run}",
            }
            arn = client.create_role(RoleName=name, **asked)["Role"]["Arn"]
        except client.exceptions.EntityAlreadyExistsException:
            found = client.get_role(RoleName=name)["Role"]
            _require_own(own, name, found.get("Tags"))
            client.update_assume_role_policy(RoleName=name, PolicyDocument=json.dumps(trust))
            arn = found["Arn"]
        client.put_role_policy(RoleName=name, PolicyName=POLICY, PolicyDocument=json.dumps(policy))
    return arn


def _profile(own: Names, region: str) -> None:
    client = session.client("iam", region)
    with errors.explained(f"making the instance profile {own.profile}"):
        try:
            client.create_instance_profile(InstanceProfileName=own.profile, Tags=names.tags(own.run))
        except client.exceptions.EntityAlreadyExistsException:
            found = client.get_instance_profile(InstanceProfileName=own.profile)["InstanceProfile"]
            if any(role["RoleName"] == own.role for role in found["Roles"]):
                return
        client.add_role_to_instance_profile(InstanceProfileName=own.profile, RoleName=own.role)


def _require_own(own: Names, name: str, tags: list[dict[str, str]] | None) -> None:
    if names.run_of(tags) != own.run:
        raise errors.AwsError(
            f"the role {name} exists, but its tag {own.tag} is {names.run_of(tags) or 'missing'} and not {own.run}: "
            "it is left as it is; choose another run name, or name a profile with --profile-name",
            "EntityAlreadyExists",
        )


def _by_an_administrator(own: Names, trust: policies.Policy, policy: policies.Policy) -> str:
    """Writes the policy to a file and says how it is used."""
    place = paths.runs() / ".instances" / f"{own.run}-policies" / "machine.json"
    files.write_json(place, {"role": own.role, "instance_profile": own.profile, "trust": trust, "policy": policy})
    return f"Or an administrator makes a role and an instance profile from {paths.short(place)}, and you name it with --profile-name"


def _timer_by_an_administrator(own: Names, trust: policies.Policy, policy: policies.Policy) -> str:
    place = paths.runs() / ".instances" / f"{own.run}-policies" / "timer.json"
    files.write_json(place, {"role": own.timer_role, "trust": trust, "policy": policy})
    return f"Or an administrator makes a role from {paths.short(place)}, and you name its ARN with --timer-role"


def _unless_gone(action: Callable[[], Any]) -> None:
    try:
        action()
    except Exception as error:
        if errors.code(error) != "NoSuchEntity":
            raise
