"""Whether a prompt asks for code or markup, or an answer is a drawing in markup: then tags are the answer, not what a web page left.

The words are those of several languages. A word too many keeps a bad row, a word too few rejects a kind of honest data.
"""

import re

NAMES = re.compile(  # of languages and of parts of markup: one of them is enough
    r"(?i)\b(?:x?html5?|xml|svg|mathml|mark-?up|css3?|jsx|tsx|react|vue|angular|svelte|bootstrap|tailwind|django|jinja2?|handlebars|php|jsp|json|yaml|rss|sitemap"
    r"|code|coding|snippet|scripts?|tags?|website|web ?page|webseite|web ?app|landing page|home ?page|p[aá]gina web|page web|sitio web|navbar|dropdown|iframe"
    r"|draw|sketch|icon|logo|diagram|flow ?chart|zeichne|dessine[rz]?|dibuja)\b"
    r"|</?[a-z][a-z0-9]*[\s/>]|网页|网站|代码|标签|画|绘|ウェブ|コード|タグ|描|코드|웹|код|страниц|тег|нарису"
)
TASK = re.compile(  # an order to make something that is written in markup
    r"(?i)\b(?:write|create|build|make|generate|design|add|give|show|implement|develop|produce|provide|convert|format|render|need|want|"
    r"schreibe?|erstelle?|baue?|écris|crée|escribe|crea|genera)\b[^.?!\n]{0,80}?\b(?:page|form|table|button|list|card|menu|layout|section|modal|banner|e-?mail|"
    r"newsletter|component|template|widget|element|header|footer|input|chart|graphic|image|illustration|formular|tabelle|seite|formulaire|tableau|formulario|tabla|página)s?\b"
)
DRAWING = re.compile(
    r"(?i)\s*(?:```\w*\s*)?(?:<\?xml[^>]{0,200}>\s*)?(?:<!doctype svg[^>]{0,200}>\s*)?<(?:svg|math|mxGraphModel|graphml|kml|urlset|rss|feed)\b"
)


def asks(prompt: str, answer: str) -> bool:
    """Whether markup is what was asked for. prompt: all messages before the answer; "" for a document."""
    return any(found is not None for found in (DRAWING.match(answer), NAMES.search(prompt), TASK.search(prompt)))
