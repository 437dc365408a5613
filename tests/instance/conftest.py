"""The false AWS for every test of this folder."""

from tests.support.aws_stand_in import aws

__all__ = ["aws"]
