"""What the workbook asks of an AWS account: one module per kind of thing in it. Needs boto3 (`pip install -e .[aws]`).

session         clients with short timeouts, and whether there are credentials
errors          AWS's errors as one line: what was seen, what was expected, what to do next
waiting         growing pauses between two tries
regions         which region is meant, and which ones were used
names           the name of everything that is made for a run, and its tags
policies        the rights of the machine, of the outside timer and of the person who runs the commands
roles           the role of the machine with its instance profile, and the role of the outside timer
machines        EC2 instances: order, find, launch, start, stop, terminate, change the type, make an image
network         zones that offer a type, subnets, and the security group without a rule
found_machines  a machine that the account had before: what a run changes on it, and how that is undone
images          the newest image with a driver for NVIDIA cards
volumes         volumes, snapshots, images and addresses with the workbook's tag
quotas          how many vCPUs the account may run, how many run now, and why EC2 refuses a launch
prices          spot prices now, on-demand prices, and what storage costs
schedules       the outside timer: a one-time schedule that terminates the machine
buckets         the bucket of the runs: made private and encrypted; objects that are verified
parameters      the hub's token as an encrypted parameter
shell_commands  shell commands on a machine by Systems Manager
"""
