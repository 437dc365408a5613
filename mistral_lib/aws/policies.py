"""The rights of the machine, of the outside timer and of the person who runs the commands. No action is a pattern.

Source: Service Authorization Reference, "Actions, resources, and condition keys"; EventBridge Scheduler, "Confused deputy prevention";
Systems Manager, "Create a custom IAM role".
"""

from typing import Any

from mistral_lib.aws import regions
from mistral_lib.aws.names import TAG, Names

Policy = dict[str, Any]
VERSION = "2012-10-17"  # of the policy language


def machine_policy(names: Names, bucket: str, account: str, region: str) -> Policy:
    """What the machine may do: its own prefix of the bucket, its own parameter, and Systems Manager's agent."""
    part = regions.partition(region)
    store = f"arn:{part}:s3:::{bucket}"
    below = {"StringLike": {"s3:prefix": [names.prefix, f"{names.prefix}*"]}}
    return _policy(
        _allow("OwnPrefix", ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"], f"{store}/{names.prefix}*"),
        _allow("OwnListing", ["s3:ListBucket"], store, below),
        _allow("HubToken", ["ssm:GetParameter"], f"arn:{part}:ssm:{region}:{account}:parameter{names.parameter}"),
        _allow("AgentReports", ["ssm:UpdateInstanceInformation"], f"arn:{part}:ec2:{region}:{account}:instance/*"),
        # AWS defines no resources for these actions: "*" is the only one that they accept.
        _allow("AgentChannels", [
            "ssm:ListInstanceAssociations",
            "ssmmessages:CreateControlChannel", "ssmmessages:CreateDataChannel", "ssmmessages:OpenControlChannel", "ssmmessages:OpenDataChannel",
            "ec2messages:AcknowledgeMessage", "ec2messages:DeleteMessage", "ec2messages:FailMessage",
            "ec2messages:GetEndpoint", "ec2messages:GetMessages", "ec2messages:SendReply",
        ], "*"),
    )  # fmt: skip


def timer_policy(names: Names, account: str, region: str) -> Policy:
    """What the outside timer may do: end machines with this run's tag; one that was there before the run is stopped."""
    machines = f"arn:{regions.partition(region)}:ec2:{region}:{account}:instance/*"
    return _policy(
        _allow("End", ["ec2:TerminateInstances", "ec2:StopInstances"], machines, {"StringEquals": {f"aws:ResourceTag/{TAG}": names.run}})
    )


def machine_trust(region: str) -> Policy:
    service = "ec2.amazonaws.com.cn" if regions.partition(region) == "aws-cn" else "ec2.amazonaws.com"
    return _policy({"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"})


def timer_trust(account: str, region: str) -> Policy:
    """Only schedules of this account, in this region's default group, may use the role."""
    group = f"arn:{regions.partition(region)}:scheduler:{region}:{account}:schedule-group/default"
    ours = {"StringEquals": {"aws:SourceAccount": account, "aws:SourceArn": group}}
    return _policy({"Effect": "Allow", "Principal": {"Service": "scheduler.amazonaws.com"}, "Action": "sts:AssumeRole", "Condition": ours})


def administrator_policy(bucket: str, account: str, region: str) -> Policy:
    """The rights of the person who runs `instance` commands, in one region and with one bucket. It fits a managed policy (6,144 characters)."""
    part = regions.partition(region)
    machines, timers = _machines(part, account, region), _timers(part, account, region)
    return _policy(*_looking(part), *machines, *_roles(part, account), *timers, *_store(part, bucket))


def cluster_policy(account: str, region: str) -> Policy:
    """What that person needs besides for a run on several machines (`up --nodes`): a placement group, and the rule of the security group."""
    own = f"arn:{regions.partition(region)}:ec2:{region}:{account}"
    placements, groups = f"{own}:placement-group/*", f"{own}:security-group/*"
    ours = {"Null": {f"aws:ResourceTag/{TAG}": "false"}}
    return _policy(
        _allow("Placement", ["ec2:CreatePlacementGroup", "ec2:RunInstances"], placements),
        _allow("TagPlacement", ["ec2:CreateTags"], placements, {"StringEquals": {"ec2:CreateAction": "CreatePlacementGroup"}}),
        _allow("OwnPlacement", ["ec2:DeletePlacementGroup"], placements, ours),
        _allow("OwnMembers", ["ec2:AuthorizeSecurityGroupIngress"], groups, ours),
    )


def _looking(part: str) -> list[Policy]:
    # These actions list or describe, and AWS defines no narrower resource for them.
    return [
        _allow("Look", [
            "ec2:DescribeInstances", "ec2:DescribeInstanceAttribute", "ec2:DescribeInstanceTypes", "ec2:DescribeInstanceTypeOfferings", "ec2:DescribeImages", "ec2:DescribeSubnets", "ec2:DescribeVpcs",
            "ec2:DescribeSecurityGroups", "ec2:DescribePlacementGroups", "ec2:DescribeVolumes", "ec2:DescribeSnapshots", "ec2:DescribeAddresses", "ec2:DescribeRegions",
            "ec2:DescribeSpotPriceHistory", "ec2:DescribeIamInstanceProfileAssociations", "servicequotas:GetServiceQuota", "servicequotas:GetAWSDefaultServiceQuota", "pricing:GetProducts", "sts:GetCallerIdentity",
            "iam:ListRoles", "iam:ListInstanceProfiles", "scheduler:ListSchedules", "ssm:DescribeInstanceInformation", "ssm:DescribeParameters",
            "ssm:GetCommandInvocation", "s3:ListAllMyBuckets",
        ], "*"),
        _allow("PublicImages", ["ssm:GetParameter"], f"arn:{part}:ssm:*::parameter/aws/service/deeplearning/*"),
    ]  # fmt: skip


def _machines(part: str, account: str, region: str) -> list[Policy]:
    own, public = f"arn:{part}:ec2:{region}:{account}", f"arn:{part}:ec2:{region}:"
    ours, at_launch = {"Null": {f"aws:ResourceTag/{TAG}": "false"}}, {"Null": {f"aws:RequestTag/{TAG}": "false"}}
    instances, pictures = f"{own}:instance/*", [f"{public}:image/*", f"{public}:snapshot/*"]
    launched = [f"{own}:{kind}/*" for kind in ("instance", "volume", "spot-instances-request")]
    used = [f"{own}:{kind}/*" for kind in ("subnet", "security-group", "network-interface")]
    making = {"StringEquals": {"ec2:CreateAction": ["RunInstances", "CreateSecurityGroup", "CreateImage", "CopyImage"]}}
    return [
        _allow("Launch", ["ec2:RunInstances"], launched, at_launch),
        _allow("LaunchWith", ["ec2:RunInstances"], used + pictures),
        # A stopped machine that the workbook did not make has no tag of ours, and `start ID` may be asked to start or move it.
        _allow("Start", ["ec2:StartInstances", "ec2:ModifyInstanceAttribute", "ec2:CreateImage", "ec2:CopyImage"], [instances, *pictures, f"{own}:security-group/*"]),
        _allow("Mark", ["ec2:CreateTags"], instances, at_launch),
        # What has our tag may be changed, used and removed.
        _allow("Own", [
            "ec2:ModifyInstanceMetadataOptions", "ec2:AssociateIamInstanceProfile", "ec2:DisassociateIamInstanceProfile", "ec2:DeleteTags",
            "ec2:StopInstances", "ec2:TerminateInstances", "ssm:SendCommand", "ssm:StartSession",
            "ec2:DeleteSecurityGroup", "ec2:DeleteVolume", "ec2:DeleteSnapshot", "ec2:DeregisterImage", "ec2:ReleaseAddress",
        ], [instances, *(f"{own}:{kind}/*" for kind in ("security-group", "volume", "elastic-ip")), *pictures], ours),
        _allow("TagWhatIsMade", ["ec2:CreateTags"], [*launched, f"{own}:security-group/*", *pictures], making),
        _allow("Group", ["ec2:CreateSecurityGroup"], [f"{own}:security-group/*", f"{own}:vpc/*"]),
        _allow("CommandDocuments", ["ssm:SendCommand", "ssm:StartSession"],
               [f"arn:{part}:ssm:{region}::document/{name}" for name in ("AWS-RunShellScript", "AWS-StartPortForwardingSession")]),
        _allow("EndSession", ["ssm:TerminateSession"], f"arn:{part}:ssm:{region}:{account}:session/*"),
    ]  # fmt: skip


def _roles(part: str, account: str) -> list[Policy]:
    role, profile = f"arn:{part}:iam::{account}:role/{TAG}-*", f"arn:{part}:iam::{account}:instance-profile/{TAG}-*"
    services = {"StringEquals": {"iam:PassedToService": ["ec2.amazonaws.com", "scheduler.amazonaws.com"]}}
    return [
        _allow("Roles", [
            "iam:CreateRole", "iam:GetRole", "iam:TagRole", "iam:ListRoleTags", "iam:UpdateAssumeRolePolicy", "iam:PutRolePolicy", "iam:DeleteRolePolicy", "iam:DeleteRole",
            "iam:CreateInstanceProfile", "iam:GetInstanceProfile", "iam:TagInstanceProfile", "iam:AddRoleToInstanceProfile", "iam:RemoveRoleFromInstanceProfile", "iam:DeleteInstanceProfile",
        ], [role, profile]),
        _allow("PassRoles", ["iam:PassRole"], role, services),
        _allow("FirstSpotMachine", ["iam:CreateServiceLinkedRole"], f"arn:{part}:iam::{account}:role/aws-service-role/spot.amazonaws.com/AWSServiceRoleForEC2Spot"),
    ]  # fmt: skip


def _timers(part: str, account: str, region: str) -> list[Policy]:
    schedule = f"arn:{part}:scheduler:{region}:{account}:schedule/default/{TAG}-*"
    parameter = f"arn:{part}:ssm:{region}:{account}:parameter/{TAG}/*"
    return [
        _allow("TimersAndTokens", [
            "scheduler:CreateSchedule", "scheduler:GetSchedule", "scheduler:UpdateSchedule", "scheduler:DeleteSchedule",
            "ssm:PutParameter", "ssm:AddTagsToResource", "ssm:DeleteParameter",
        ], [schedule, parameter]),
    ]  # fmt: skip


def _store(part: str, bucket: str) -> list[Policy]:
    return [
        _allow("Bucket", [
            "s3:CreateBucket", "s3:DeleteBucket", "s3:ListBucket", "s3:GetBucketTagging", "s3:PutBucketTagging",
            "s3:PutBucketPublicAccessBlock", "s3:PutEncryptionConfiguration", "s3:PutLifecycleConfiguration", "s3:ListBucketMultipartUploads",
        ], f"arn:{part}:s3:::{bucket}"),
        _allow("Objects", ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"], f"arn:{part}:s3:::{bucket}/runs/*"),
    ]  # fmt: skip


def _policy(*statements: Policy) -> Policy:
    return {"Version": VERSION, "Statement": list(statements)}


def _allow(name: str, actions: list[str], resources: str | list[str], condition: Policy | None = None) -> Policy:
    return {"Sid": name, "Effect": "Allow", "Action": actions, "Resource": resources} | ({"Condition": condition} if condition else {})
