"""Tokens and keys whose shape names their provider, from AWS to web hooks.

Source of the shapes: the providers' pages and the rule sets of gitleaks and detect-secrets. A value must vary: `hf_xxxxxxxx` in a manual
is no token, and neither is one that ends in EXAMPLE, as in the documentation of AWS.
"""

import re
from collections.abc import Callable

from mistral_lib.detection.rules import ALWAYS, LONG_WORD, LONGER_WORD, Rule, Span, entropy, whole_value

FEWEST_DISTINCT = 8  # characters, the prefix included: with fewer it is a row of x in a manual
EXAMPLE = re.compile(r"EXAMPLE(?:KEY)?\Z|(?i:your[_-]|x{6})")


def varied(match: re.Match[str]) -> Span | None:
    """The value unless it has only a few distinct characters or is an example of the provider's documentation."""
    start, end = whole_value(match)
    value = match.string[start:end]
    return (start, end) if len(set(value)) >= FEWEST_DISTINCT and not EXAMPLE.search(value) else None


def random_looking(match: re.Match[str]) -> Span | None:
    """For prefixes that also begin ordinary words (`sk-toggle-content`): digits and letters, little repetition."""
    start, end = whole_value(match)
    value = match.string[start:end]
    mixed = any(c.isdigit() for c in value) and any(c.isalpha() for c in value) and len(re.findall("[A-Z0-9]", value)) >= 4
    return (start, end) if mixed and entropy(value) >= 3.0 and not EXAMPLE.search(value) else None


def _token(kind: str, needles: tuple[str, ...], pattern: str, span: Callable = varied, gate: str = ALWAYS) -> Rule:
    return Rule(kind, f"<{kind.upper()}>", needles, re.compile(rf"(?<![A-Za-z0-9])(?:{pattern})"), span, gate)


