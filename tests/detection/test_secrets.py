"""Every kind of secret is found completely, wherever it stands, and what only looks like one stays."""

import time

import pytest

from mistral_lib.curation.redaction import redact
from mistral_lib.detection import provider_tokens
from tests.detection.values import BASE58, BASE64, digits, hexadecimal, lower, password, text, upper, uuid

SECRETS = ("secrets",)
URLSAFE = "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789_-"

TOKENS = {
    "AWS temporary": "AS" + "IA" + upper(16), "AWS bearer": "AB" + "IA" + upper(16), "AWS context": "AC" + "CA" + upper(16),
    "GitHub server": "gh" + "s_" + text(36), "GitLab CI job": "gl" + "cbt-64_" + text(20, URLSAFE), "GitLab deploy": "gl" + "dt-" + text(20),
    "GitLab runner": "gl" + "rt-" + text(20), "GitLab feed": "gl" + "ft-" + text(20), "Slack app": "xa" + "pp-1-A" + upper(10) + "-" + digits(13) + "-" + hexadecimal(64),
    "Slack user": "xo" + "xp-" + digits(12) + "-" + digits(12) + "-" + hexadecimal(32), "Slack rotating": "xo" + "xe.xo" + "xp-1-" + text(140),
    "Google OAuth": "ya" + "29." + text(60, URLSAFE), "Google refresh": "1//" + "0" + text(60, URLSAFE), "Firebase": "AA" + "AA" + text(7) + ":" + text(140, URLSAFE),
    "Azure client": text(3) + "8Q" + "~" + text(34, URLSAFE), "Azure DevOps": text(76) + "AZ" + "DO" + text(4), "Stripe test": "sk" + "_test_" + text(24), "Stripe hook": "wh" + "sec_" + text(32),
    "xAI": "xa" + "i-" + text(80), "Perplexity": "pp" + "lx-" + hexadecimal(48), "NVIDIA": "nv" + "api-" + text(64, URLSAFE), "Cerebras": "cs" + "k-" + lower(48), "Tavily": "tv" + "ly-" + text(32),
    "LangSmith": "ls" + "v2_pt_" + hexadecimal(32) + "_" + hexadecimal(10), "Pinecone": "pc" + "sk_" + text(64), "Fireworks": "fw" + "_" + text(24), "ElevenLabs": "sk" + "_" + hexadecimal(48),
    "Docker": "dck" + "r_pat_" + text(27, URLSAFE), "Bitbucket": "AT" + "BB" + text(32), "Atlassian": "AT" + "ATT3" + text(180, URLSAFE), "Buildkite": "bk" + "ua_" + lower(40), "RubyGems": "rubygems" + "_" + hexadecimal(48),
    "Sonar": "sq" + "p_" + hexadecimal(40), "NuGet": "oy" + "2" + lower(43), "Pulumi": "pu" + "l-" + hexadecimal(40), "Terraform": text(14) + ".atlas" + "v1." + text(67),
    "Alibaba": "LT" + "AI" + text(20), "DigitalOcean": "do" + "o_v1_" + hexadecimal(64), "Doppler": "dp" + ".st.dev." + text(43), "Netlify": "nf" + "p_" + text(40), "Supabase": "sb" + "p_" + hexadecimal(40),
    "Vault": "hv" + "s." + text(90, URLSAFE), "Vault batch": "hv" + "b." + text(120, URLSAFE), "PlanetScale": "ps" + "cale_tkn_" + text(43), "Aiven": "AV" + "NS_" + text(18), "Heroku": "HR" + "KU-" + uuid(),
    "Tailscale": "ts" + "key-auth-" + text(12) + "-" + text(24), "1Password": "op" + "s_ey" + "J" + text(300, BASE64), "1Password secret key": "A" + "3-" + "-".join(map(upper, (6, 6, 5, 5, 5, 5))),
    "age": "AGE-" + "SECRET-KEY-1" + upper(58), "OpenShift": "sha" + "256~" + text(43), "Fly": "fm" + "2_" + text(120, BASE64),
    "Grafana": "gl" + "sa_" + text(32) + "_" + hexadecimal(8), "Grafana cloud": "gl" + "c_" + text(80, BASE64), "New Relic": "NR" + "AK-" + upper(27), "Dynatrace": "dt" + "0c01." + upper(24) + "." + upper(64), "Sentry": "sn" + "tryu_" + hexadecimal(64),
    "Linear": "li" + "n_api_" + text(40), "Figma": "fi" + "gd_" + text(40, URLSAFE), "Postman": "PM" + "AK-" + hexadecimal(24) + "-" + hexadecimal(34), "Notion": "nt" + "n_" + text(46), "Airtable": "pa" + "t" + text(14) + "." + hexadecimal(64),
    "HubSpot": "pa" + "t-na1-" + uuid(), "Mailgun": "ke" + "y-" + hexadecimal(32), "Mailchimp": hexadecimal(32) + "-us" + "20", "Brevo": "xk" + "eysib-" + hexadecimal(64) + "-" + text(16), "Dropbox": "sl" + "." + text(140, URLSAFE),
    "Square": "sq0" + "atp-" + text(22), "Square new": "EA" + "AA" + text(60), "Shopify": "sh" + "pss_" + hexadecimal(32), "Razorpay": "rz" + "p_live_" + text(14), "Plaid": "acc" + "ess-production-" + uuid(), "EasyPost": "EZ" + "AK" + text(54),
    "Facebook": "EA" + "A" + text(120), "Databricks": "da" + "pi" + hexadecimal(32) + "-2", "Discord bot": "MT" + text(24) + "." + text(6) + "." + text(38), "Cloudflare": "v1" + ".0-" + hexadecimal(24) + "-" + hexadecimal(146),
    "Bitcoin WIF": "5" + text(50, BASE58), "Bitcoin WIF compressed": "L" + text(51, BASE58), "Bitcoin extended": "xp" + "rv" + text(107, BASE58), "Mapbox": "sk.ey" + "J" + text(60) + ".ey" + "J" + text(30) + "." + text(22),
    "Discord webhook": "https://disc" + "ord.com/api/webhooks/" + digits(18) + "/" + text(68), "Slack webhook": "https://hooks." + "slack.com/services/T" + upper(8) + "/B" + upper(8) + "/" + text(24),
    "Teams webhook": "https://x.webhook.off" + f"ice.com/webhookb2/{uuid()}@{uuid()}/IncomingWebhook/{hexadecimal(32)}/{uuid()}", "Zapier": "https://hooks.zap" + "ier.com/hooks/catch/" + digits(7) + "/" + lower(7),
}  # fmt: skip


