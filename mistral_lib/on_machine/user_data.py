"""The script that a new machine runs at its first boot, and the archive that it loads from the bucket.

The script sets the first of the machine's two time limits before anything else, makes a small environment with boto3, loads the
archive with this package and starts `install`. It is safe to run again: a restarted machine gets it by SSM. It holds no secret.
"""

import gzip
import io
import json
import shlex
import tarfile
from dataclasses import asdict, dataclass
from pathlib import Path

UV, BOTO3 = "uv==0.13.9", "boto3==1.43.117"  # of the small environment that fetches the rest
BASE = "/opt/mistral-workbook"  # MISTRAL_MACHINE_FOLDER replaces it
LARGEST = 16_000  # bytes; EC2 takes 16,384
ARCHIVE = "machine.tar.gz"  # its key below the run's prefix


class UserDataError(ValueError):
    """The user data cannot be made from these values."""


@dataclass(frozen=True)
class Place:
    """Where a machine finds its work, and how long it may live."""

    run: str
    bucket: str
    prefix: str  # runs/<run>/
    region: str
    archive_sha256: str  # of machine.tar.gz
    minutes: int  # from the start of the script until the machine shuts down, whatever it does
    idle_minutes: float = 30.0  # without a job, after which the machine ends
    adopted: bool = False  # the machine was there before the run: none of its later starts may begin anything here
    nodes: int = 1  # machines of the cluster; the first one of its launch is the head
    worker: bool = False  # this one was added to a cluster


def script(place: Place) -> str:
    """The user data, in bash. Errors: UserDataError if the time is not positive, or EC2 would refuse the size."""
    if place.minutes < 1:
        raise UserDataError(f"minutes is {place.minutes}, expected at least 1: raise --max-hours or --max-usd")
    values = {"MINUTES": str(int(place.minutes)), "BASE": shlex.quote(BASE), "UV": UV, "BOTO3": BOTO3, "LOADER": LOADER}
    text = SCRIPT
    for name, value in (values | {"PLACE": _quoted_json(place)}).items():
        text = text.replace(f"@{name}@", value)
    if (size := len(text.encode())) >= LARGEST:
        raise UserDataError(f"the user data has {size:,} bytes, expected less than {LARGEST:,}: shorten run_name or the bucket's name")
    return text


def _quoted_json(place: Place) -> str:
    return shlex.quote(json.dumps(asdict(place)))


def archive() -> bytes:
    """machine.tar.gz: mistral_lib/__init__.py and this package, without the rest of the library; the same bytes for the same files."""
    library = Path(__file__).parents[1]
    paths = [library / "__init__.py", *sorted(Path(__file__).parent.rglob("*.py"))]
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        for path in paths:
            content = path.read_bytes()
            entry = tarfile.TarInfo(str(path.relative_to(library.parent)))
            entry.size, entry.mode = len(content), 0o644
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


# Two commands: `load` fetches and unpacks the archive, `report` uploads the log of a set-up that failed.
LOADER = """\
import hashlib, io, json, os, socket, sys, tarfile
import boto3
from botocore.config import Config

base, what = sys.argv[1:]
with open(os.path.join(base, "place.json")) as file:
    place = json.load(file)
prefix = place["prefix"].rstrip("/") + "/"
settings = Config(connect_timeout=10, read_timeout=60, retries={"max_attempts": 5, "mode": "standard"})
s3 = boto3.client("s3", region_name=place["region"], config=settings)
if what == "report":
    name = "setup" if place["nodes"] == 1 else f"setup-{socket.gethostname()}"  # machines of a cluster keep their reports apart
    with open(os.path.join(base, "setup.txt"), "rb") as file:
        s3.put_object(Bucket=place["bucket"], Key=f"{prefix}machine/{name}.txt", Body=file.read()[-200_000:])
    sys.exit()
content = s3.get_object(Bucket=place["bucket"], Key=prefix + "machine.tar.gz")["Body"].read()
found = hashlib.sha256(content).hexdigest()
if found != place["archive_sha256"]:
    sys.exit(f"machine.tar.gz: sha256 is {found}, expected {place['archive_sha256']}: launch again, which uploads it")
with tarfile.open(fileobj=io.BytesIO(content)) as tar:
    tar.extractall(os.path.join(base, "agent"), filter="data")
"""

SCRIPT = """\
#!/bin/bash
# Mistral workbook: sets a machine up. No secret stands here. Written by mistral_lib/on_machine/user_data.py.
set -euo pipefail
trap "shutdown -P now 'mistral-workbook: the set-up failed'" EXIT  # until finish() below, which reports as well

# The first of two time limits on the machine: it ends then, whatever else fails here.
shutdown -P +@MINUTES@ 'mistral-workbook: the time limit of this machine'

export DEBIAN_FRONTEND=noninteractive
base=${MISTRAL_MACHINE_FOLDER:-@BASE@}
mkdir -p "$base"
date +%s > "$base/started"
exec > >(tee -a "$base/setup.txt") 2>&1
echo "set-up starts: $(date --utc +%FT%TZ)"

# Any error ends the machine: it would cost money without doing anything.
finish() {
  local code=$?
  [ "$code" -eq 0 ] && return
  echo "set-up failed with exit code $code; the machine shuts down"
  if [ -x "$base/boot/bin/python" ] && [ -f "$base/load.py" ]; then
    timeout 120 "$base/boot/bin/python" "$base/load.py" "$base" report || true
  fi
  shutdown -P now 'mistral-workbook: the set-up failed'
}
trap finish EXIT

# A mirror or an index may be away for a moment: five attempts, with growing pauses.
retried() {
  local attempt
  for attempt in 1 2 3 4 5; do
    "$@" && return 0
    echo "attempt $attempt failed: $*"
    sleep $((attempt * ${MISTRAL_PAUSE_SECONDS:-5}))
  done
  return 1
}

make_environment() {
  [ -x "$base/boot/bin/pip" ] && return 0
  rm -rf "${base:?}/boot"
  python3 -m venv "$base/boot"
}

printf '%s\\n' @PLACE@ > "$base/place.json"
cat > "$base/load.py" <<'PROGRAM'
@LOADER@PROGRAM

if ! python3 -c 'import ensurepip'; then
  retried apt-get -o DPkg::Lock::Timeout=300 update
  retried apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends python3-venv
fi
retried make_environment
retried "$base/boot/bin/pip" install --quiet --disable-pip-version-check @UV@ @BOTO3@
rm -rf "${base:?}/agent"
retried "$base/boot/bin/python" "$base/load.py" "$base" load

cd "$base/agent"
"$base/boot/bin/python" -m mistral_lib.on_machine.install
echo "set-up is complete: $(date --utc +%FT%TZ)"
"""