# Prefix of a token → its other characters and their number. All are counted as api_token.
SHAPES = {
    # artificial intelligence
    "gsk_": "[A-Za-z0-9]{40,64}", "xai-": "[A-Za-z0-9]{60,120}", "r8_": "[A-Za-z0-9]{37,40}", "pplx-": "[A-Za-z0-9]{32,64}", "nvapi-": "[A-Za-z0-9_-]{50,100}",
    "csk-": "[a-z0-9]{40,64}", "tvly-": "[A-Za-z0-9-]{20,64}", "jina_": "[A-Za-z0-9_-]{40,80}", "lsv2_pt_": "[a-f0-9_]{36,64}", "lsv2_sk_": "[a-f0-9_]{36,64}",
    "pcsk_": "[A-Za-z0-9_]{40,100}", "tgp_v1_": "[A-Za-z0-9_-]{36,64}", "fw_": "[A-Za-z0-9]{20,32}", "pa-": "[A-Za-z0-9_-]{40,64}", "sk_": "[a-f0-9]{40,64}",
    "wandb_v1_": "[A-Za-z0-9_]{30,100}", "fc-": "[a-f0-9]{32}", "ABSK": "[A-Za-z0-9+/]{100,280}={0,2}", "bedrock-api-key-": "[A-Za-z0-9+/=]{40,2048}",
    # source code, builds, packages
    "ATBB": "[A-Za-z0-9]{28,60}", "ATCTT3xFfG": "[A-Za-z0-9+/=_-]{60,400}", "ATATT3": "[A-Za-z0-9+/=_-]{60,400}", "bkua_": "[a-z0-9]{40}", "CCIPAT_": "[A-Za-z0-9_]{40,100}",
    "CCIPRJ_": "[A-Za-z0-9_]{40,100}", "CLOJARS_": "[a-z0-9]{60}", "rubygems_": "[a-f0-9]{48}", "cio": "[A-Za-z0-9]{32}(?![A-Za-z0-9])", "oy2": "[a-z0-9]{43}(?![A-Za-z0-9])",
    "sgp_": "[A-Za-z0-9_]{40,80}", "sqp_": "[a-f0-9]{40}", "squ_": "[a-f0-9]{40}", "sqa_": "[a-f0-9]{40}", "AKCp": "[A-Za-z0-9]{60,80}", "cmVmd": "[A-Za-z0-9]{59}",
    "dckr_pat_": "[A-Za-z0-9_-]{20,64}", "dckr_oat_": "[A-Za-z0-9_-]{20,64}", "API-": "[A-Z0-9]{26,40}(?![A-Za-z0-9])", "pul-": "[a-f0-9]{40}", "pnu_": "[A-Za-z0-9]{36}",
    "infracost-": "[A-Za-z0-9]{32}", "ico-": "[A-Za-z0-9]{32}", "snyk_": "[A-Za-z0-9_.-]{36,100}", "codecov_": "[A-Za-z0-9]{30,64}", "vcp_": "[A-Za-z0-9]{24,64}",
    # clouds, databases, hosting
    "LTAI": "[A-Za-z0-9]{16,24}(?![A-Za-z0-9])", "AKID": "[A-Za-z0-9]{32}(?![A-Za-z0-9])", "dop_v1_": "[0-9a-f]{64}", "doo_v1_": "[0-9a-f]{64}", "dor_v1_": "[0-9a-f]{64}",
    "dapi": "[0-9a-f]{32}(?:-[0-9])?", "dkea": "[0-9a-f]{32}", "dp.": r"(?:pt|st|ct|sa|scim|audit|rt)\.[A-Za-z0-9_.-]{40,80}", "nfp_": "[A-Za-z0-9]{36,64}", "sbp_": "[A-Za-z0-9_]{36,64}",
    "sb_secret_": "[A-Za-z0-9_-]{20,64}", "hvs.": "[A-Za-z0-9_-]{24,300}", "hvb.": "[A-Za-z0-9_-]{24,400}", "hvr.": "[A-Za-z0-9_-]{24,300}", "pscale_": "(?:tkn|pw|oauth)_[A-Za-z0-9_.=-]{32,64}",
    "AVNS_": "[A-Za-z0-9_-]{15,32}", "napi_": "[A-Za-z0-9]{40,80}", "npg_": "[A-Za-z0-9]{12,32}", "rnd_": "[A-Za-z0-9]{20,40}", "HRKU-": "[A-Za-z0-9_-]{36,64}", "fo1_": "[A-Za-z0-9_-]{40,64}",
    "tskey-": "[a-z]{3,8}-[A-Za-z0-9]{6,24}-[A-Za-z0-9]{16,40}", "sha256~": "[A-Za-z0-9_-]{43}", "AQVN": "[A-Za-z0-9_-]{35,38}", "y0_": "[A-Za-z0-9_-]{50,80}", 
    "tk-us-": "[A-Za-z0-9_-]{48}", "dnkey-": "[A-Za-z0-9=_-]{26,100}", "s-s4t2": "(?:ud|af)-[a-f0-9]{64}", "ops_": "eyJ[A-Za-z0-9+/_=-]{40,4096}", "A3-": "[A-Z0-9]{6}-(?:[A-Z0-9]{11}|[A-Z0-9]{6}-[A-Z0-9]{5})(?:-[A-Z0-9]{5}){3}",
    "AGE-SECRET-KEY-": "1[0-9A-Z]{50,60}", "age-secret-key-": "1[0-9a-z]{50,60}",
    # measurement
    "glsa_": "[A-Za-z0-9]{32}_[A-Fa-f0-9]{8}", "glc_": "[A-Za-z0-9+/]{32,400}={0,3}", "NRAK-": "[A-Z0-9]{27}", "NRII-": "[A-Za-z0-9_-]{32}", "NRJS-": "[a-f0-9]{19}", "NRRA-": "[a-f0-9]{42}", "NRIQ-": "[A-Za-z0-9_-]{20,40}",
    "dt0": r"[a-z][0-9]{2}\.[A-Z0-9]{24}\.[A-Z0-9]{64}", "sntrys_": "[A-Za-z0-9+/=_-]{40,400}", "sntryu_": "[a-f0-9]{64}", "sntrya_": "[a-f0-9]{64}", "phc_": "[A-Za-z0-9]{40,50}", "phx_": "[A-Za-z0-9]{40,60}", "hcaik_": "[a-z0-9]{58,70}", "PMAT-": "[A-Z0-9]{26}",
    # work, mail, messages, design
    "lin_api_": "[A-Za-z0-9]{32,64}", "lin_oauth_": "[A-Za-z0-9]{32,64}", "figd_": "[A-Za-z0-9_-]{38,64}", "figu_": "[A-Za-z0-9_-]{38,64}", "figoh_": "[A-Za-z0-9_-]{38,64}", "PMAK-": "[a-f0-9]{24}-[a-f0-9]{34}", "ntn_": "[A-Za-z0-9]{40,64}",
    "secret_": "[A-Za-z0-9]{43}(?![A-Za-z0-9])", "CFPAT-": "[A-Za-z0-9_-]{43}", "pat": r"[A-Za-z0-9]{14}\.[a-f0-9]{64}", "pat-": "[a-z]{2}[0-9]-[a-f0-9-]{36}", "tfp_": "[A-Za-z0-9_.=-]{40,64}", "fio-u-": "[A-Za-z0-9_=-]{64}", "p8e-": "[a-f0-9]{32}",
    "rdme_": "[a-z0-9]{70}", "key-": "[a-f0-9]{32}(?![A-Za-z0-9])", "xkeysib-": "[a-f0-9]{64}-[A-Za-z0-9]{16}", "xsmtpsib-": "[a-f0-9]{64}-[A-Za-z0-9]{16}", "re_": "[A-Za-z0-9]{8}_[A-Za-z0-9]{24}", "sl.": "[A-Za-z0-9_-]{100,400}", "sl.u.": "[A-Za-z0-9_-]{100,2000}",
    "dG9rOg": "[A-Za-z0-9+/]{40,100}={0,2}",
    # payment, shops, delivery
    "sq0atp-": "[A-Za-z0-9_-]{22,60}", "sq0csp-": "[A-Za-z0-9_-]{40,60}", "EAAA": "[A-Za-z0-9_+=-]{56,64}(?![A-Za-z0-9])", "shpat_": "[0-9a-f]{32}", "shpca_": "[0-9a-f]{32}", "shppa_": "[0-9a-f]{32}", "shpss_": "[0-9a-f]{32}",
    "rzp_": "(?:live|test)_[A-Za-z0-9]{14,24}", "FLWSECK": "(?:_TEST)?-[A-Za-z0-9-]{12,64}", "EZAK": "[A-Za-z0-9]{54}", "EZTK": "[A-Za-z0-9]{54}", "duffel_": "(?:test|live)_[A-Za-z0-9_=-]{43}", "shippo_": "(?:live|test)_[a-f0-9]{40}", "sm_": "(?:aat|pat|sat)_[A-Za-z0-9]{16,64}",
    "access-": "(?:sandbox|development|production)-[a-f0-9]{8}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{4}-[a-f0-9]{12}", "access_token$": "(?:production|sandbox)[$][a-z0-9]{16}[$][a-f0-9]{32}",
    # other services of Google, Meta and Twitter
    "1//0": "[A-Za-z0-9_-]{40,120}", "EAA": "[A-Za-z0-9]{80,400}", "IGQ": "[A-Za-z0-9_-]{80,400}", "AAAAAAAAAAAAAAAAAAAAA": "[A-Za-z0-9%]{60,120}", "AAAA": "[A-Za-z0-9_-]{7}:[A-Za-z0-9_-]{130,160}",
}  # fmt: skip