FRAMES = ["use {} now", 'x = "{}"', "key {}", "({})", "TOKEN={}\n", "see:\n{}\n"]


@pytest.mark.parametrize("name", TOKENS)
def test_tokens_of_providers_are_replaced_completely(name: str) -> None:
    value = TOKENS[name]
    for frame in FRAMES:
        shown, counts = redact(frame.format(value), SECRETS)
        left = shown.replace("https://", "").replace("x.", "", 1) if "://" in value else shown
        assert sum(counts.values()) == 1, shown
        assert not any(value[start : start + 6] in left for start in range(8, len(value) - 5, 3)), shown


def test_every_prefix_of_the_table_has_a_rule_and_a_value_of_one_character_is_an_example() -> None:
    assert len(provider_tokens.API_TOKENS) == len(provider_tokens.SHAPES)
    for shown in (
        "xa" + "i-" + "x" * 80,
        "gs" + "k_" + "0" * 52,
        "AK" + "IAIOSFODNN7EXAMPLE",
        "hv" + "s." + "your-token-in-this-place-here",
    ):
        assert redact(f"key {shown} here", SECRETS) == (f"key {shown} here", {})


PASSWORD, STRONG, WEAK = password(), text(32), "hunter" + "2!x"
SEED = "legal winner thank year wave sausage worth useful legal winner thank yellow"
ASSIGNED = [
    ("password: {}", PASSWORD), ("Passwort: {}", PASSWORD), ("Kennwort: {}", PASSWORD), ("contraseña: {}", PASSWORD), ("mot de passe : {}", PASSWORD), ("пароль: {}", PASSWORD), ("密码：{}", PASSWORD),
    ("<password>{}</password>", PASSWORD), ("jdbc:mysql://h:3306/db?user=app&password={}", PASSWORD + "!"), ("jdbc:sqlserver://h;user=sa;password={};encrypt=true", WEAK),
    ("Server=db;User Id=sa;Password={};Database=x", PASSWORD), ('"password": "{}"', WEAK), ("db_pass = '{}'", WEAK), ("SMTP_PW={}", PASSWORD), ("password: Winter{}", "2024"),
    ("spring.datasource.password={}", PASSWORD), ('<add key="ApiKey" value="{}"/>', STRONG), ("- name: DB_PASSWORD\n  value: {}", PASSWORD), ("AZURE_DEVOPS_EXT_PAT={}", lower(52)), ("MYAPP_KEY={}", hexadecimal(32)),
    ("aws_session_token={}", text(340, BASE64) + "=="), ("AccountKey={};EndpointSuffix=x", text(86, BASE64) + "=="), ("X-API-Key: {}", STRONG), ("Ocp-Apim-Subscription-Key: {}", hexadecimal(32)),
    ("https://api.corp.io/v1?access_token={}&page=2", STRONG), ("DB_PASSWORD={}", "ab(7;c{1!x"), ("PGPASSWORD={}", PASSWORD), ("  token: {}", text(60)), ("SharedAccessKey={}", text(43, BASE64) + "="),
    ("the api key is {}", hexadecimal(40)), ("secret {} expires", text(40)), ("my password is {}.", PASSWORD), ("Das Passwort lautet {}", PASSWORD), ("password for bob: {}", PASSWORD),
    ("Authorization: Basic {}", text(24, BASE64)), ("Authorization: Token {}", hexadecimal(40)), ("Cookie: {}", "sessionid=" + lower(32) + "; csrftoken=" + text(32)), ("Set-Cookie: {}", "sid=" + text(40) + "; Path=/; HttpOnly"),
    ("https://x.blob.core.windows.net/c/f?sv=2022&sig={}", text(44) + "%3D"), ("CREATE USER bob IDENTIFIED BY '{}'", PASSWORD),
    ("mysql -u root -p{}", PASSWORD), ("mysqldump --user=x --password={} db", PASSWORD), ("sshpass -p {} ssh x@h", PASSWORD), ("docker login -u me -p {}", PASSWORD), ("curl -u bob:{} https://h.io", PASSWORD), ("redis-cli -h h -a {}", PASSWORD),
    ("tool --api-key {} run", STRONG), ("wandb login {}", hexadecimal(40)), ("machine h.io login bob password {}", PASSWORD), ("db.corp.io:5432:app:bob:{}", PASSWORD), ("*:*:*:bob:{}", PASSWORD),
    ("bob:{}:19000:0:99999:7:::", "$6$" + text(8) + "$" + text(86)), ("root:{}:1", "$y$j9T$" + text(22) + "$" + text(43)), ("hash {}", "$2b$12$" + text(53)), ("{}", "$argon2id$v=19$m=65536,t=3,p=4$" + text(22) + "$" + text(43)),
    ("bob:{}", "$apr1$" + text(8) + "$" + text(22)), ("{}", "pbkdf2_sha256$600000$" + text(22) + "$" + text(43) + "="), ("userPassword: {}", "{SSHA}" + text(32, BASE64)),
    ("seed phrase: {}", SEED), ("Mnemonic: \"{}\"", SEED), ("my recovery phrase is {}.", SEED), ("redis://:{}@cache.host:6379/0", PASSWORD), ("amqp://bob:{}@mq.host/v", PASSWORD), ("https://{}@github.com/o/r", text(36)),
    ('{{"kty": "RSA", "d": "{}"}}', text(86, URLSAFE)), ("define('DB_PASSWORD', '{}');", PASSWORD), ('define( "AUTH_KEY", "{}" );', STRONG), ("APP_KEY=base64:{}", text(43, BASE64) + "="), ("SECRET=base64:{}", text(43, BASE64) + "="),
    ("https://api.telegram.org/bot{}/sendMessage", digits(10) + ":AA" + text(33, URLSAFE[:-1])), ("requirepass {}", PASSWORD), ('    psk="{}"', PASSWORD), ("WPA2 key: {}", PASSWORD), ('ConvertTo-SecureString "{}" -AsPlainText -Force', PASSWORD),
    ("htpasswd -b /etc/nginx/.htpasswd bob {}", PASSWORD), ("htpasswd -nbB bob {}", PASSWORD), ("my Google app password: {}", " ".join(("qkxw", "zvjh", "pmdt", "rbgy"))), ("la password di accesso è {}", PASSWORD), ("password for the admin is {}", PASSWORD),
    ('Client("AC' + hexadecimal(32) + '", "{}")', hexadecimal(32)), ("pub.map.box/x?t={}", "sk.ey" + "J" + text(60) + "." + text(22)), ("PASSWORD_ADMIN={}", PASSWORD), ("SECRET_ACCOUNT={}", STRONG), ("TOKENS={}", STRONG),
]  # fmt: skip


