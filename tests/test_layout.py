"""The shape of the project: where packages lie, who may import whom, and what an import costs."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = {"danqing": ROOT / "plugin" / "danqing", "danqing_pack": ROOT / "packaging" / "danqing_pack"}
HEAVY = {"torch", "numpy", "diffusers", "transformers", "modelscope", "huggingface_hub", "datasets", "PIL"}


def modules(package: str) -> dict[str, Path]:
    """Dotted name -> file of every module of one of our packages."""
    found = {}
    for path in sorted(SOURCES[package].rglob("*.py")):
        parts = (package, *path.relative_to(SOURCES[package]).with_suffix("").parts)
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imports(name: str, path: Path, *, inside_functions: bool) -> set[str]:
    """Every module or name that a file imports, dotted and absolute; ``if TYPE_CHECKING`` is never executed."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    return set(_imports(ast.parse(path.read_text(encoding="utf-8")).body, package, inside_functions))


def _imports(nodes: Iterable[ast.AST], package: str, inside_functions: bool) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = "." * node.level + (node.module or "")
            source = importlib.util.resolve_name(source, package) if node.level else source
            yield source
            yield from (f"{source}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from _imports(node.orelse, package, inside_functions)
        elif inside_functions or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from _imports(ast.iter_child_nodes(node), package, inside_functions)


def below(imported: set[str], *packages: str) -> set[str]:
    """The imports that lie in one of these packages."""
    return {each for each in imported for package in packages if each == package or each.startswith(package + ".")}


def test_the_reader_of_imports_sees_every_form(tmp_path: Path) -> None:
    source = tmp_path / "module.py"
    source.write_text(
        "import one.a\nfrom two import b\nfrom . import c\nfrom ..d import e\n"
        "if TYPE_CHECKING:\n    import never\nelse:\n    import always\n"
        "try:\n    import tried\nexcept ImportError:\n    pass\n"
        "class K:\n    import inner\n    def f(self):\n        import late\n"
    )
    at_import = {"one.a", "two", "two.b", "p.q", "p.q.c", "p.d", "p.d.e", "always", "tried", "inner"}
    assert imports("p.q.module", source, inside_functions=False) == at_import
    assert imports("p.q.module", source, inside_functions=True) == at_import | {"late"}


@pytest.mark.parametrize("root", ["packaging", "plugin"])
def test_a_source_root_is_no_package(root: str) -> None:
    """A regular package called ``packaging`` in the working directory would hide the real one from pip and pytest."""
    assert not (ROOT / root / "__init__.py").exists()
    assert not list((ROOT / root).glob("__init__.*"))


def test_the_packager_never_imports_the_plugin() -> None:
    for name, path in modules("danqing_pack").items():
        assert not below(imports(name, path, inside_functions=True), "danqing"), name


def test_the_packager_starts_without_the_network_libraries() -> None:
    for name, path in modules("danqing_pack").items():
        assert not below(imports(name, path, inside_functions=False), "torch", "diffusers", "transformers"), name


def test_families_and_layouts_do_not_know_each_other() -> None:
    """Families times layouts would be n x m pieces of work; this keeps it n + m."""
    bridges = {f"danqing_pack.{each}" for each in ("conversion", "checking", "detection", "random_checkpoints")}
    for name, path in modules("danqing_pack").items():
        imported = imports(name, path, inside_functions=True)
        families, layouts = (below(imported, f"danqing_pack.{each}") for each in ("families", "layouts"))
        if name.startswith("danqing_pack.families"):
            assert not layouts, name
        elif name.startswith("danqing_pack.layouts"):
            assert not families, name
        elif name not in bridges:
            assert not (families and layouts), name


def test_a_family_does_not_know_another_one() -> None:
    registered = {f"danqing_pack.families.{each}" for each in _names_in_families_init()}
    for name, path in modules("danqing_pack").items():
        if name in registered:
            assert not below(imports(name, path, inside_functions=True), *(registered - {name})), name


def _names_in_families_init() -> set[str]:
    tree = ast.parse((SOURCES["danqing_pack"] / "families" / "__init__.py").read_text(encoding="utf-8"))
    return {each.module for each in tree.body if isinstance(each, ast.ImportFrom) and each.level == 1 and each.module}


@pytest.mark.parametrize("leaf", ["danqing.hosts", "danqing.commands", "danqing.serve"])
def test_leaves_are_imported_by_nobody(leaf: str) -> None:
    """The start-up hook and the command line reach them, by name; a command may start the service."""
    for name, path in modules("danqing").items():
        starters = ("danqing.commands", "danqing.eas_processor")
        allowed = below({name}, leaf) or (leaf == "danqing.serve" and below({name}, *starters))
        if not allowed:
            assert not below(imports(name, path, inside_functions=True), leaf), name


def test_the_start_up_hook_uses_nothing_but_sys_before_a_host_comes() -> None:
    hook = ROOT / "plugin" / "danqing_autoload.py"
    assert imports("danqing_autoload", hook, inside_functions=False) == {"sys"}
    assert imports("danqing_autoload", hook, inside_functions=True) <= {"sys", "importlib", "warnings"}


@pytest.mark.parametrize(
    "statement",
    [
        "import danqing",
        "import danqing_pack",
        "import danqing.components, danqing.pipelines, danqing.hosts",
        "import contextlib, danqing.cli\nwith contextlib.suppress(SystemExit): danqing.cli.main(['--help'])",
    ],
    ids=["danqing", "danqing_pack", "lazy modules", "danqing --help"],
)
def test_imports_nothing_heavy(statement: str) -> None:
    script = f"import sys\n{statement}\nprint('heavy:', *sorted({HEAVY!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].strip() == "heavy:", done.stdout
