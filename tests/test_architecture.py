"""The borders of the package, read from its source."""

from __future__ import annotations

import ast
import graphlib
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "darlr_jax"
PROGRAMS = ("experiments", "launch", "benchmarks")
MAX_NESTING = 2  # a function, and the named bodies of its scans and closures

# A folder or file of the package -> what it may import of the package besides itself.
# Rows import strictly lower rows only; what stands in one row does not know each other.
GROUND = {"types", "config", "files"}
RECORDS = {"networks", "data"} | GROUND
MECHANISMS = {"world_model", "simulation", "agents"} | RECORDS
ALLOWED = {
    "types": set(),
    "config": set(),
    "files": set(),
    "methods": {"config"},
    "presets": {"config", "methods"},
    "networks": GROUND,
    "data": GROUND,
    "world_model": RECORDS,
    "simulation": RECORDS,
    "agents": RECORDS,
    "training": MECHANISMS,
    "offline": MECHANISMS,
    "baselines": MECHANISMS,
    "evaluation": {"simulation"} | RECORDS,
    "experiment": {"training", "offline", "baselines", "evaluation"} | MECHANISMS,
    "runs": {"methods", "presets"} | GROUND,
}
# What may be imported in some places alone: prefix -> folders or files.
ONLY_IN = {
    "flax.linen": ("darlr_jax/networks/",),
    "flax.nnx": (),
    "pandas": ("darlr_jax/data/", "darlr_jax/runs/", *(f"{p}/" for p in PROGRAMS)),
    "orbax": ("darlr_jax/runs/checkpoint.py",),
    "matplotlib": ("darlr_jax/runs/plots.py",),
    "absl.flags": tuple(f"{program}/" for program in PROGRAMS),
    "absl.app": tuple(f"{program}/" for program in PROGRAMS),
    "pickle": (),
    "experiments": ("experiments/", "benchmarks/"),  # they share flags
    "launch": ("launch/",),
    "benchmarks": ("benchmarks/",),
}
LIGHT = ("config", "presets", "methods")


def sources(*folders: str) -> list[pathlib.Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imports(tree: ast.AST) -> Iterator[str]:
    """Every imported module; `from a import b` counts as a and as a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parse(path: pathlib.Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def part_of(path: pathlib.Path) -> str:
    """The folder or file of the package that `path` belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_parts(path: pathlib.Path) -> set[str]:
    """The folders and files of the package that `path` imports."""
    names = (name.split(".") for name in imports(parse(path)))
    return {
        name[1]
        for name in names
        if name[0] == "darlr_jax" and len(name) > 1 and name[1] != "__version__"
    }


def violations(path: pathlib.Path) -> set[str]:
    part = part_of(path)
    return imported_parts(path) - ALLOWED[part] - {part}


PARTS = sorted({part_of(path) for path in sources("darlr_jax")} - {"__init__"})


def test_table_and_package_name_the_same_parts():
    assert set(PARTS) == set(ALLOWED)


@pytest.mark.parametrize("part", PARTS)
def test_imports_go_down(part):
    paths = [path for path in sources("darlr_jax") if part_of(path) == part]
    found = {str(path.relative_to(ROOT)): violations(path) for path in paths}
    assert {path: parts for path, parts in found.items() if parts} == {}


def test_no_modules_import_each_other_in_a_circle():
    """Nor those of one folder, nor within functions or for types alone."""
    paths = sources("darlr_jax", *PROGRAMS)
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for path in paths
        if path.stem != "__init__"
    }
    needs = {
        name: set(imports(parse(path))) & modules.keys() - {name}
        for name, path in modules.items()
    }
    assert any(needs.values())
    graphlib.TopologicalSorter(needs).prepare()  # raises CycleError, and names it


def test_importing_the_package_imports_nothing_else():
    assert list(imports(parse(PACKAGE / "__init__.py"))) == []


@pytest.mark.parametrize("prefix", sorted(ONLY_IN))
def test_libraries_stay_where_they_belong(prefix):
    found = [
        str(path.relative_to(ROOT))
        for path in sources("darlr_jax", *PROGRAMS)
        if any(name == prefix or name.startswith(prefix + ".")
               for name in imports(parse(path)))
    ]  # fmt: skip
    assert [path for path in found if not path.startswith(ONLY_IN[prefix])] == []


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_load_neither_jax_nor_numpy(module):
    code = (
        f"import sys, darlr_jax.{module}; "
        "print([name for name in ('jax', 'numpy', 'flax') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"


def test_nothing_is_evaluated_from_text():
    calls = {
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sources("darlr_jax", *PROGRAMS)
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in {"eval", "exec"}
    }
    assert calls == set()


def nesting(node: ast.AST) -> int:
    """How many functions deep the functions in `node` go; lambdas do not count."""
    below = max(map(nesting, ast.iter_child_nodes(node)), default=0)
    return below + isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def test_nesting_is_counted():
    assert nesting(ast.parse("x = lambda: lambda: 0")) == 0
    assert nesting(ast.parse("class A:\n  def f(self):\n    def g(): pass")) == 2
    assert nesting(ast.parse("def f():\n  def g():\n    def h(): pass")) == 3


def test_functions_are_nested_at_most_two_deep():
    paths = sources("darlr_jax", *PROGRAMS)
    depths = {str(path.relative_to(ROOT)): nesting(parse(path)) for path in paths}
    assert {path: n for path, n in depths.items() if n > MAX_NESTING} == {}
