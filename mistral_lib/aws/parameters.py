"""The hub's token as an encrypted parameter of Systems Manager. Its value is in no message.

Source: boto3, SSM.Client; Systems Manager, "SecureString parameters".
"""

from mistral_lib.aws import errors, names, session


def put_token(run: str, region: str, token: str) -> str:
    """Store the token, or replace it; the parameter's name. Errors: AwsError."""
    name, client = names.of(run).parameter, session.client("ssm", region)
    with errors.explained(f"storing the hub's token as {name}"):
        client.put_parameter(Name=name, Value=token, Type="SecureString", Overwrite=True, Description=f"mistral-workbook, run {run}")
        client.add_tags_to_resource(ResourceType="Parameter", ResourceId=name, Tags=names.tags(run))
    return name


def existing(region: str, run: str | None = None) -> dict[str, str]:
    """`{parameter name: run}` of the workbook's parameters in the region. Errors: AwsError."""
    asked = [{"Key": "Name", "Option": "BeginsWith", "Values": [f"/{names.TAG}/"]}]
    with errors.explained(f"listing the parameters in {region}"):
        pages = session.client("ssm", region).get_paginator("describe_parameters").paginate(ParameterFilters=asked)
        found = {one["Name"]: one["Name"].split("/")[2] for page in pages for one in page["Parameters"]}
    return {name: owner for name, owner in found.items() if run in (None, owner)}


def delete(run: str, region: str) -> None:
    """Delete the run's parameter; one that is gone is accepted. Errors: AwsError."""
    client = session.client("ssm", region)
    with errors.explained(f"deleting the parameter {names.of(run).parameter}"):
        try:
            client.delete_parameter(Name=names.of(run).parameter)
        except client.exceptions.ParameterNotFound:
            return
