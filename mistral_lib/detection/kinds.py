"""All rules by the groups and kinds that parameters name: secrets, personal_data, and the kinds that are off by default."""

from mistral_lib.detection import (
    assigned_secrets,
    contact_data,
    credentials,
    identity_numbers,
    network_addresses,
    payment_data,
    people,
    private_keys,
    provider_tokens,
    telephone,
    told_secrets,
)
from mistral_lib.detection.rules import Rule

# Precise shapes first, so that a token in an assignment is counted as a token.
SECRETS = (
    *private_keys.RULES,
    *credentials.RULES,
    *provider_tokens.RULES,
    *told_secrets.HEADERS,
    *assigned_secrets.RULES,
    *told_secrets.SENTENCES,
)
PERSONAL_DATA = (*contact_data.RULES, *payment_data.RULES, *telephone.RULES)
MORE: dict[str, tuple[Rule, ...]] = {**identity_numbers.KINDS, **network_addresses.KINDS, **people.KINDS}
GROUPS: dict[str, tuple[Rule, ...]] = {"secrets": SECRETS, "personal_data": PERSONAL_DATA, **MORE}
