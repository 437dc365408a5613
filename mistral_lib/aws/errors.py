"""AWS's errors as one line: what was seen, what was expected, what to do next.

Source: botocore.exceptions; EC2, "Error codes for the Amazon EC2 API"; S3, "Error responses"; IAM, "Troubleshoot access denied error messages".
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from mistral_lib.aws import session

DENIED = ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthorizationError", "403")
EXPIRED = ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired", "UnauthorizedSSOTokenError", "SSOTokenLoadError", "TokenRetrievalError", "CredentialRetrievalError")  # fmt: skip
SKEWED = ("RequestTimeTooSkewed", "SignatureDoesNotMatch", "InvalidSignatureException")
INVALID = ("InvalidClientTokenId", "InvalidAccessKeyId", "UnrecognizedClientException", "AuthFailure", "NoCredentialsError", "PartialCredentialsError")  # fmt: skip
THROTTLED = ("Throttling", "ThrottlingException", "RequestLimitExceeded", "SlowDown", "TooManyRequestsException", "RequestThrottled", "EC2ThrottledException", "BandwidthLimitExceeded")  # fmt: skip
UNREACHED = ("EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ConnectionClosedError", "ProxyConnectionError", "SSLError", "HTTPClientError", "ConnectionError", "IncompleteReadError", "ResponseStreamingError", "ResponseParserError")  # fmt: skip
BUSY = ("InternalError", "InternalFailure", "InternalServerError", "InternalServerException", "ServiceUnavailable", "ServiceUnavailableException", "Unavailable", "OperationAborted", "500", "502", "503", "504")  # fmt: skip
NOT_THERE = (
    "404",
    "InvalidPlacementGroup.Unknown",
    "NoSuchBucket",
    "NoSuchKey",
    "NotFound",
    "NoSuchEntity",
    "ResourceNotFoundException",
    "ParameterNotFound",
    "NoSuchUpload",
)
TEMPORARY = (*THROTTLED, *UNREACHED, *BUSY)

# S3 names the right otherwise than the operation.
S3_RIGHTS = {"HeadBucket": "ListBucket", "ListObjectsV2": "ListBucket", "HeadObject": "GetObject", "CreateMultipartUpload": "PutObject",
             "UploadPart": "PutObject", "CompleteMultipartUpload": "PutObject", "DeleteObjects": "DeleteObject"}  # fmt: skip
MESSAGE_LENGTH = 300

ADVICE = {
    EXPIRED: "the sign-in has expired: sign in again (`aws sso login`, or new keys) and run the command again",
    SKEWED: "the signature was not accepted: set this computer's clock, and check the secret key",
    INVALID: "valid credentials were expected: check AWS_PROFILE or the keys, this computer's clock, and that the region is enabled in the account",
    THROTTLED: "AWS limits how often one may ask: wait a minute and run the command again; it resumes",
    UNREACHED: "an answer was expected: check the network, a proxy, and the region's name, and run the command again; it resumes",
    BUSY: "AWS has a fault at the moment: run the command again in some minutes; it resumes",
    ("OptInRequired", "PendingVerification", "Blocked"): "the account is not ready for this service: finish its registration in the AWS console, and check the e-mails from AWS",
    ("IncorrectInstanceState", "IncorrectState", "DependencyViolation"): "it is in use, or still changes its state: wait a minute and run the command again; it resumes",
    ("LimitExceeded", "LimitExceededException", "TooManyBuckets", "ServiceQuotaExceededException", "ParameterLimitExceeded"): "the account may have no more of these: remove some, or ask for more in Service Quotas",
    ("AuthFailure.ServiceLinkedRoleCreationNotPermitted",): "the account's first spot machine needs the right iam:CreateServiceLinkedRole: ask the administrator of the account for it, or launch without --spot",
}  # fmt: skip


class AwsError(RuntimeError):
    """AWS refused or did not answer. code: AWS's own word for it, or the name of botocore's exception."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code

    @property
    def temporary(self) -> bool:
        """Whether the same request may succeed later without a change: throttled, not reached, out of order."""
        return self.code in TEMPORARY

    @property
    def denied(self) -> bool:
        return self.code in DENIED

    @property
    def not_there(self) -> bool:
        return is_not_there(self.code)


def code(error: BaseException) -> str:
    """AWS's word for the error, such as `AccessDenied`; the class name if the error did not come from AWS."""
    response = getattr(error, "response", None)
    if isinstance(response, dict) and "Error" in response:
        return str(response["Error"].get("Code", ""))
    return getattr(error, "code", "") or type(error).__name__


def is_not_there(code: str) -> bool:
    return code in NOT_THERE or code.endswith((".NotFound", ".Malformed", ".Unavailable"))


@contextmanager
def explained(what: str) -> Iterator[None]:
    """An error of botocore or boto3 becomes an AwsError that begins with `what`, for example "making the bucket x"."""
    try:
        yield
    except Exception as error:
        cause = _of_aws(error)
        if cause is None:
            raise
        if code(cause) in EXPIRED:
            session.forget()
        raise AwsError(f"{what}: {_seen(cause)}; {advice(cause)}", code(cause)) from error


def advice(error: BaseException) -> str:
    """What was expected and what to do next."""
    found = code(error)
    if found in DENIED:
        return f"the right {_right(error)} is needed: ask the administrator of the account for it (docs/instance.md lists all rights)"
    for codes, text in ADVICE.items():
        if found in codes:
            return text
    if is_not_there(found):
        return "it was expected to exist: `python -m mistral_lib instance list` shows what does"
    return "AWS does not accept this request as it is: look the code up in the service's documentation"


def _seen(error: BaseException) -> str:
    response = getattr(error, "response", None)
    message = response["Error"].get("Message", "") if isinstance(response, dict) and "Error" in response else str(error)
    text = " ".join(message.split("Encoded authorization failure message")[0].split())
    cut = text if len(text) <= MESSAGE_LENGTH else f"{text[:MESSAGE_LENGTH]}…"
    return f"AWS said {code(error)}{f' ({cut})' if cut else ''}"


def _right(error: BaseException) -> str:
    """The IAM action that is missing: from the message, or else from the operation."""
    named = re.search(r"not authorized to perform:? ([a-z0-9-]+:\w+)", str(error))
    if named:
        return named[1]
    operation = getattr(error, "operation_name", "")
    if code(error) == "UnauthorizedOperation":
        return f"ec2:{operation}"
    return f"s3:{S3_RIGHTS.get(operation, operation)}" if operation else "to do this"


def _of_aws(error: BaseException) -> BaseException | None:
    """The error of botocore itself, also inside one of boto3's transfers; None for any other error."""
    try:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError  # a proxy's page instead of AWS's answer
    except ImportError:
        return None
    if isinstance(error, (BotoCoreError, ClientError, ResponseParserError)):
        return error
    if isinstance(error, Boto3Error):
        inner = error.__cause__ or error.__context__
        return inner if isinstance(inner, (BotoCoreError, ClientError)) else error
    return None
