"""Whether a chat template only copies the messages' contents: then what it writes around one content, it writes around all.

Read from the template's syntax tree. The answer is no if a content is inspected (compared, searched, measured, passed to a function) or
if the tree contains a node that is not recognized here; such a template is rendered for every chat, which is safe and slow.
"""

from collections.abc import Iterator
from functools import lru_cache

from jinja2 import Environment, TemplateSyntaxError, nodes

ABOUT_TYPE = ("defined", "undefined", "none", "string", "mapping", "boolean", "number")  # tests with the same result for every text
RECOGNIZED = (nodes.Output, nodes.For, nodes.If, nodes.Assign, nodes.ExprStmt, nodes.Continue, nodes.Break)
MESSAGES, MESSAGE, CONTENT, OTHER = "messages", "message", "content", ""


@lru_cache(maxsize=64)
def copies_contents(template: str) -> bool:
    """True if a message's content has no effect except that it is written in its own place."""
    try:
        tree = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(template)
    except TemplateSyntaxError:  # a dialect's own tags
        return False
    if not all(isinstance(node, RECOGNIZED) for node in tree.find_all(nodes.Stmt)):
        return False  # a macro or a block could pass a content on
    kinds: dict[str, set[str]] = {"messages": {MESSAGES}}
    while _note_kinds(tree, kinds):
        pass
    return all(len(found) == 1 for found in kinds.values()) and not _inspects(tree, kinds, printed=False)


def _note_kinds(tree: nodes.Template, kinds: dict[str, set[str]]) -> bool:
    """Note which names refer to messages, a message or a content; whether anything new was found."""
    before = sum(map(len, kinds.values()))
    for name, kind in _assigned(tree, kinds):
        if kind or name in kinds:
            kinds.setdefault(name, set()).add(kind)
    return sum(map(len, kinds.values())) > before


def _assigned(tree: nodes.Template, kinds: dict[str, set[str]]) -> Iterator[tuple[str, str]]:
    for node in tree.find_all((nodes.For, nodes.Assign)):
        if isinstance(node.target, nodes.Name):
            kind = _kind(node.iter if isinstance(node, nodes.For) else node.node, kinds)
            yield node.target.name, (MESSAGE if kind == MESSAGES else OTHER) if isinstance(node, nodes.For) else kind


def _kind(node: nodes.Node, kinds: dict[str, set[str]]) -> str:
    """What an expression refers to: MESSAGES, MESSAGE, CONTENT or OTHER."""
    if isinstance(node, nodes.Name):
        return next(iter(kinds.get(node.name, {OTHER})))
    if isinstance(node, nodes.CondExpr):  # `messages[0]['content'] if … else none`, `messages[1:] if … else messages`
        choices = {_kind(part, kinds) for part in (node.expr1, node.expr2) if part is not None} - {OTHER}
        return choices.pop() if len(choices) == 1 else OTHER
    if isinstance(node, nodes.Getitem | nodes.Getattr):
        base = _kind(node.node, kinds)
        if base == MESSAGES and isinstance(node, nodes.Getitem):
            return MESSAGES if isinstance(node.arg, nodes.Slice) else MESSAGE
        return CONTENT if base == MESSAGE and _key(node) == "content" else OTHER
    return OTHER


def _key(node: nodes.Getitem | nodes.Getattr) -> str:
    """The key that is read; "" if it is not a constant."""
    if isinstance(node, nodes.Getattr):
        return node.attr
    return node.arg.value if isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str) else ""


def _inspects(node: nodes.Node, kinds: dict[str, set[str]], printed: bool) -> bool:
    """Whether a content, or something that contains one, is used other than being written. printed: this node is written unchanged."""
    kind = _kind(node, kinds)
    if kind == CONTENT and not isinstance(node, nodes.CondExpr):
        return not printed
    if kind and not isinstance(node, nodes.CondExpr):
        return True  # a message, or all of them, in an unexpected place
    if isinstance(node, nodes.Assign) and isinstance(node.target, nodes.Name) and _kind(node.node, kinds):
        return isinstance(node.node, nodes.CondExpr) and _inspects_choice(node.node, kinds)
    if isinstance(node, nodes.For) and _kind(node.iter, kinds) == MESSAGES:
        rest = [*node.body, *node.else_, *([node.test] if node.test else [])]
        return isinstance(node.iter, nodes.CondExpr) or any(_inspects(part, kinds, False) for part in rest)
    if isinstance(node, nodes.Getitem | nodes.Getattr) and _kind(node.node, kinds) == MESSAGE and _key(node):
        return hasattr(dict, _key(node))  # such as its role; but .items() contains the content
    if isinstance(node, nodes.Test) and node.name in ABOUT_TYPE and _kind(node.node, kinds) == CONTENT:
        return False
    if isinstance(node, nodes.Filter) and node.name == "length" and _kind(node.node, kinds) == MESSAGES:
        return False
    if isinstance(node, nodes.CondExpr):
        return _inspects(node.test, kinds, False) or any(
            _inspects(part, kinds, printed) for part in (node.expr1, node.expr2) if part is not None
        )
    if (stripped := _stripped(node)) is not None:
        return _inspects(stripped, kinds, printed)
    through = (printed and isinstance(node, nodes.Add | nodes.Concat)) or isinstance(node, nodes.Output)
    return any(_inspects(child, kinds, through) for child in node.iter_child_nodes())


def _inspects_choice(node: nodes.CondExpr, kinds: dict[str, set[str]]) -> bool:
    """The same for `a if test else b` that is assigned to a name."""
    others = [part for part in (node.expr1, node.expr2) if part is not None and not _kind(part, kinds)]
    return any(_inspects(part, kinds, False) for part in (node.test, *others))


def _stripped(node: nodes.Node) -> nodes.Node | None:
    """The x of `x | trim` and `x.rstrip(' ')`, which change only blanks at the ends: chat_template detects those by itself."""
    if isinstance(node, nodes.Filter) and node.name == "trim" and not node.args:
        return node.node
    if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr) and node.node.attr in ("strip", "lstrip", "rstrip"):
        blank = all(isinstance(part, nodes.Const) and str(part.value).isspace() for part in node.args)
        return node.node.node if blank and not node.kwargs else None
    return None