@pytest.mark.parametrize(("frame", "value"), ASSIGNED, ids=lambda value: value[:24])
def test_values_that_their_place_marks_as_secret_are_replaced_completely(frame: str, value: str) -> None:
    shown, counts = redact(f"Before it.\n{frame.format(value)}\nAfter it.", SECRETS)
    assert counts and not any(value[start : start + 5] in shown for start in range(len(value) - 4)), shown
    assert shown.startswith("Before it.\n") and shown.endswith("\nAfter it.")
    assert redact(shown, SECRETS) == (shown, {})


def block(begin: str, end: str, lines: int = 4) -> str:
    return "\n".join([begin, *(text(64, BASE64) for _ in range(lines)), end])


PUTTY = (
    "PuTTY-User-"
    + f"Key-File-3: ssh-ed25519\nEncryption: none\nComment: k\nPublic-Lines: 2\n{text(64, BASE64)}\n{text(40, BASE64)}\nPrivate-Lines: 1\n{text(60, BASE64)}\nPrivate-MAC: {hexadecimal(64)}"
)
BLOCKS = [
    block("-----BEGIN OpenVPN " + "Static key V1-----", "-----END OpenVPN Static key V1-----"), block("---- BEGIN SSH2 ENCRYPTED " + "PRIVATE KEY ----", "---- END SSH2 ENCRYPTED PRIVATE KEY ----"),
    block("-----BEGIN ENCRYPTED " + "PRIVATE KEY-----", "-----END ENCRYPTED PRIVATE KEY-----"), PUTTY,
]  # fmt: skip


