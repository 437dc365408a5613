"""`up --dry-run`: what would be made, with the policies of all rights that are needed. Nothing is made in the account."""

from dataclasses import replace

from mistral_lib.aws import images, machines, names, network, policies, regions, session
from mistral_lib.instance import launch_options, launch_steps, records
from mistral_lib.instance.launch_options import UpOptions
from mistral_lib.instance.records import Record
from mistral_lib.on_machine import user_data
from mistral_lib.run import files, paths
from mistral_lib.run.settings import Settings


def dry_run(settings: Settings, options: UpOptions) -> Record:
    """The record that `up` would make, unsaved; prints what else. Errors: as those of `up`."""
    region = regions.chosen(options.region)
    own, account = names.of(settings.run_name), session.account(region)
    record = launch_steps.new_record(
        settings, options, region, launch_options.type_of(settings, options.type), options.spot, options.nodes or 1
    )
    record = replace(
        record,
        volume_gib=launch_options.disk_gib(settings, record.type, options.disk_gib, options.ignore_fit),
        bucket=options.bucket or names.bucket(account, region),
        profile=options.profile_name or own.profile,
        timer_role=options.timer_role or own.timer_role,
    )
    launch_steps.require_quota(record)
    image, zones = options.image or images.newest(region), list(launch_steps.places(record, options.subnet))
    print("\n".join([*_lines(record, account, image, zones), f"  EC2             {_asked(record, image, options)}"]))
    return record


def _lines(record: Record, account: str, image: str, zones: list[str]) -> list[str]:
    own = names.of(record.run)
    kind = f"spot, at most {record.usd_per_hour_of_all:g}" if record.spot else f"on demand, {record.usd_per_hour_of_all:g}"
    machine = record.type if record.nodes == 1 else f"{record.nodes} {record.type} in one placement group"
    rule = "open to its own members alone" if record.nodes > 1 else "without a rule for incoming connections"
    script = user_data.script(launch_steps.place_of(record, 60 * record.max_hours))
    return [
        f"would make for {record.run} in {record.region}, account {account}:",
        f"  bucket          {record.bucket}, objects below {record.prefix}",
        f"  machine         {machine}, {kind} USD per hour, image {image}, in the first zone with capacity of: {', '.join(zones) or 'none'}",
        f"  disk            {record.volume_gib} GiB, gp3, encrypted, deleted with the machine",
        f"  profile         {record.profile}",
        f"  timer's role    {record.timer_role}",
        f"  security group  {own.group}, {rule}",
        f"  its end         after {record.max_hours:.1f} hours; schedule {own.schedule} {launch_steps.GRACE.seconds // 60} minutes later",
        f"  first boot      a script of {len(script.encode()):,} bytes, without a secret",
        f"  cost            at most {record.max_hours * record.usd_per_hour_of_all:.2f} USD for the machine{'s' if record.nodes > 1 else ''}, besides disk and address",
        f"  rights          {_policies(record, account)}",
    ]


def _policies(record: Record, account: str) -> str:
    """Writes the policies of both roles and of the person who runs the commands, for an administrator; says where."""
    own, region = names.of(record.run), record.region
    folder = records.folder() / f"{record.run}-policies"
    machine, timer = policies.machine_policy(own, record.bucket, account, region), policies.timer_policy(own, account, region)
    needed = {
        "machine": {"role": own.role, "instance_profile": own.profile, "trust": policies.machine_trust(region), "policy": machine},
        "timer": {"role": own.timer_role, "trust": policies.timer_trust(account, region), "policy": timer},
        "you": {"policy": policies.administrator_policy(record.bucket, account, region)},
    }
    if record.nodes > 1:
        needed["cluster"] = {"policy": policies.cluster_policy(account, region)}
    for name, policy in needed.items():
        files.write_json(folder / f"{name}.json", policy)
    return f"{paths.short(folder)}/ has the policies: {', '.join(f'{name}.json' for name in needed)}"


def _asked(record: Record, image: str, options: UpOptions) -> str:
    """Whether EC2 would accept the order. It can be asked only if an earlier launch made the group and the profile."""
    groups = network.groups(record.region, record.run)
    places = launch_steps.places(record, options.subnet)
    if not groups or not places:
        return "was not asked: that needs the security group and the profile"
    zone, subnet = next(iter(places.items()))
    order = launch_steps.order(replace(record, group=next(iter(groups))), image)
    machines.rehearse(replace(order, subnet=subnet, zone=zone))
    return "would accept the order; capacity is not known before a launch"
