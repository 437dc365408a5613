"""Detects what web pages and failed extractions leave in place of an answer. Each function judges an answer, some with its prompt.

The words are English: in other languages these checks find little and do no harm. An answer is kept if it can be an honest one: a label
(`none`, `404 Not Found`), a symbol, or the cookie banner that the prompt asks for.
"""

import re

from ahocorasick_rs import AhoCorasick, Implementation

from mistral_lib.detection.rules import words

# One of these makes a short paragraph boilerplate; a long one needs two, since an answer may explain a cookie banner.
PHRASES = (
    "we use cookies", "uses cookies", "use of cookies", "accept all cookies", "accept cookies", "cookie policy", "cookie settings", "manage cookies",
    "privacy policy", "terms of service", "terms of use", "all rights reserved", "page not found", "404 not found", "404 error", "error 404",
    "page you requested could not be found", "page you are looking for", "page you were looking for", "enable javascript", "javascript is disabled",
    "subscribe to our newsletter", "sign up for our newsletter", "skip to main content", "skip to content", "toggle navigation", "back to top",
    "access denied", "you have been blocked", "verify you are human", "checking your browser", "too many requests",
    "redistribution and use in source and binary forms", "permission is hereby granted, free of charge", "licensed under the apache license",
    "the above copyright notice", "without warranties or conditions", "without warranty of any kind", "gnu general public license",
    "neither the name of", "spdx-license-identifier", "provided by the copyright holders",
)  # fmt: skip
# A word of each phrase: most texts have none of these, and the phrases need not be searched.
STEMS = ("cookie", "policy", "terms of", "rights reserved", "not found", "404", "javascript", "newsletter", "skip to", "navigation", "back to top",
         "denied", "been blocked", "are human", "your browser", "many requests", "looking for", "requested could", "redistribution", "hereby", "licen",
         "copyright", "warrant", "the name of")  # fmt: skip
# A prompt with one of these is about such texts.
TOPICS = re.compile(
    r"(?i)cookie|policy|policies|terms of|rights reserved|not found|\b404\b|javascript|newsletter|navigation|\bnav\b|menu|denied|captcha|redistribut|licen[cs]|copyright"
    r"|warrant|disclaimer|\bspdx|\bgpl\b|\bgnu\b|error (?:page|message|code)|status code|boilerplate|website|web ?page|home ?page|header|footer|legal"
    r"|\bservers?\b|\bhttps?\b|\b40[134]\b|\bresponses?\b"
)
LABEL = 25  # characters: a shorter answer is a label or a name, such as `404 Not Found` or `privacy policy`
SHORT_PARAGRAPH = 240  # characters
BOILERPLATE_SHARE = 0.5  # of a text's characters, from which the text is boilerplate
MENU_WORDS = words(
    """home about contact products services blog login log in sign in sign up register search menu help faq support careers news privacy
    privacy policy terms cookies sitemap next previous docs documentation pricing download share tweet pin it follow us facebook twitter
    linkedin instagram youtube github rss subscribe skip to content about us contact us terms of service my account cart checkout"""
) | frozenset({"about us", "contact us", "log in", "sign in", "sign up", "privacy policy", "terms of service", "skip to content", "follow us",
               "my account", "terms of use", "read more", "learn more"})  # fmt: skip
MENU_BREAK = re.compile(r"[\n|•·»›>/]+")
FEWEST_MENU_ITEMS = 5


STEM_SEARCH = AhoCorasick(STEMS, implementation=Implementation.DFA)


def is_boilerplate(answer: str, prompt: str = "") -> bool:
    """Whether cookie banners, license headers, error pages or menus make up half of the answer, and the prompt is not about them."""
    if len(answer) <= LABEL:
        return False
    lowered = answer.lower()
    return (_is_page_text(lowered) or _is_menu(lowered)) and not TOPICS.search(prompt)


