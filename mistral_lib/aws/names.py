"""The name of everything that is made for a run, and its tags.

Source: IAM and EventBridge Scheduler accept names of up to 64 characters; EC2, "Tag your resources".
"""

import hashlib
from dataclasses import dataclass

TAG = "mistral-workbook"
SHARED = "shared"  # the tag's value on the bucket, which serves several runs
LONGEST = 64  # characters of a role's or a schedule's name
TIMER = "-timer"
NODES, WORKER = f"{TAG}-nodes", f"{TAG}-worker"  # tags of the machines of a cluster: how many belong together; one that was added later


@dataclass(frozen=True, slots=True)
class Names:
    run: str
    tag: str  # key of the tag; its value is the run
    name: str  # of the machine, and of its volume
    role: str
    profile: str
    timer_role: str
    schedule: str
    group: str  # security group
    parameter: str  # the hub's token
    prefix: str  # in the bucket; ends with a slash


def of(run: str) -> Names:
    """All names of a run. Long ones are shortened, with a hash of the run so that two runs never share a name."""
    short = _short(run)
    return Names(
        run=run, tag=TAG, name=f"{TAG}-{run}", role=short, profile=short, timer_role=short + TIMER, schedule=short, group=f"{TAG}-{run}",
        parameter=f"/{TAG}/{run}/hf-token", prefix=f"runs/{run}/",
    )  # fmt: skip


def tags(run: str, nodes: int = 1, worker: bool = False) -> list[dict[str, str]]:
    """The tags of everything that belongs to the run. nodes: machines of its cluster; worker: one that is added to a cluster."""
    cluster = [{"Key": NODES, "Value": str(nodes)}] if nodes > 1 else []
    added = [{"Key": WORKER, "Value": "added"}] if worker else []
    return [{"Key": TAG, "Value": run}, {"Key": "Name", "Value": of(run).name}, *cluster, *added]


def nodes_of(tags: list[dict[str, str]] | None) -> int:
    """How many machines the cluster has that this one was launched for; 1 for a machine alone."""
    return next((int(tag["Value"]) for tag in tags or [] if tag["Key"] == NODES and tag["Value"].isdigit()), 1)


def is_worker(tags: list[dict[str, str]] | None, launch_index: int) -> bool:
    """Whether a machine of a cluster is a worker: one that was added, or not the first one of the request that launched the cluster."""
    return any(tag["Key"] == WORKER for tag in tags or []) or (nodes_of(tags) > 1 and launch_index > 0)


def filters(run: str | None) -> list[dict[str, object]]:
    """EC2's filters for what belongs to the run, or with None to any run."""
    return [{"Name": f"tag:{TAG}", "Values": [run]}] if run else [{"Name": "tag-key", "Values": [TAG]}]


def run_of(tags: list[dict[str, str]] | None) -> str:
    """The run that a thing belongs to by its tags; empty if it has none of ours."""
    return next((tag["Value"] for tag in tags or [] if tag["Key"] == TAG), "")


def bucket(account: str, region: str) -> str:
    return f"{TAG}-{account}-{region}"


def _short(run: str) -> str:
    name = f"{TAG}-{run}"
    if len(name) + len(TIMER) <= LONGEST:
        return name
    digest = hashlib.sha256(run.encode()).hexdigest()[:10]
    return f"{name[: LONGEST - len(TIMER) - len(digest) - 1]}-{digest}"
