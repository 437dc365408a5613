"""The metadata service of the instance, version 2: a token first, then facts about this machine.

Source: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/configuring-instance-metadata-service.html
"""

import json
import os
import urllib.error
import urllib.request
from typing import Any

ENDPOINT = "http://169.254.169.254"  # AWS_EC2_METADATA_SERVICE_ENDPOINT replaces it
TOKEN_SECONDS = 21_600


class MetadataError(RuntimeError):
    """The metadata service did not answer, or not as expected."""


class Metadata:
    """Reads facts; fetches a new token if the old one is refused."""

    def __init__(self, endpoint: str | None = None, timeout: float = 2.0):
        self.endpoint = (endpoint or os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or ENDPOINT).rstrip("/")
        self.timeout = timeout
        self._token: str | None = None
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open  # link-local: never by a proxy

    def get(self, path: str) -> str | None:
        """The text at latest/meta-data/<path>; None if there is none. Errors: MetadataError."""
        for _ in range(2):
            self._token = self._token or self._new_token()
            request = urllib.request.Request(f"{self.endpoint}/latest/meta-data/{path}", headers={"X-aws-ec2-metadata-token": self._token})
            status, text = self._answer(request)
            if status != 401:
                break
            self._token = None
        if status == 404:
            return None
        if status != 200:
            raise MetadataError(f"metadata service: {path} answered with status {status}, expected 200 or 404")
        return text

    def spot_notice(self) -> dict[str, Any] | None:
        """The notice that this spot machine is taken away: `action` and `time`; None if there is none. Errors: MetadataError."""
        return _json(self.get("spot/instance-action"))

    def rebalance(self) -> dict[str, Any] | None:
        """The recommendation to move to another machine: `noticeTime`; None if there is none. Errors: MetadataError."""
        return _json(self.get("events/recommendations/rebalance"))

    def instance_id(self) -> str | None:
        return self.get("instance-id")

    def _new_token(self) -> str:
        headers = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_SECONDS)}
        status, text = self._answer(urllib.request.Request(f"{self.endpoint}/latest/api/token", method="PUT", headers=headers))
        if status != 200:
            raise MetadataError(f"metadata service: no token, status {status}; is IMDSv2 enabled for this machine?")
        return text

    def _answer(self, request: urllib.request.Request) -> tuple[int, str]:
        try:
            with self._open(request, timeout=self.timeout) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, ""
        except (OSError, ValueError) as error:
            raise MetadataError(f"metadata service at {self.endpoint} does not answer: {error}") from None


def _json(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError):
        raise MetadataError(f"metadata service: {text[:100]!r} is no JSON object") from None
