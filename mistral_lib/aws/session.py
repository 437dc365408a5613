"""Clients of AWS's services. Every request ends within seconds, the search for credentials on an instance's metadata address included.

Source: boto3, "Credentials" and "Configuration"; botocore.config.Config.
"""

import os
from functools import lru_cache
from typing import Any

CONNECT_SECONDS, READ_SECONDS = 4, 20
ATTEMPTS = 3
METADATA_SECONDS = 1
PACKAGE = "the package boto3 is not installed: pip install boto3"
CREDENTIALS = "no AWS credentials: set a profile (AWS_PROFILE) or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"


class AccessError(RuntimeError):
    """The account cannot be looked into from here: boto3 or credentials are missing."""


def client(service: str, region: str | None, read_seconds: float = READ_SECONDS, attempts: int = ATTEMPTS) -> Any:
    """A boto3 client of `service`. read_seconds: how long an answer may take. Errors: AccessError without boto3 or credentials.

    The same client is returned again while the AWS_* variables are the same; it may be used by several threads.
    """
    return _made(service, region, read_seconds, attempts, _surroundings())


def forget() -> None:
    """The next client reads the credentials again, for example after a new sign-in."""
    _made.cache_clear()
    _account.cache_clear()


def has_credentials() -> bool:
    """Whether boto3 is installed and finds credentials; AWS is not asked if they are valid."""
    try:
        return _found(opened(None))
    except AccessError:
        return False


def account(region: str) -> str:
    """The number of the account that the credentials belong to. Errors: AccessError, AwsError."""
    return _account(region, _surroundings())


@lru_cache(maxsize=16)
def _account(region: str, surroundings: tuple[tuple[str, str], ...]) -> str:
    from mistral_lib.aws import errors

    with errors.explained("asking which AWS account this is"):
        return client("sts", region).get_caller_identity()["Account"]


@lru_cache(maxsize=256)
def _made(service: str, region: str | None, read_seconds: float, attempts: int, surroundings: tuple[tuple[str, str], ...]) -> Any:
    session = opened(region)
    from botocore.config import Config

    if not _found(session):
        raise AccessError(CREDENTIALS)
    retries = {"total_max_attempts": attempts, "mode": "standard"}
    return session.client(service, config=Config(connect_timeout=CONNECT_SECONDS, read_timeout=read_seconds, retries=retries))


def opened(region: str | None) -> Any:
    """A boto3 session that gives up on the metadata address within a second. Errors: AccessError without boto3, or if AWS_PROFILE names no profile."""
    try:
        import boto3
        import botocore.session
        from botocore.exceptions import ProfileNotFound
    except ImportError:
        raise AccessError(PACKAGE) from None
    plain = botocore.session.Session()
    plain.set_config_variable("metadata_service_timeout", METADATA_SECONDS)
    plain.set_config_variable("metadata_service_num_attempts", 1)
    plain.register_component("data_loader", _descriptions(plain.get_config_variable("data_path")))
    try:
        return boto3.Session(botocore_session=plain, region_name=region)
    except ProfileNotFound as error:
        raise AccessError(f"{error}: correct AWS_PROFILE, or make the profile with `aws configure`") from None


@lru_cache(maxsize=1)
def _descriptions(place: str | None) -> Any:
    """botocore's descriptions of the services, which every session would otherwise read again: a look into all regions takes hundreds."""
    from botocore.loaders import create_loader

    return create_loader(place)


def _found(session: Any) -> bool:
    """Whether there are credentials. Errors: AccessError if they are half there, or their file cannot be read."""
    from botocore.exceptions import BotoCoreError

    try:
        return session.get_credentials() is not None
    except BotoCoreError as error:
        raise AccessError(f"the AWS credentials cannot be used ({error}): correct them, or sign in again (`aws sso login`)") from None


def _surroundings() -> tuple[tuple[str, str], ...]:
    """The variables that decide which account and which address a client talks to."""
    return tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))
