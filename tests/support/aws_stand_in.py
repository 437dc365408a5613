"""A false AWS on the loopback: moto's server behind a layer that records requests, answers what moto lacks, and injects faults.

    with false_aws() as aws:
        aws.fail("ec2", "RunInstances", "InsufficientInstanceCapacity", status=500, times=2)

Other processes reach it too: give them `aws.environment`. What moto lacks, and how it is answered, is listed in `aws_missing`.
The account's clock does not move by itself: `ring` does what the schedules would have done by then, and `shut_down` is what the hypervisor
does when a machine halts.
"""

import io
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.support import aws_missing, aws_requests
from tests.support.aws_missing import Answer
from tests.support.aws_requests import Asked

REGION = "us-east-1"
UNSET = ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE",
         "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_EC2_METADATA_SERVICE_ENDPOINT")  # fmt: skip
QUOTAS = {"L-DB2E81BA": 8.0, "L-3819A6DF": 8.0, "L-1216C47A": 32.0, "L-34B43A08": 32.0, "L-417A185B": 0.0, "L-7212CCBC": 0.0}


@dataclass
class _Fault:
    service: str
    action: str
    apply: Callable[[Asked], Answer | None]  # None: the request is handled as usual
    left: int | None  # times; None: always
    when: Callable[[dict[str, Any]], bool] | None = None
    cut: int | None = None  # bytes after which the connection is closed
    after: bool = False  # moto does what is asked first


@dataclass
class FalseAws:
    """url: of the server. shell: what a command by Systems Manager does, `(machine id, lines) → (exit code, output)`."""

    url: str = ""
    requests: list[Asked] = field(default_factory=list)
    quotas: dict[str, float] = field(default_factory=lambda: dict(QUOTAS))  # vCPUs by code, in every region
    prices: dict[tuple[str, str], float] = field(default_factory=dict)  # on demand, USD per hour by (region, type)
    unreachable: set[str] = field(default_factory=set)  # machines whose agent does not report
    without_image: set[str] = field(default_factory=set)  # regions where AWS publishes no image
    foreign_buckets: set[str] = field(default_factory=set)
    shell: Callable[[str, list[str]], tuple[int, str]] = lambda machine_id, lines: (0, "")
    placements: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)  # placement groups by (region, name)
    launches: dict[tuple[str, str], bytes] = field(default_factory=dict)
    invocations: dict[str, dict[str, Any]] = field(default_factory=dict)
    faults: list[_Fault] = field(default_factory=list)
    lock: Any = field(default_factory=threading.Lock)

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which any process talks to this server."""
        return {
            "AWS_ENDPOINT_URL": self.url, "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent/credentials", "AWS_CONFIG_FILE": "/nonexistent/config", "NO_PROXY": "127.0.0.1",
        }  # fmt: skip

    def asked(self, service: str, action: str = "") -> list[Asked]:
        """The requests so far, oldest first."""
        return [one for one in self.requests if one.service == service and action in ("", one.action)]

    def fail(self, service: str, action: str, code: str, status: int = 400, times: int | None = 1, when: Any = None, message: str = "injected", after: bool = False) -> None:  # fmt: skip
        """Answer with an error. action "*": any. times None: always. when: of the request's parameters. after: AWS did it, and the answer is lost."""
        self._add(_Fault(service, action, lambda asked: aws_missing.error(asked, status, code, message), times, when, after=after))

    def deny(self, service: str, action: str, times: int | None = None) -> None:
        """The right is missing, in the words of the service."""
        code, status = {"ec2": ("UnauthorizedOperation", 403), "s3": ("AccessDenied", 403), "iam": ("AccessDenied", 403), "sts": ("AccessDenied", 403)}.get(service, ("AccessDeniedException", 400))  # fmt: skip
        said = "Access Denied" if service == "s3" else f"User: arn:aws:iam::{aws_missing.ACCOUNT}:user/tester is not authorized to perform: {service.replace('-', '')}:{action} on resource: *"  # fmt: skip
        self.fail(service, action, code, status, times, message=said)

    def delay(self, service: str, action: str, seconds: float, times: int | None = 1, when: Any = None) -> None:
        self._add(_Fault(service, action, lambda asked: time.sleep(seconds), times, when))

    def cut(self, service: str, action: str, after_bytes: int, times: int | None = 1, when: Any = None) -> None:
        """Close the connection: of an upload after so many bytes were read, of a download after so many were sent."""
        self._add(_Fault(service, action, lambda asked: None, times, when, cut=after_bytes))

    def before(self, service: str, action: str, call: Callable[[Asked], Any], times: int | None = 1) -> None:
        """Call a function of the test before the request is carried out."""
        self._add(_Fault(service, action, lambda asked: call(asked) and None, times))

    def recover(self) -> None:
        """No fault from now on."""
        with self.lock:
            self.faults.clear()

    def shut_down(self, machine_id: str, region: str = REGION) -> str:
        """The machine halted by itself: it stops or terminates, as it was launched. The state that follows."""
        backend = aws_missing.backend("ec2", region)
        terminates = aws_missing.machine(region, machine_id).instance_initiated_shutdown_behavior == "terminate"
        (backend.terminate_instances if terminates else backend.stop_instances)([machine_id])
        return aws_missing.machine(region, machine_id).state

    def ring(self, region: str = REGION, now: datetime | None = None) -> list[str]:
        """Carry out the one-time schedules that are due; the machines that they ended."""
        scheduler, ended = aws_missing.backend("scheduler", region), []
        for group in scheduler.schedule_groups.values():
            for name, schedule in list(group.schedules.items()):
                moment = datetime.fromisoformat(schedule.schedule_expression[3:-1]).replace(tzinfo=UTC)
                if moment <= (now or datetime.now(UTC)):
                    ids = json.loads(schedule.target["Input"])["InstanceIds"]
                    backend = aws_missing.backend("ec2", region)
                    (backend.stop_instances if schedule.target["Arn"].endswith("stopInstances") else backend.terminate_instances)(ids)
                    ended += ids
                    group.schedules.pop(name)
        return ended

    def _add(self, fault: _Fault) -> None:
        with self.lock:
            self.faults.append(fault)

    def fault(self, asked: Asked) -> _Fault | None:
        """The first fault that this request meets, counted down."""
        with self.lock:
            for one in self.faults:
                meets = one.service == asked.service and one.action in ("*", asked.action) and one.left != 0
                if meets and (one.when is None or one.when(asked.parameters)):
                    one.left = None if one.left is None else one.left - 1
                    return one
        return None


