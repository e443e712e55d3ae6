"""Passes ask the table what a primitive means: none of them names one."""

import ast
from pathlib import Path

import jrlrp
from jrlrp.primitives import table

ROOMS = ("analyses", "graph", "recognition", "rewrites")
NAMES = {row.name for row in table.rows()} | {"scatter-add", "scatter-max", "custom_linear_solve", "add_any", "remat2"}
# Words of nodes that are primitives' names too: kinds of control flow, and what a declared kind is.
WORDS = {"scan", "cond", "while", "remat", "shard_map"}
MAKERS = ("named",)  # named("add") is how a rewrite makes an equation


def sources():
    for room in ROOMS:
        yield from sorted((Path(jrlrp.__file__).parent / room).glob("*.py"))


def strings(node):
    """Yield the strings in an expression, those in its tuples, sets and lists too."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
            yield from inner.value.split() if " " in inner.value else [inner.value]


def named_in(tree):
    """Yield the line and the text of what compares with a primitive's name, or reads one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            for word in strings(node):
                if word in NAMES - WORDS:
                    yield node.lineno, word
            for part in (node.left, *node.comparators):
                if isinstance(part, ast.Attribute) and part.attr == "primitive":
                    yield node.lineno, ".primitive"
                if isinstance(part, ast.Attribute) and part.attr == "name" and "row" in ast.dump(part.value):
                    yield node.lineno, "row.name"
        if isinstance(node, ast.Subscript) and any(word in NAMES - WORDS for word in strings(node.slice)):
            yield node.lineno, "a subscript"
        if isinstance(node, ast.Dict):  # a table keyed by name
            for key in node.keys:
                if isinstance(key, ast.Constant) and key.value in NAMES - WORDS:
                    yield node.lineno, key.value
        if isinstance(node, ast.match_case):
            for word in strings(node.pattern):
                if word in NAMES:
                    yield node.pattern.lineno, word
        called = node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""
        if called in ("startswith", "endswith") and any(word in NAMES for word in strings(node)):
            yield node.lineno, called


def test_no_pass_names_a_primitive():
    found = [
        f"{path.parent.name}/{path.name}:{line}: {word}"
        for path in sources()
        for line, word in named_in(ast.parse(path.read_text()))
    ]
    assert not found, "\n".join(found)


def test_no_pass_keeps_a_set_of_names():
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Set, ast.Tuple, ast.List)):
                words = {e.value for e in node.elts if isinstance(e, ast.Constant) and isinstance(e.value, str)}
                assert len(words & (NAMES - WORDS)) < 2, f"{path.name}:{node.lineno}: {words}"


def test_every_equation_that_a_pass_makes_is_of_a_row_that_exists():
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in MAKERS:
                for word in strings(node.args[0]):
                    table.named(word)


def test_the_test_sees_what_it_forbids():
    for line in (
        "eqn.primitive == 'add'",
        "eqn.row.name in seen",
        "name in ('tanh', x)",
        "{'exp': 1}",
        "names['exp']",
        "name.startswith('scatter')",
    ):
        assert list(named_in(ast.parse(line))), line
    assert not list(named_in(ast.parse("step.kind in ('scan', 'remat') or named('add') or eqn.op is Op.ADD")))
