"""Secrets and personal data are redacted, documentation stays. Fake secrets are assembled at run time: this file contains none."""

import random
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mistral_lib.curation import redaction
from tests.support import hostile_text

DICE = random.Random(7)


def letters(count: int, alphabet: str = string.ascii_letters + string.digits) -> str:
    """A random value with a digit and letters of both cases."""
    return "".join(["aZ7"[:count], *(DICE.choice(alphabet) for _ in range(count - 3))])


def hexadecimal(count: int) -> str:
    return "".join(DICE.choice("0123456789abcdef") for _ in range(count))


BASE64 = string.ascii_letters + string.digits + "+/"
TOKENS = {
    "aws_key": "AK" + "IA" + letters(16, string.ascii_uppercase + string.digits).upper(),
    "github_token": "gh" + "p_" + letters(36),
    "gitlab_token": "glp" + "at-" + letters(20),
    "slack_token": "xo" + "xb-" + "1234567890-" + letters(24),
    "google_key": "AI" + "za" + letters(35),
    "stripe_key": "sk_" + "live_" + letters(24),
    "anthropic_key": "sk-" + "ant-api03-" + letters(60),
    "openai_key": "sk-" + "proj-" + letters(48),
    "huggingface_token": "h" + "f_" + letters(34),
    "npm_token": "np" + "m_" + letters(36),
    "pypi_token": "py" + "pi-AgEIcHlwaS5vcmc" + letters(60),
    "sendgrid_key": "S" + "G." + letters(22) + "." + letters(43),
    "twilio_key": "S" + "K" + hexadecimal(32),
    "telegram_token": "123456789" + ":A" + "A" + letters(33),
    "api_token": "gs" + "k_" + letters(52),
    "jwt": "ey" + "J" + letters(20) + ".ey" + "J" + letters(30) + "." + letters(40),
}
GITHUB_FINE_GRAINED = "github" + "_pat_" + letters(40)
KEY_KINDS = ["RSA ", "", "EC ", "OPENSSH ", "ENCRYPTED "]


def key_block(kind: str, newline: str = "\n") -> str:
    body = [letters(64, BASE64) for _ in range(6)]
    return newline.join([f"-----BEGIN {kind}PRIVATE KEY-----", *body, f"-----END {kind}PRIVATE KEY-----"])


@pytest.mark.parametrize("kind", TOKENS)
@pytest.mark.parametrize("frame", ["{}", "use {} now.", 'x = "{}"', "(key: {})", "export API_KEY={}", "a\n{}\nb", "https://host/?k={}&x=1"])
def test_every_provider_token_is_redacted_and_counted_by_kind(kind, frame):
    text, counts = redaction.redact(frame.format(TOKENS[kind]))
    assert TOKENS[kind][8:] not in text
    assert counts == {kind: 1}
    assert f"<{kind.upper()}>" in text


def test_fine_grained_github_token():
    assert redaction.redact(f"clone with {GITHUB_FINE_GRAINED}") == ("clone with <GITHUB_TOKEN>", {"github_token": 1})


@pytest.mark.parametrize("kind", KEY_KINDS)
@pytest.mark.parametrize("newline", ["\n", "\\n", "\n    ", "\n# "])
def test_private_key_blocks_are_replaced_completely(kind, newline):
    assert redaction.redact(f"before\n{key_block(kind, newline)}\nafter") == ("before\n<PRIVATE_KEY>\nafter", {"private_key": 1})


def test_pgp_block_and_a_block_without_its_end():
    pgp = "-----BEGIN PGP PRIVATE KEY BLOCK-----\nVersion: 1\n\n" + letters(64, BASE64) + "\n=ab12\n-----END PGP PRIVATE KEY BLOCK-----"
    assert redaction.redact(pgp)[0] == "<PRIVATE_KEY>"
    cut = key_block("RSA ").rpartition("\n")[0]
    text, counts = redaction.redact(cut + "\n\nThis is how it looks.")
    assert counts == {"private_key": 1}
    assert text.startswith("<PRIVATE_KEY>")
    assert text.endswith("This is how it looks.")
    assert not set(cut.split("\n")[1:]) & set(text.split("\n"))