@pytest.mark.parametrize("value", BLOCKS, ids=lambda value: value[:30])
def test_blocks_of_keys_are_replaced_completely(value: str) -> None:
    assert redact(f"a\n{value}\nb", SECRETS) == ("a\n<PRIVATE_KEY>\nb", {"private_key": 1})


STAYS = [
    "commit " + hexadecimal(40), "id " + uuid(), "md5 " + hexadecimal(32), "sha256:" + hexadecimal(64), "import x from '@angular/core'", "numpy@1.26.4", "git@github.com:org/repo.git", "sk-fading-circle-container-1",
    "OPENAI_API_KEY=sk-" + "x" * 32, "api_key=os.environ['OPENAI_API_KEY']", '<img src="data:image/png;base64,' + text(300, BASE64) + '=="/>', "std::vector<std::pair<int,int>>", "The password: must be at least 12 characters long",
    "task='token-classification-v2'", "password_hash = hash_password(password1, salt2)", "token: Ġthe123, id: 262", "primary_key: customer_id_2024_v3", "password: SHA-256-hashed", "The password is Base64-encoded.", "password = getpass2()",
    "tokenizer = AutoTokenizer.from_pretrained('gpt2-medium-v12')", "the key sort_by_column_name_2024_v3 is used", "public key infrastructure uses key pairs of 2048 bits", "mysql -u root -p", "docker run -p 8080:80 nginx:1.25",
    "curl -u user:password https://example.com", "cookie: a small text file", "Set-Cookie: theme=dark; Path=/", "bearer of good news", "seed phrase: the words that you should have written down for the wallet and never show",
    "redis-cli -a $REDIS_PASSWORD ping", "password = input('Enter your password: ')", "--password-stdin < file.txt", "the secret of a good soup is 3 hours of patience", "$1,000 and $2,500", "price is $5$ and $6$ in LaTeX", "float32x4_t pattern2path", "torch.bfloat16 and conv2d_transpose_3x3",
    "-----BEGIN CERTIFICATE-----\n" + text(64, BASE64) + "\n-----END CERTIFICATE-----", "ssh-rsa " + "AAAAB3Nza" + "C1yc2E" + text(200, BASE64), "password: string", "pwd: /home/user/x", "sort_key: '2024-01-01T00:00:00'", "foreign_key: user_id_2", "token_type: bearer", "author: Anna2024 and others",
    'MODEL_PATH = "mistralai/Mistral-7B-v0.1"', 'TOKENIZER = "meta-llama/Llama-2-7b-hf"', "CKPT_PATH=runs/exp12b/checkpoint-4000x", 'PASSAGE = "chapter12verse3b"', 'PASSENGER_ID = "A12345"', 'PASS_RATE = "87.5%abc"', 'BOOK_AUTHOR = "vanDerBerg2019-etal12"',
    'SORT_KEY = "created_at-2024q3b-desc"', 'KMS_KEY = "projects/p1/locations/eu/keyRings/r1/cryptoKeys/k1"', 'passwordRegex = "^(?=.*[A-Z])(?=.*[0-9]).{8,}$"', "PASSWORD_REGEX=^(?=.*[A-Z])(?=.*[0-9]).{8,}$", 'secretRef: "projects/p1/secrets/db/versions/3"',
    "SECRET_ARN=projects/p1/secrets/dbx/versions/3", "TOKEN_URL=login.microsoftonline.com/common/oauth2/v2.0/token", 'credential_type: "pkcs12-bundle-v1"', 'apiKeyHeader = "X-Api-Key-Version-2b"', 'token_ratio: "3.5chars/token"', 'password_hint: "pet\'s name + 2 digits"',
    'UNRESERVED_PAT = "[A-Za-z0-9_.~-]+|%[0-9A-F]{2}"', '_IDENTIFIER_PATTERN = r"^[0-9]{4}-(0[1-9]|1[0-2])-[0-9]{2}$"', 'f("password", "the2nd value")', "app password is very long with this rule", "the psk is shared", "htpasswd -c file bob",
]  # fmt: skip


@pytest.mark.parametrize("line", STAYS, ids=lambda line: line[:30])
def test_what_only_looks_like_a_secret_stays(line: str) -> None:
    assert redact(line) == (line, {})


HOSTILE = ["password: ", "token", "key ", "seed phrase ", "abcde ", "cookie: a=", "$6$a", "--token ", "mysql ", "machine login ", "x:5432:a:", "PuTTY-User-Key-File-2:\n", "pat", "glpat-", "5K", "M.", "sig=a", "---- BEGIN SSH2 PRIVATE KEY ----", '"kty""d":"', "IDENTIFIED BY '"]  # fmt: skip


@pytest.mark.parametrize("piece", HOSTILE)
def test_hostile_text_takes_no_more_than_linear_time(piece: str) -> None:
    hostile = (piece * (60_000 // len(piece) + 1))[:60_000] + "!"
    started = time.process_time()
    redact(hostile)
    assert time.process_time() - started < 1
