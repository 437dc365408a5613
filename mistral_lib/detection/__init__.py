"""What secrets and personal data look like: rules that find them in a text. Knows texts only.

rules              a rule: a kind, strings to look for first, a precise pattern, a check of the value
private_keys       blocks of private keys: PEM, PGP, OpenSSH, PuTTY, JSON web keys
provider_tokens    tokens whose shape names their provider, web hooks, keys of Bitcoin
secret_values      whether a value can be a secret, or is what a manual prints in its place
assigned_secrets   values that a name marks as secret: settings, assignments, tags
told_secrets       secrets in headers and in sentences
credentials        secrets in addresses, command lines and password files; password hashes, seed phrases
contact_data       e-mail addresses, user names in home paths and commands
telephone          telephone numbers, international and national
payment_data       IBAN, card and account numbers
identity_numbers   social security, tax, identity and passport numbers, number plates; off by default
network_addresses  IP and MAC addresses; off by default
people             dates of birth, street addresses, names after "my name is"; off by default
kinds              all rules, by the groups and kinds that parameters name
"""