def _is_page_text(lowered: str) -> bool:
    if not STEM_SEARCH.find_matches_as_indexes(lowered):
        return False
    paragraphs = lowered.split("\n\n")
    found = sum(len(paragraph) for paragraph in paragraphs if _is_boilerplate_paragraph(paragraph))
    return found >= BOILERPLATE_SHARE * sum(map(len, paragraphs))


def _is_boilerplate_paragraph(paragraph: str) -> bool:
    phrases = sum(phrase in paragraph for phrase in PHRASES)
    return phrases >= (1 if len(paragraph) <= SHORT_PARAGRAPH else 2)


def _is_menu(lowered: str) -> bool:
    """Whether the text is a list of at least five items, most of them words of a site's navigation."""
    if len(lowered) > 2000 or not ("home" in lowered or "contact" in lowered or "sign in" in lowered or "login" in lowered):
        return False
    items = [item for part in MENU_BREAK.split(lowered) if (item := part.strip(" \t-*"))]
    return len(items) >= FEWEST_MENU_ITEMS and sum(item in MENU_WORDS for item in items) > len(items) / 2


# -------------------------------------------------------------------------------------- placeholders for an answer
EMPTY_ANSWERS = re.compile(
    r"(?i)[\s\W]*(?:(?:todo|tbd|t\.b\.d\.|fixme|placeholder|coming soon|no (?:content|text)(?: available| found)?|under construction|xxx+)[\s\W]*"
    r"|(?:\.{3,}|…|_{2,}|-{3,}|\?{2,})\s*)"
)
# Of a failed export, unless the prompt offers the word, is about code or asks for a label
LEFTOVERS = re.compile(r"(?i)\W*(nan|null|undefined)\W*")
OPEN_DATES = re.compile(r"(?i)\W*(?:tbd|t\.b\.d\.|coming soon)\W*")  # an answer to a question about time or state
TIMES = re.compile(r"(?i)\b(?:when|dates?|deadline|due|release|schedule|status|time|year|month|day|eta|planned|wann|quand|cuándo|quando)\b")
CHOICES = re.compile(
    r"(?i)\b(?:classify|classification|labels?|category|class|missing|empty|valid|choose|options?|evaluate|compute|calculate)\b|[0-9] ?[-+*/^] ?[0-9]"
)
PLACEHOLDERS = re.compile(
    r"(?i)\s*(?:processed content (?:from|of)\b|content (?:from|of) (?:the )?file\b|(?:extracted|parsed) (?:text|content) (?:from|of)\b"
    r"|\[?(?:insert|add|your) (?:[a-z]+ ){0,4}here\b|this is a (?:placeholder|dummy|sample) (?:text|answer|response|document)\b|(?:todo|tbd|fixme)\b)"
)  # fmt: skip
CODE = re.compile(r"(?i)\b(?:code|python|javascript|java|sql|json|function|return|output|print|value|type|variable|expression)|[`=;{}()]")
LONGEST_PLACEHOLDER = 200  # characters: "TODO: ..." above a real answer is a note, not a placeholder
REFUSALS = re.compile(
    r"(?i)\s*(?:i['’]?m sorry,? (?:but )?|sorry,? (?:but )?|unfortunately,? )?(?:as an ai\b|as a (?:large )?language model\b"
    r"|i (?:can(?:no|['’])t|am (?:not able|unable)|['’]m (?:not able|unable)) (?:to )?(?:help|assist|provide|answer|fulfil|comply|do that|access|browse|process)"
    r"|i(?:['’]m| am) (?:not able|unable) to)"
)  # fmt: skip
LONGEST_REFUSAL = 600  # characters: a longer answer is more than a refusal


