"""The systemd units of the machine, as texts: the agent, the run, the watch for spot notices, and the deadline.

The agent may fail or be killed: systemd starts it again, and the deadline's timer ends the machine without it.
"""

from datetime import UTC, datetime

from mistral_lib.on_machine.folders import USER, Folders

AGENT, RUN, SPOT = "mistral-agent.service", "mistral-run.service", "mistral-spot.service"
DEADLINE, DEADLINE_TIMER = "mistral-deadline.service", "mistral-deadline.timer"
ENABLED = (DEADLINE_TIMER, SPOT, AGENT)  # started at each start of a machine of the workbook's own; the agent starts the run
STOP_SECONDS = 110  # for a checkpoint, after SIGTERM; a spot notice leaves 120


def texts(folders: Folders, ends_at: datetime) -> dict[str, str]:
    """All units by their file names. ends_at: when the deadline's timer shuts the machine down."""
    return {
        AGENT: _program(folders, "the agent", "agent"),
        SPOT: _program(folders, "the watch for spot notices", "spot"),
        RUN: _run(folders),
        DEADLINE: "[Unit]\nDescription=Mistral workbook: the end of this machine\n\n[Service]\nType=oneshot\nExecStart=shutdown -P now\n",
        DEADLINE_TIMER: _timer(ends_at),
    }


def _program(folders: Folders, what: str, module: str) -> str:
    """A module of this package as a service of root, started again whenever it fails."""
    return f"""\
[Unit]
Description=Mistral workbook: {what}
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Environment=PYTHONPATH={folders.agent} PYTHONUNBUFFERED=1
Environment=MISTRAL_MACHINE_FOLDER={folders.base} MISTRAL_MACHINE_RUNTIME={folders.runtime} MISTRAL_MACHINE_UNITS={folders.units}
ExecStart={folders.boot_python} -m mistral_lib.on_machine.{module}
StandardOutput=append:{folders.base}/{module}.log
StandardError=append:{folders.base}/{module}.log
Restart=on-failure
RestartSec=5

[Install]
WantedBy=multi-user.target
"""


def _run(folders: Folders) -> str:
    """The run, under a user that may write below its home alone. Its unit writes down how it ended, even if the agent is not there."""
    record = f'printf "%%s %%s" "$$EXIT_CODE" "$$EXIT_STATUS" > {folders.run_end}'
    return f"""\
[Unit]
Description=Mistral workbook: the run

[Service]
Type=exec
User={USER}
WorkingDirectory={folders.home}
Environment=MISTRAL_WORKBOOK_HOME={folders.home} PYTHONUNBUFFERED=1
EnvironmentFile=-{folders.run_environment}
ExecStart={folders.python} -m mistral_lib run {folders.params} $RUN_OPTIONS
ExecStopPost=+/bin/sh -c '{record}'
StandardOutput=append:{folders.run_log}
StandardError=append:{folders.run_log}
KillMode=control-group
KillSignal=SIGTERM
TimeoutStopSec={STOP_SECONDS}
Restart=no
NoNewPrivileges=true
ProtectSystem=full
ProtectHome=true
PrivateTmp=true
"""


def _timer(ends_at: datetime) -> str:
    moment = ends_at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return f"""\
[Unit]
Description=Mistral workbook: when this machine ends

[Timer]
OnCalendar={moment}
AccuracySec=1s
Unit={DEADLINE}

[Install]
WantedBy=timers.target
"""
