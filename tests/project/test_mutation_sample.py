"""The mutants that tests/support/mutation_sample.py makes: each changes one place, is valid Python, and the draw depends on the seed alone."""

import ast
from pathlib import Path

import pytest

from tests.support import mutants, mutation_sample

SOURCE = '''"""A module."""
LIMIT: int = 8


def first(values: list[int], sure: bool = True) -> int | None:
    """The first value above the limit."""
    if not values or len(values) > LIMIT:
        raise ValueError(f"{len(values)} values")
    for value in [one for one in values if one >= 1]:
        print(value)
        return value - 1
    return None
'''


def changes(source: str) -> set[tuple[int, str, str]]:
    return {(mutant.line, mutant.before, mutant.after) for mutant in mutants.of_source("a/b", source)}


def test_the_mutants_of_a_small_function() -> None:
    test = "not values or len(values) > LIMIT"
    assert changes(SOURCE) == {
        (2, "8", "9"), (2, "8", "7"), (5, "True", "False"),
        (7, test, "not values and len(values) > LIMIT"), (7, test, f"not ({test})"), (7, test, "False"), (7, "not values", "values"),
        (7, "len(values) > LIMIT", "len(values) >= LIMIT"), (7, "len(values) > LIMIT", "len(values) <= LIMIT"),
        (8, "raise ValueError(f'{len(values)} values')", "pass"),
        (9, "one >= 1", "one > 1"), (9, "one >= 1", "one < 1"), (9, "one >= 1", "True"),
        (9, "1", "2"), (9, "1", "0"), (10, "print(value)", "pass"),
        (11, "return value - 1", "return None"), (11, "value - 1", "value + 1"), (11, "1", "2"), (11, "1", "0"),
    }  # fmt: skip


@pytest.mark.parametrize("module", mutation_sample.MODULES)
def test_each_mutant_of_the_sampled_modules_is_another_valid_module(module: str) -> None:
    path = mutation_sample.ROOT / "mistral_lib" / f"{module}.py"
    source = path.read_text()
    original, made = ast.unparse(ast.parse(source)), list(mutation_sample.of_module(module))
    assert [mutant.number for mutant in made] == list(range(len(made))) and len(made) > 10
    chosen = made[:: max(1, len(made) // 8)]
    changed = {mutants.changed(source, mutant.number) for mutant in chosen}
    assert len(changed - {original}) == len(chosen)
    for text in changed:
        compile(text, str(path), "exec")
    assert all((mutation_sample.ROOT / name).is_file() for name in mutation_sample.test_files(module))


def test_what_is_left_out_is_there() -> None:
    for path, names in mutation_sample.SLOW.items():
        text = (mutation_sample.ROOT / "tests" / path).read_text()
        assert [name for name in names if f"def {name}(" not in text] == [], path


def drawn(*arguments: str) -> list[str]:
    return [str(mutant) for mutant in mutation_sample.chosen(mutation_sample.parser().parse_args(arguments))]


def test_a_draw_is_repeated_by_its_seed() -> None:
    assert drawn("--count", "12", "--seed", "7") == drawn("--count", "12", "--seed", "7") != drawn("--count", "12", "--seed", "8")
    assert len(set(drawn("--count", "12", "--seed", "7"))) == 12
    assert all(one.startswith("curation/splits.py:") for one in drawn("curation/splits", "--count", "3"))
    line = next(
        n
        for n, text in enumerate((mutation_sample.ROOT / "mistral_lib/tokens/packing.py").read_text().split("\n"), 1)
        if "if roomy" in text
    )
    assert drawn("--at", f"tokens/packing.py:{line}") == [
        f"tokens/packing.py:{line}  roomy → not roomy",
        f"tokens/packing.py:{line}  roomy → False",
    ]


def test_a_fault_is_found_or_survives_and_the_module_is_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tree of one module and one test, which looks at one of its two functions."""
    tree = tmp_path / "tree"
    for place, text in {
        "mistral_lib/a/b.py": "def seen():\n    return 3\n\n\ndef unseen():\n    return 4\n",
        "mistral_lib/__init__.py": "", "mistral_lib/a/__init__.py": "",
        "tests/a/test_b.py": "from mistral_lib.a import b\n\n\ndef test_it():\n    assert b.seen() == 3\n",
    }.items():  # fmt: skip
        (tree / place).parent.mkdir(parents=True, exist_ok=True)
        (tree / place).write_text(text)
    monkeypatch.setattr(mutation_sample, "ROOT", tree)
    monkeypatch.setattr(mutation_sample, "PRELOADED", "")
    copy = mutation_sample.Copy(tmp_path / "copy")
    found = [(mutant, copy.attempt(mutant)) for mutant in mutation_sample.of_module("a/b") if mutant.after != "return None"]
    assert [(mutant.line, result.outcome) for mutant, result in found] == [(2, "killed"), (2, "killed"), (6, "survived"), (6, "survived")]
    assert (tmp_path / "copy" / "mistral_lib/a/b.py").read_text() == (tree / "mistral_lib/a/b.py").read_text()
    assert mutation_sample.report(found).splitlines() == [
        "2 of 4 found (50%): 2 killed, 0 timed out, 2 survived", "survived, to be judged by hand:", "  a/b.py:6  4 → 5", "  a/b.py:6  4 → 3"]  # fmt: skip
    (tmp_path / "copy" / "tests/a/test_b.py").write_text("def test_it():\n    assert False\n")
    copy.seconds.clear()
    with pytest.raises(SystemExit, match="its tests fail without a mutant"):
        copy.attempt(found[0][0])
    with pytest.raises(SystemExit, match=r"a/c: tests/a/test_c\.py does not exist"):
        mutation_sample.test_files("a/c")
    copy.close()