@pytest.mark.parametrize(
    "line",
    [
        "The file starts with -----BEGIN RSA PRIVATE KEY----- and so on.",
        "-----BEGIN PUBLIC KEY-----\n" + letters(64, BASE64) + "\n-----END PUBLIC KEY-----",
        "-----BEGIN CERTIFICATE-----\n" + letters(64, BASE64) + "\n-----END CERTIFICATE-----",
        "-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----",
    ],
)
def test_mentions_of_keys_and_public_keys_stay(line):
    assert redaction.redact(line) == (line, {})


WEAK = "hunter" + "2!x"
STRONG = letters(32)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (f'password = "{WEAK}"', WEAK),
        (f"DB_PASSWORD={WEAK}", WEAK),
        (f"passwd: '{WEAK}'", WEAK),
        (f'{{"client_secret": "{STRONG}", "x": 1}}', STRONG),
        (f'api_key="{STRONG}"', STRONG),
        (f"API-KEY: {STRONG}", STRONG),
        (f"ACCESS_TOKEN={STRONG}\nOTHER=1", STRONG),
        (f"config['secret_key'] = '{STRONG}'", STRONG),
        (f'{{\\"apiKey\\": \\"{STRONG}\\"}}', STRONG),
        (f"AccountKey={letters(60, BASE64)}==;EndpointSuffix=x", None),
    ],
)
def test_assigned_secrets_are_redacted(text, value):
    redacted, counts = redaction.redact(text)
    assert counts == {"secret_assignment": 1}
    assert "<SECRET>" in redacted
    assert value is None or value not in redacted


@pytest.mark.parametrize(
    "text",
    [
        "password=None", "password: str", "token: str", "api_key=os.environ['KEY']", 'api_key=os.environ["OPENAI_API_KEY_2"]', 'secret = "your-secret-here"',
        'password="password"', "password='secret'", "def login(user, password, token=None):", "token: Union[bool, str, None] = None", "eos_token = '</s>'",
        'pad_token="<|endoftext|>"', "tokenizer = AutoTokenizer.from_pretrained('gpt2-medium-v12')", "max_tokens=4096", "token_type_ids: [0, 0, 1, 1]",
        "secret_key = get_secret_key_1()", "password = config.database.password2", 'password = "${DB_PASSWORD_1}"', "password: {{ vault_password_1 }}",
        'token = "hf_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"', 'api_key="sk-..."', "private_key_path = '/etc/ssl/keys/server1.key'", "Password: a string of 8 characters",
        "task: token-classification", "The secret: always test first.", "password = args.password1", "token=token1", "access_key = 'access-key'", "secret: true",
        'PASSWORD_FIELD = "password_field"', "password_file: /run/secrets/db1", "api_key: ********", "passphrase: Optional passphrase, 8 to 20 characters",
        "monkey: banana1234567890abc", "keyword = 'sort_by_2'",
    ],
)  # fmt: skip
def test_documentation_of_secrets_stays(text):
    assert redaction.redact(text) == (text, {})


def test_aws_secret_and_bearer_are_recognized_by_their_context():
    aws, bearer = letters(40, BASE64), letters(40)
    assert redaction.redact(f"aws_secret_access_key = {aws}") == ("aws_secret_access_key = <AWS_SECRET>", {"aws_secret": 1})
    assert redaction.redact(f"Authorization: Bearer {bearer}") == ("Authorization: Bearer <BEARER_TOKEN>", {"bearer_token": 1})
    assert redaction.redact(f"commit {hexadecimal(40)}")[1] == {}, "a git hash is no secret"
    assert redaction.redact("Send the bearer authentication-token-header with it.")[1] == {}


@pytest.mark.parametrize("scheme", ["https", "postgresql", "mongodb+srv", "ftp"])
def test_url_credentials_are_redacted_and_the_address_stays(scheme):
    text, counts = redaction.redact(f"{scheme}://anna:{WEAK}@db.firma.org:5432/x")
    assert (text, counts) == (f"{scheme}://<CREDENTIALS>@db.firma.org:5432/x", {"url_credentials": 1})


@pytest.mark.parametrize(
    "text",
    ["http://user:password@host/", "https://{user}:{password}@host", "https://host:8080/a@b", "git@github.com:org/repo.git", "https://medium.com/@author/x", "s3://bucket/a:b", "redis://localhost:6379/0", "ssh://687fb701029421ae5549d998@ssh.hf.jobs"],
)  # fmt: skip
def test_urls_without_credentials_stay(text):
    assert redaction.redact(text) == (text, {})


