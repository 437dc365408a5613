"""Whether a chat template only copies the messages' contents: then what it writes around one content, it writes around all.

Read from the template's syntax tree. The answer is no wherever a content is looked at (compared, searched, measured, handed to a function) or
the tree holds anything that is not known here; such a template is rendered for every chat, which is safe and slow.
"""

from collections.abc import Iterator
from functools import lru_cache

from jinja2 import Environment, TemplateSyntaxError, nodes

ABOUT_TYPE = ("defined", "undefined", "none", "string", "mapping", "boolean", "number")  # tests that every text answers alike
KNOWN = (nodes.Output, nodes.For, nodes.If, nodes.Assign, nodes.ExprStmt, nodes.Continue, nodes.Break)
MESSAGES, MESSAGE, CONTENT, OTHER = "messages", "message", "content", ""


@lru_cache(maxsize=64)
def copies_contents(template: str) -> bool:
    """True if no message's content can change anything but the place where it is written itself."""
    try:
        tree = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(template)
    except TemplateSyntaxError:  # a dialect's own tags
        return False
    if not all(isinstance(node, KNOWN) for node in tree.find_all(nodes.Stmt)):
        return False  # a macro or a block could hand a content on
    kinds: dict[str, set[str]] = {"messages": {MESSAGES}}
    while _learn(tree, kinds):
        pass
    return all(len(found) == 1 for found in kinds.values()) and not _looks(tree, kinds, printed=False)


def _learn(tree: nodes.Template, kinds: dict[str, set[str]]) -> bool:
    """Note which names hold messages, a message or a content; whether anything new was learnt."""
    before = sum(map(len, kinds.values()))
    for name, kind in _given(tree, kinds):
        if kind or name in kinds:
            kinds.setdefault(name, set()).add(kind)
    return sum(map(len, kinds.values())) > before


def _given(tree: nodes.Template, kinds: dict[str, set[str]]) -> Iterator[tuple[str, str]]:
    for node in tree.find_all((nodes.For, nodes.Assign)):
        if isinstance(node.target, nodes.Name):
            held = _kind(node.iter if isinstance(node, nodes.For) else node.node, kinds)
            yield node.target.name, (MESSAGE if held == MESSAGES else OTHER) if isinstance(node, nodes.For) else held


def _kind(node: nodes.Node, kinds: dict[str, set[str]]) -> str:
    """What an expression holds."""
    if isinstance(node, nodes.Name):
        return next(iter(kinds.get(node.name, {OTHER})))
    if isinstance(node, nodes.CondExpr):  # `messages[0]['content'] if … else none`, `messages[1:] if … else messages`
        held = {_kind(part, kinds) for part in (node.expr1, node.expr2) if part is not None} - {OTHER}
        return held.pop() if len(held) == 1 else OTHER
    if isinstance(node, nodes.Getitem | nodes.Getattr):
        base = _kind(node.node, kinds)
        if base == MESSAGES and isinstance(node, nodes.Getitem):
            return MESSAGES if isinstance(node.arg, nodes.Slice) else MESSAGE
        return CONTENT if base == MESSAGE and _key(node) == "content" else OTHER
    return OTHER


def _key(node: nodes.Getitem | nodes.Getattr) -> str:
    """The key that is asked for, "" if it is not plain to see."""
    if isinstance(node, nodes.Getattr):
        return node.attr
    return node.arg.value if isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str) else ""


def _looks(node: nodes.Node, kinds: dict[str, set[str]], printed: bool) -> bool:
    """Whether a content, or what holds one, is used for anything but being written. printed: what this node is goes to the output as it is."""
    kind = _kind(node, kinds)
    if kind == CONTENT and not isinstance(node, nodes.CondExpr):
        return not printed
    if kind and not isinstance(node, nodes.CondExpr):
        return True  # a message, or all of them, where none is expected
    if isinstance(node, nodes.Assign) and isinstance(node.target, nodes.Name) and _kind(node.node, kinds):
        return isinstance(node.node, nodes.CondExpr) and _looks_choosing(node.node, kinds)
    if isinstance(node, nodes.For) and _kind(node.iter, kinds) == MESSAGES:
        rest = [*node.body, *node.else_, *([node.test] if node.test else [])]
        return isinstance(node.iter, nodes.CondExpr) or any(_looks(part, kinds, False) for part in rest)
    if isinstance(node, nodes.Getitem | nodes.Getattr) and _kind(node.node, kinds) == MESSAGE and _key(node):
        return hasattr(dict, _key(node))  # its role, say; but .items() holds the content
    if isinstance(node, nodes.Test) and node.name in ABOUT_TYPE and _kind(node.node, kinds) == CONTENT:
        return False
    if isinstance(node, nodes.Filter) and node.name == "length" and _kind(node.node, kinds) == MESSAGES:
        return False
    if isinstance(node, nodes.CondExpr):
        return _looks(node.test, kinds, False) or any(_looks(part, kinds, printed) for part in (node.expr1, node.expr2) if part is not None)
    if (stripped := _stripped(node)) is not None:
        return _looks(stripped, kinds, printed)
    through = (printed and isinstance(node, nodes.Add | nodes.Concat)) or isinstance(node, nodes.Output)
    return any(_looks(child, kinds, through) for child in node.iter_child_nodes())


def _looks_choosing(node: nodes.CondExpr, kinds: dict[str, set[str]]) -> bool:
    """The same for `a if test else b` that a name is given to."""
    others = [part for part in (node.expr1, node.expr2) if part is not None and not _kind(part, kinds)]
    return any(_looks(part, kinds, False) for part in (node.test, *others))


def _stripped(node: nodes.Node) -> nodes.Node | None:
    """The x of `x | trim` and `x.rstrip(' ')`, which touch only blanks at the ends: chat_template finds those out by itself."""
    if isinstance(node, nodes.Filter) and node.name == "trim" and not node.args:
        return node.node
    if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr) and node.node.attr in ("strip", "lstrip", "rstrip"):
        blank = all(isinstance(part, nodes.Const) and str(part.value).isspace() for part in node.args)
        return node.node.node if blank and not node.kwargs else None
    return None