def _api_token(prefix: str, rest: str) -> Rule:
    """A pattern that begins with literal characters is searched fastest, so the character before them is looked at afterwards."""
    start = re.escape(prefix)
    gate = LONG_WORD if len(prefix) < 4 and prefix.isalnum() else ALWAYS
    return Rule("api_token", "<API_TOKEN>", (prefix,), re.compile(rf"{start}(?<![A-Za-z0-9]{start})(?:{rest})"), random_looking, gate)


API_TOKENS = tuple(_api_token(prefix, rest) for prefix, rest in SHAPES.items())

BASE58 = "1-9A-HJ-NP-Za-km-z"
UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
HOOKS = (
    rf"(?:discord(?:app)?\.com/api/(?:v[0-9]{{1,2}}/)?webhooks/[0-9]{{15,22}}/[A-Za-z0-9_-]{{40,100}}"
    rf"|webhook\.office\.com/webhookb2/{UUID}@{UUID}/IncomingWebhook/[A-Za-z0-9]{{16,64}}/{UUID}(?:/[A-Za-z0-9_-]{{16,100}})?"
    r"|hooks\.zapier\.com/hooks/catch/[0-9]{4,12}/[A-Za-z0-9]{5,16}|maker\.ifttt\.com/(?:trigger/[^\s/]{1,60}/(?:json/)?with/key|use)/[A-Za-z0-9_-]{20,64}"
    r"|hook\.(?:[a-z0-9]{2,8}\.)?make\.com/[a-z0-9]{24,48}|events\.pagerduty\.com/integration/[a-f0-9]{32}|outlook\.office\.com/webhook/[A-Za-z0-9@/-]{60,300})"
)
GITLAB = "pat|dt|rt|rtr|ptt|cbt|ft|imt|agent|soat|oas|ffct|ortkn"