def test_a_password_with_an_at_sign_is_replaced_completely():
    assert redaction.redact("https://bob:pa55@" + "w0rd@db.firma.org/")[0] == "https://<CREDENTIALS>@db.firma.org/"


@pytest.mark.parametrize(
    ("text", "expected", "kind"),
    [
        ("Write to anna.muster+x@firma.co.uk, please", "Write to <EMAIL>, please", "email"),
        ("<jürgen.müller@uni-köln.de>", "<<EMAIL>>", "email"),
        ("联系anna.li@firma.com。", "联系<EMAIL>。", "email"),
        ("call +49 170 1234567 or", "call <PHONE> or", "phone"),
        ("+1 (415) 555-2671", "<PHONE>", "phone"),
        ("+442071838750.", "<PHONE>.", "phone"),
        ("(415) 555-2671", "<PHONE>", "phone"),
        ("Tel.: 030 12345678", "Tel.: <PHONE>", "phone"),
        ("GB82 WEST 1234 5698 7654 32 AND MORE", "<IBAN> AND MORE", "iban"),
        ("IBAN DE89370400440532013000,", "IBAN <IBAN>,", "iban"),
        ("FR14 2004 1010 0505 0001 3M02 606", "<IBAN>", "iban"),
        ("card 4111 1111 1111 1111 exp", "card <CARD_NUMBER> exp", "card_number"),
        ("5555555555554444", "<CARD_NUMBER>", "card_number"),
        ("3782-822463-10005", "<CARD_NUMBER>", "card_number"),
        ("/home/anna/data", "/home/<USER>/data", "home_path"),
        ("'/Users/anna.muster'", "'/Users/<USER>'", "home_path"),
        ("file:///home/anna/x", "file:///home/<USER>/x", "home_path"),
        ("/tmp/.../home/anna/x", "/tmp/.../home/<USER>/x", "home_path"),
        ("C:\\Users\\Anna Muster\\x", "C:\\Users\\<USER>\\x", "home_path"),
        ("C:\\\\Users\\\\anna\\\\x", "C:\\\\Users\\\\<USER>\\\\x", "home_path"),
        ("C:/Users/anna/x", "C:/Users/<USER>/x", "home_path"),
    ],
)
def test_personal_data_is_redacted(text, expected, kind):
    assert redaction.redact(text) == (expected, {kind: 1})


@pytest.mark.parametrize(
    "text",
    [
        "user@example.com", "someone@mail.example.org", "x@w.mean", "A @ B.T", "a@b.T", "@property", "@pytest.mark.slow", "lodash@4.17.21", "image@sha256:abc", "noreply@github.com",
        "numpy 1.26.4.20240101", "2024-01-15 10:30:00", "2024-01-15T10:30:00+00:00", "192.168.100.200", "[1234567, 2345678, 3456789]", "1e+12345678", "+1.23456789", "+2147483647",
        "x = 1+4915112345678", "+1 555 0100", "+1 212 555 0142", "0.4111111111111111", "4111 1111 1111 1112", "4111111111111112", "1234567890123456", "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1",
        "[[1000 2000 3000 4000]]", "default_rng(348932549825235)", "GB82 WEST 1234 5698 7654 33", "DE89370400440532013001", "SHA256 AB12CD34EF56", "/home/user/data", "/home/ubuntu/x",
        "/Users/Shared/x", "https://site.org/home/products/1", "~/data", "/homeless/anna/x", "torch.Size([1234, 5678])", "isbn 978-3-16-148410-0", "10.1145/3292500.3330701",
    ],
)  # fmt: skip
def test_what_only_looks_like_personal_data_stays(text):
    assert redaction.redact(text) == (text, {})


def test_each_group_of_patterns_can_be_used_alone():
    text = f"anna@firma.org {TOKENS['github_token']}"
    assert redaction.redact(text, ("secrets",))[1] == {"github_token": 1}
    assert redaction.redact(text, ("personal_data",))[1] == {"email": 1}
    assert redaction.redact(text, ()) == (text, {})
    assert redaction.find(text) == {"github_token": 1, "email": 1}


