"""What a request to AWS asks: its service, region, action and parameters, read from the request itself as AWS does.

Source: Signature Version 4, "credential scope"; botocore's service models (the paths of S3 and EventBridge Scheduler).
"""

import json
import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

MODELS = {"servicequotas": "service-quotas"}  # signing name → botocore's name, where they differ
BY_PATH = ("s3", "scheduler")
FORMS = ("ec2", "iam", "sts")


@dataclass(frozen=True)
class Asked:
    """One request. body: as it was sent; parameters: of the form or the JSON; for S3 those of the path and the query."""

    service: str  # ec2, iam, sts, ssm, s3, scheduler, service-quotas, pricing
    region: str
    action: str
    method: str
    path: str
    parameters: dict[str, Any]
    headers: dict[str, str]
    body: bytes = field(repr=False)

    @property
    def text(self) -> str:
        return self.body.decode(errors="replace")


def read(environ: dict[str, Any], body: bytes) -> Asked:
    scope = re.search(r"Credential=[^/]+/\d+/([^/]+)/([^/]+)/", environ.get("HTTP_AUTHORIZATION", ""))
    region, service = (scope[1], MODELS.get(scope[2], scope[2])) if scope else ("", "")
    headers = {key[5:].lower().replace("_", "-"): value for key, value in environ.items() if key.startswith("HTTP_")}
    method, path, query = environ["REQUEST_METHOD"], environ["PATH_INFO"], dict(parse_qsl(environ["QUERY_STRING"], keep_blank_values=True))
    action, parameters = "", dict(query)
    if service in BY_PATH:
        action, found = _by_path(service, method, path, query, headers)
        parameters |= found | (_json(body) if service == "scheduler" else {})
    elif target := environ.get("HTTP_X_AMZ_TARGET"):
        action, parameters = target.rsplit(".", 1)[1], _json(body)
    elif service in FORMS:
        parameters |= dict(parse_qsl(body.decode(errors="replace"), keep_blank_values=True))
        action = parameters.get("Action", "")
    return Asked(service, region, action, method, path, parameters, headers, body)


def _by_path(service: str, method: str, path: str, query: dict[str, str], headers: dict[str, str]) -> tuple[str, dict[str, str]]:
    """The operation with the most parts of its query in the request."""
    best, action, parameters = -1, "", {}
    for name, needed_method, pattern, needed_query, needed_headers in _operations(service):
        found = pattern.fullmatch(path.rstrip("/") or "/")
        fits = needed_method == method and found and needed_query <= set(query) and needed_headers <= set(headers)
        if fits and len(needed_query) + len(needed_headers) > best:
            best, action, parameters = len(needed_query) + len(needed_headers), name, found.groupdict()
    return action, parameters


@lru_cache(maxsize=4)
def _operations(service: str) -> list[tuple[str, str, re.Pattern[str], set[str], set[str]]]:
    import botocore.session

    model = botocore.session.get_session().get_service_model(service)
    found = []
    for name in model.operation_names:
        operation = model.operation_model(name)
        if operation.deprecated:  # it has the path of its successor
            continue
        path, _, query = operation.http["requestUri"].partition("?")
        shape = operation.input_shape
        required = {shape.members[member].serialization["name"]: shape.members[member].serialization.get("location") for member in shape.required_members if "name" in shape.members[member].serialization} if shape else {}  # fmt: skip
        queries = {part.split("=")[0] for part in query.split("&") if part} | {
            name for name, place in required.items() if place == "querystring"
        }
        headers = {name.lower() for name, place in required.items() if place == "header"}
        if service == "s3" and not path.startswith("/{Bucket}"):
            path = ("/{Bucket}" + path).rstrip("/") if shape and "Bucket" in shape.members else path
        found.append((name, operation.http["method"], _pattern(path), queries, headers))
    return found


def _pattern(path: str) -> re.Pattern[str]:
    parts = re.split(r"(\{\w+\+?\})", path)
    return re.compile("".join(_group(part) if part.startswith("{") else re.escape(part) for part in parts))


def _group(part: str) -> str:
    name = part.strip("{}")
    return f"(?P<{name[:-1]}>.+)" if name.endswith("+") else f"(?P<{name}>[^/]+)"


def _json(body: bytes) -> dict[str, Any]:
    return json.loads(body) if body.strip() else {}


def error_body(asked: Asked, code: str, message: str) -> tuple[bytes, dict[str, str]]:
    """An error as the service writes it: body and headers."""
    inner = f"<Code>{code}</Code><Message>{message}</Message>"
    xml = {
        "ec2": f"<Response><Errors><Error>{inner}</Error></Errors><RequestID>injected</RequestID></Response>",
        "s3": f"<Error>{inner}</Error>",
    }
    if asked.service in ("iam", "sts"):
        return f"<ErrorResponse><Error><Type>Sender</Type>{inner}</Error><RequestId>injected</RequestId></ErrorResponse>".encode(), {"Content-Type": "text/xml"}  # fmt: skip
    if asked.service in xml:
        return b"" if asked.method == "HEAD" else xml[asked.service].encode(), {"Content-Type": "text/xml"}
    return json.dumps({"__type": code, "message": message, "Message": message}).encode(), {"Content-Type": "application/x-amz-json-1.1", "x-amzn-ErrorType": code}  # fmt: skip
