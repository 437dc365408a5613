"""The mutants of a module: copies of its source with one small fault each, made on the syntax tree.

Left alone are annotations, decorators, texts, and changes that always raise (a text minus a text, a folder times a name): they would
only raise the score.
"""

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,), ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
}  # fmt: skip
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
TEXTS = (ast.JoinedStr, ast.List, ast.ListComp, ast.Tuple)
PASS = ast.Pass()


@dataclass(frozen=True)
class Mutant:
    module: str
    line: int
    before: str
    after: str
    number: int  # in the order of the source; `changed` writes it

    def __str__(self) -> str:
        return f"{self.module}.py:{self.line}  {_short(self.before)} → {_short(self.after)}"


def of_source(module: str, source: str) -> Iterator[Mutant]:
    """Every mutant of a module, in the order of its source."""
    for number, (_, _, _, node, new) in enumerate(_all_variants(ast.parse(source))):
        yield Mutant(module, node.lineno, ast.unparse(node), ast.unparse(new), number)


def changed(source: str, number: int) -> str:
    """The source of a module with one of its mutants."""
    tree = ast.parse(source)
    parent, name, place, node, new = next(islice(_all_variants(tree), number, None))
    _put(parent, name, place, ast.copy_location(new, node))
    return ast.unparse(ast.fix_missing_locations(tree))


def _all_variants(tree: ast.AST) -> Iterator[tuple[ast.AST, str, int | None, ast.AST, ast.AST]]:
    for parent, name, place, node in _places(tree):
        for new in _variants(node, name):
            yield parent, name, place, node, new


def _places(parent: ast.AST) -> Iterator[tuple[ast.AST, str, int | None, ast.AST]]:
    """(parent, field, position in it, node) of each node that may be changed. strict=… of zip is left alone: it only guards."""
    for name, value in ast.iter_fields(parent):
        if name in ("annotation", "returns", "decorator_list", "format_spec", "bases"):
            continue
        for number, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(node, ast.AST) and not (isinstance(node, ast.keyword) and node.arg == "strict"):
                if hasattr(node, "lineno"):
                    yield parent, name, number, node
                yield from _places(node)


def _put(parent: ast.AST, name: str, number: int | None, node: ast.AST) -> None:
    if number is None:
        setattr(parent, name, node)
    else:
        getattr(parent, name)[number] = node


def _variants(node: ast.AST, name: str) -> Iterator[ast.AST]:
    if isinstance(node, ast.expr):
        yield from _expressions(node)
        if name in ("test", "ifs") and not isinstance(node, ast.Constant):
            if not isinstance(node, ast.UnaryOp | ast.Compare):  # their opposite is made above
                yield ast.UnaryOp(ast.Not(), node)
            yield ast.Constant(name == "ifs")  # a guard that never acts, a filter that lets everything through
    elif isinstance(node, ast.stmt) and name in ("body", "orelse", "finalbody"):
        yield from _statements(node)


def _expressions(node: ast.expr) -> Iterator[ast.expr]:
    match node:
        case ast.Compare():
            for place, op in enumerate(node.ops):
                for new in COMPARISONS[type(op)]:
                    yield ast.Compare(node.left, [*node.ops[:place], new(), *node.ops[place + 1 :]], node.comparators)
        case ast.BinOp(left, op, right) if type(op) in OPERATORS and not _is_text(left) and not _is_text(right) and not _is_path(node):
            yield ast.BinOp(left, OPERATORS[type(op)](), right)
        case ast.BoolOp(op, values):
            yield ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
        case ast.UnaryOp(ast.Not() | ast.USub(), operand):
            yield operand
        case ast.Constant(bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(int() | float() as value):
            yield ast.Constant(value + 1)
            yield ast.Constant(value - 1)


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, TEXTS) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _is_path(node: ast.BinOp) -> bool:
    """Whether it joins paths, as far as names show it."""
    words = ("folder", "path", "place", "home")
    return isinstance(node.op, ast.Div) and any(word in ast.unparse(node.left).lower() for word in words)


def _statements(node: ast.stmt) -> Iterator[ast.stmt]:
    match node:
        case ast.Return(value) if value is not None and not (isinstance(value, ast.Constant) and value.value is None):
            yield ast.Return(ast.Constant(None))
        case ast.Expr(ast.Call()) | ast.AugAssign() | ast.Raise() | ast.Continue() | ast.Break() | ast.Delete():
            yield copy.copy(PASS)
        case ast.Assign([ast.Attribute() | ast.Subscript()]):
            yield copy.copy(PASS)
    if isinstance(node, ast.AugAssign) and type(node.op) in OPERATORS:
        yield ast.AugAssign(node.target, OPERATORS[type(node.op)](), node.value)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 70 else f"{line[:67]}..."