RULES = (
    _token("aws_key", ("AKIA", "ASIA", "ABIA", "ACCA"), r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}(?![A-Za-z0-9])"),
    _token("github_token", ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"), r"gh[pousr]_[A-Za-z0-9]{30,255}|github_pat_[A-Za-z0-9_]{22,255}"),
    _token("gitlab_token", (*(f"gl{kind}-" for kind in GITLAB.split("|")), "_gitlab_session="), rf"gl(?:{GITLAB})-[A-Za-z0-9_.-]{{20,300}}|_gitlab_session=(?P<value>[0-9a-f]{{32}})"),
    _token("slack_token", ("xox", "xapp-", "xwfp-", "hooks.slack.com/"),
           r"xoxe\.xox[bp]-[A-Za-z0-9-]{10,255}|(?:xox[abcdeoprs]|xapp|xwfp)-[A-Za-z0-9%/+-]{10,400}|hooks\.slack\.com/(?:services|workflows|triggers)/[A-Za-z0-9/]{20,120}"),
    _token("webhook_url", ("/webhooks/", "webhookb2/", "hooks.zapier", "maker.ifttt", "make.com/", "/integration/", "/webhook/"), HOOKS),
    _token("google_key", ("AIza", "GOCSPX-", "ya29."), r"AIza[A-Za-z0-9_-]{35}|GOCSPX-[A-Za-z0-9_-]{20,40}|ya29\.[A-Za-z0-9_.-]{20,2048}"),
    _token("azure_secret", ("Q~", "AZDO", "+AS", "JQQJ99"),
           r"[A-Za-z0-9_~.-]{3}[0-9]Q~[A-Za-z0-9_~.-]{31,34}|[A-Za-z0-9]{76}AZDO[A-Za-z0-9]{4}|[A-Za-z0-9+/]{76}\+ASt[A-Za-z0-9+/]{5,8}={0,2}|[A-Za-z0-9]{52}JQQJ99[A-Za-z0-9]{26}"),
    _token("stripe_key", ("_live_", "_test_", "whsec_"), r"(?:[sprk]k_(?:live|test)_|whsec_)[A-Za-z0-9+/]{16,255}={0,2}"),
    _token("anthropic_key", ("sk-ant-",), r"sk-ant-[A-Za-z0-9_-]{20,255}"),
    _token("openai_key", ("sk-",), r"sk-(?:proj-|svcacct-|admin-|or-v1-|lf-)?[A-Za-z0-9_-]{20,300}", random_looking),
    _token("huggingface_token", ("hf_", "api_org_"), r"(?:hf_|api_org_)[A-Za-z0-9]{30,64}(?![A-Za-z0-9_])"),
    _token("npm_token", ("npm_",), r"npm_[A-Za-z0-9]{36,64}"),
    _token("pypi_token", ("pypi-",), r"pypi-[A-Za-z0-9_-]{50,400}"),
    _token("sendgrid_key", ("SG.",), r"SG\.[A-Za-z0-9_-]{16,64}\.[A-Za-z0-9_-]{16,64}"),
    _token("twilio_key", ("SK", "AC"), r"(?:SK|AC)[0-9a-f]{32}(?![A-Za-z0-9])", varied, LONG_WORD),
    _token("twilio_key", ("Client(",), r"Client\(\s{0,8}[\"'](?:AC[0-9a-f]{32}|<TWILIO_KEY>)[\"'],\s{0,40}[\"'](?P<value>[0-9a-f]{32})[\"']"),
    _token("mapbox_token", ("sk.eyJ", "tk.eyJ"), r"[st]k\.eyJ[A-Za-z0-9_-]{20,400}\.[A-Za-z0-9_-]{20,64}(?![A-Za-z0-9_.-])"),
    _token("telegram_token", (":AA",), r"(?:bot)?(?P<value>[0-9]{8,10}:AA[A-Za-z0-9_-]{32,34})(?![A-Za-z0-9_-])"),
    Rule("discord_token", "<DISCORD_TOKEN>", (), re.compile(r"[MNO](?<![A-Za-z0-9].)[A-Za-z0-9_-]{23,27}\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,40}(?![A-Za-z0-9_-])"), random_looking, LONGER_WORD),
    _token("mailchimp_key", ("-us",), r"[0-9a-f]{32}-us[0-9]{1,2}(?![A-Za-z0-9])", varied, LONG_WORD),
    _token("cloudflare_key", ("v1.0-",), r"v1\.0-[0-9a-f]{24}-[0-9a-f]{146}"),
    _token("fly_token", ("fm1", "fm2", "fm3"), r"(?:FlyV1 )?fm[123][a-z]?_[A-Za-z0-9+/=_-]{60,2048}(?:,fm[123][a-z]?_[A-Za-z0-9+/=_-]{60,2048}){0,8}"),
    _token("terraform_token", (".atlasv1.",), r"[A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9_=-]{60,80}"),
    # Wallet import format and extended private keys of Bitcoin
    Rule("bitcoin_key", "<BITCOIN_KEY>", (), re.compile(rf"[5KL](?<![A-Za-z0-9].)[{BASE58}]{{50,51}}(?![A-Za-z0-9])"), random_looking, LONGER_WORD),
    _token("bitcoin_key", ("prv",), rf"[xyzt]prv[{BASE58}]{{100,112}}", random_looking),
    *API_TOKENS,
    Rule("jwt", "<JWT>", ("eyJ",), re.compile(r"(?<![A-Za-z0-9_-])(?:[sptk]{2}\.)?eyJ[A-Za-z0-9_-]{8,4096}+\.eyJ[A-Za-z0-9_-]{8,8192}+(?:\.[A-Za-z0-9_-]{0,4096}+)?"), varied, ALWAYS),
)  # fmt: skip