def is_placeholder_answer(answer: str, prompt: str = "") -> bool:
    """Whether the answer has no content: "TODO", lorem ipsum, "Processed content from <file>". What the prompt names is an answer."""
    if len(answer) > LONGEST_PLACEHOLDER:
        return "lorem ipsum dolor" in answer[:400].lower() and "lorem" not in prompt.lower()
    if "lorem ipsum" in answer.lower():
        return "lorem" not in prompt.lower()
    if leftover := LEFTOVERS.fullmatch(answer):
        return leftover[1].lower() not in prompt.lower() and not CODE.search(prompt) and not CHOICES.search(prompt)
    if OPEN_DATES.fullmatch(answer) and TIMES.search(prompt):
        return False
    if EMPTY_ANSWERS.fullmatch(answer):
        return not set(re.findall(r"\w+", answer.lower())) & set(re.findall(r"\w+", prompt.lower()))
    return PLACEHOLDERS.match(answer) is not None


def is_refusal(answer: str) -> bool:
    """Whether a short answer begins with an assistant's refusal."""
    return len(answer) <= LONGEST_REFUSAL and REFUSALS.match(answer) is not None


# ------------------------------------------------------------------------------------------------------------- shares
# Only the tags of HTML: `if a <b and c> d` and the placeholders of a manual (<path>) are none.
TAG = re.compile(
    r"</?(?:a|abbr|article|aside|b|body|br|button|center|code|col|dd|div|dl|dt|em|fieldset|figure|font|footer|form|h[1-6]|head|header|hr|html|i|iframe|img"
    r"|input|label|li|link|main|meta|nav|ol|option|p|path|pre|script|section|select|small|span|strong|style|sub|sup|svg|table|tbody|td|textarea|th|thead"
    r"|title|tr|u|ul)(?=[\s/>])[^<>]{0,2000}>|<!--[^<>]{0,2000}-->|<!doctype[^<>]{0,200}>|&(?:nbsp|amp|lt|gt|quot|#[0-9]{1,6});",
    re.IGNORECASE,
)
LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
SCRIPTS = {  # ranges of letters; Source: Unicode 15 blocks
    "latin": "A-Za-zªºÀ-ÖØ-öø-ɏḀ-ỿ", "greek": "Ͱ-Ͽἀ-῿", "cyrillic": "Ѐ-ԯ", "hebrew": "א-ת", "arabic": "ء-يٮ-ۓݐ-ݿ",
    "devanagari": "ऄ-हॐक़-ॡ", "thai": "ก-ฮะ-ๆ", "hangul": "가-힣ㄱ-ㆎ", "kana": "ぁ-ゖァ-ヺ", "han": "一-鿿㐀-䶿豈-﫿",
}  # fmt: skip
SCRIPT_PATTERNS = {name: re.compile(f"[{ranges}]") for name, ranges in SCRIPTS.items()}


def tag_share(text: str) -> float:
    """The share of the characters that are in HTML tags, comments and entities."""
    return sum(map(len, TAG.findall(text))) / len(text) if "<" in text or "&" in text else 0.0


def enough_letters(text: str, least: float) -> bool:
    """Whether at least this share of the characters that are not blank are letters of any script (digits and marks are not)."""
    packed = text.encode("utf-8", "surrogatepass").translate(None, b" \t\n")
    if len(packed) - len(packed.translate(None, LETTERS)) >= least * len(packed):
        return True  # the ASCII letters suffice, and bytes are counted much faster than characters
    filled = "".join(text.split())
    return sum(map(str.isalpha, filled)) >= least * len(filled)


def script_share(text: str, script: str) -> float:
    """The share of the letters that belong to a script. It separates Cyrillic from Latin, not German from English."""
    if text.isascii():
        return float(script == "latin")
    letters = sum(map(str.isalpha, text))
    return min(1.0, len(SCRIPT_PATTERNS[script].findall(text)) / letters) if letters else 1.0


def odd_code_fences(text: str) -> bool:
    """Whether a code block is opened and not closed."""
    return "```" in text and sum(line.lstrip(" >").startswith("```") for line in text.split("\n")) % 2 == 1