SNIPPETS = [*TOKENS.values(), key_block("RSA "), "anna@firma.org", "+49 170 1234567", "DE89370400440532013000", "4111111111111111", "/home/anna/", f"password={WEAK}",
            f"https://a:{WEAK}@host.org", "-----BEGIN RSA PRIVATE KEY-----", "token: ", "@", "://", '"', "=", ":", "<", ">", " ", "\n", "key", "a1", "Tel. "]  # fmt: skip


@settings(max_examples=200)
@given(st.lists(st.sampled_from(SNIPPETS) | st.text(max_size=6), max_size=8).map("".join))
def test_redacting_twice_changes_nothing(text):
    once, _ = redaction.redact(text)
    assert redaction.redact(once) == (once, {})


@settings(max_examples=200)
@given(st.text())
def test_any_text_is_accepted(text):
    redacted, counts = redaction.redact(text)
    assert bool(counts) == (redacted != text)


@settings(max_examples=100)
@given(
    st.sampled_from(sorted(TOKENS)),
    st.text(alphabet=" \n.,;:()[]'\"!?äö中", max_size=20),
    st.text(alphabet=" \n,;()[]'\"!?中", max_size=20),
)
def test_a_token_is_found_in_any_surroundings(kind, before, after):
    text, _ = redaction.redact(f"{before} {TOKENS[kind]}{after}")
    assert TOKENS[kind][8:] not in text


HOSTILE = ["a", "1", "a.", "a@", "@a.", "://a:", "://", "-----BEGIN RSA PRIVATE KEY-----", "-----BEGIN RSA PRIVATE KEY-----A", "password=", "password_", "token: \"", "key='", "+1", "+1 ", "1 1", "1111 ",
           "4111-", "GB82", "GB82 WEST ", "/home/", "/home/a", "\\Users\\", "\\Users\\a ", "eyJ", "eyJaaaaaaaa.", "sk-", "ghp_a", "aws", "aws = ", "Bearer a", "SG.a", "xoxb-", "-", " ", "A1", "Tel: 0", "a-a_", "<", "[", "é", "aws_key:"]  # fmt: skip


@pytest.mark.parametrize("piece", HOSTILE)
def test_hostile_text_takes_no_more_than_linear_time(piece):
    text = "key=: +@://" + hostile_text.repeated(piece) + "!"
    with hostile_text.no_more_than_linear_time():
        redaction.redact(text)


def test_the_texts_of_a_record_are_redacted_together_and_counted():
    texts = ["Ask anna@firma.org", "or bob@firma.org,", "nobody else", f"with {TOKENS['github_token']}"]
    assert redaction.redact_all(texts) == (
        ["Ask <EMAIL>", "or <EMAIL>,", "nobody else", "with <GITHUB_TOKEN>"],
        {"email": 2, "github_token": 1},
    )
    assert redaction.redact_all(texts, ("personal_data",))[1] == {"email": 2}
    assert redaction.redact_all(texts, ()) == (texts, {}) and redaction.redact_all(["a", "b"]) == (["a", "b"], {})
    assert redaction.redact_all(["password", "= 'x"])[1] == {}, "the texts are searched one by one"


def test_only_placeholders_of_rules_are_placeholders():
    kinds = ("<EMAIL>", "<SECRET>", "<PRIVATE_KEY>", "<USER>", "<GITHUB_TOKEN>")
    assert all(redaction.PLACEHOLDER.fullmatch(text) for text in kinds)
    assert not any(redaction.PLACEHOLDER.search(text) for text in ("<EMAILS>", "EMAIL", "<email>", "<>", "<NAME>"))


def test_several_values_in_one_text_keep_what_is_between_them():
    text, counts = redaction.redact("a anna@firma.org b bob@firma.org c +49 170 1234567 d")
    assert (text, counts) == ("a <EMAIL> b <EMAIL> c <PHONE> d", {"email": 2, "phone": 1})


def test_only_rules_whose_words_are_in_the_text_are_tried():
    assert redaction.possible_rules("plain words") == []
    kinds = [rule.kind for rule in redaction.possible_rules(f"anna@firma.org {TOKENS['github_token']}")]
    assert "github_token" in kinds and "email" in kinds and "iban" not in kinds and len(kinds) < 12
    everything = [rule for rules in redaction.GROUPS.values() for rule in rules]
    assert kinds == [rule.kind for rule in everything if rule in redaction.possible_rules(f"anna@firma.org {TOKENS['github_token']}")]