class _Layer:
    """WSGI in front of moto's."""

    def __init__(self, aws: FalseAws, inner: Any) -> None:
        self.aws, self.inner = aws, inner

    def __call__(self, environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        head = aws_requests.read(environ, b"")
        of_s3 = head.service == "s3"  # its parameters are in the path, and its body may have to be cut
        fault = self.aws.fault(head) if of_s3 else None
        if fault and fault.cut is not None and head.method != "GET":
            environ["wsgi.input"].read(min(fault.cut, int(environ.get("CONTENT_LENGTH") or 0)))
            self.aws.requests.append(head)
            return _hang_up(environ, start)
        body = _body(environ)
        asked = aws_requests.read(environ, body)
        self.aws.requests.append(asked)
        fault = fault if of_s3 else self.aws.fault(asked)
        if fault and fault.cut is not None and not of_s3:
            return _hang_up(environ, start)
        injected = fault.apply(asked) if fault else None
        answer = self._answer(asked, environ, body) if injected is None or (fault and fault.after) else injected
        status, content, headers = injected or answer
        if fault and fault.cut is not None:
            return _cut_answer(environ, start, status, content, headers, fault.cut)
        start(f"{status} -", list(headers.items()))
        return [content]

    def _answer(self, asked: Asked, environ: dict[str, Any], body: bytes) -> Answer:
        known = aws_missing.answer(self.aws, asked)
        if known:
            return known
        environ |= {"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}
        if environ.pop("HTTP_TRANSFER_ENCODING", None):
            environ.pop("wsgi.input_terminated", None)
        got: dict[str, Any] = {}
        chunks = self.inner(environ, lambda status, headers, exc_info=None: got.update(status=int(status.split()[0]), headers=headers))
        answer = b"".join(chunks)
        aws_missing.note_launch(self.aws, asked, got["status"], answer)
        return got["status"], answer, dict(got["headers"])


def _body(environ: dict[str, Any]) -> bytes:
    source, length = environ["wsgi.input"], environ.get("CONTENT_LENGTH")
    if length:
        return source.read(int(length))
    return source.read() if environ.get("wsgi.input_terminated") else b""


def _hang_up(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    start("500 -", [("Content-Length", "0")])
    return [b""]


def _cut_answer(environ: dict[str, Any], start: Any, status: int, answer: bytes, headers: dict[str, str], after: int) -> Iterator[bytes]:
    start(f"{status} -", list((headers | {"Content-Length": str(len(answer))}).items()))
    yield answer[:after]
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)


@contextmanager
def false_aws() -> Iterator[FalseAws]:
    """A server with an empty account; one at a time in a process, since moto's state is the process's."""
    from moto.moto_api._internal import moto_api_backend
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto_api_backend.reset()
    aws = FalseAws()
    layer = _Layer(aws, DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, layer, threaded=True, request_handler=MotoRequestHandler)
    server.daemon_threads = True
    aws.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield aws
    finally:
        server.shutdown()
        server.server_close()
        moto_api_backend.reset()


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[FalseAws]:
    """The false AWS, which every client of this test and of its processes talks to; pauses between two tries are short."""
    from mistral_lib.aws import session, waiting

    with false_aws() as running:
        for name in UNSET:
            monkeypatch.delenv(name, raising=False)
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(waiting, "LONGEST_SECONDS", 0.05)
        session.forget()
        yield running
        session.forget()
