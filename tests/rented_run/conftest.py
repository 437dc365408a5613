"""The stand-in of AWS for every test here that asks for it."""

from tests.support.aws_stand_in import aws

__all__ = ["aws"]
