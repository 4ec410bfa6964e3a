"""Who may import whom (docs/design.md, section 3), read from the source: imports inside functions count too."""

import ast
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
ROOTS = {"diffalign": "diffalign", "diffalign.pipelines": "pipelines", "diffalign.rewards": "rewards", "diffalign.eval": "eval"}

MAY_IMPORT = {
    "objectives": set(),
    "denoising": {"objectives"},
    "methods": {"objectives", "denoising"},
    "models": {"denoising"},
    "data": set(),
    "train": {"objectives", "denoising", "methods", "models", "data"},
    "llm": {"objectives", "train", "models", "data"},
    "worlds": {"models", "data", "denoising"},
    "rewards": set(),
    "eval": {"models", "rewards", "worlds", "data", "objectives", "denoising", "methods", "train"},
    "pipelines": {"train", "models", "data", "worlds", "rewards", "eval", "methods", "objectives", "denoising", "llm"},
    "extras": set(),  # diffalign/extras.py: open to everyone, needs nobody
}
FREE = {"cli", "listings", "__main__", "__init__"}  # files directly in diffalign/ that may import everything
TORCH_ONLY = ("objectives", "denoising")


def modules(repo: Path) -> dict[str, Path]:
    """Module name -> file, of the four folders; a package goes by its own name."""
    found = {}
    for package, folder in ROOTS.items():
        for path in sorted((repo / folder).rglob("*.py")):
            parts = path.relative_to(repo / folder).with_suffix("").parts
            found[".".join([package, *(parts[:-1] if parts[-1] == "__init__" else parts)])] = path
    return found


def imports(name: str, path: Path, known) -> set[str]:
    """Everything a file imports, anywhere in it. ``from a import b`` is a.b where that is a module of ours (``known``), else a."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:  # one dot is this package, each further dot the one around it
                base = ".".join(package.split(".")[: 1 - node.level or None] + base.split(".") * bool(base))
            found |= {f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base for alias in node.names}
    return found


def folder(module: str) -> str:
    """``diffalign.eval.svg`` -> ``eval``; the package ``diffalign`` itself -> ``__init__``."""
    return (module.split(".") + ["__init__"])[1]


def forbidden(repo: Path) -> list[str]:
    """Sentences of the form "eval/x.py imports diffalign.train"."""
    known, broken = modules(repo), []
    for name, path in known.items():
        here = folder(name)
        if here in FREE:
            continue
        allowed = MAY_IMPORT.get(here, set()) | {here, "extras"}
        for target in sorted(imports(name, path, known) & set(known) - {"diffalign"}):
            if folder(target) not in allowed:
                broken.append(f"{path.relative_to(repo)} imports {target}")
    return broken


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """One circle of the graph, as the names along it; [] where there is none."""
    done, path = set(), []

    def visit(name):
        if name in path:
            return path[path.index(name) :] + [name]
        if name in done:
            return []
        path.append(name)
        for target in sorted(graph[name]):
            if circle := visit(target):
                return circle
        done.add(path.pop())
        return []

    return next((circle for name in graph if (circle := visit(name))), [])


def import_graph(repo: Path) -> dict[str, set[str]]:
    """Module -> the modules of ours it imports."""
    known = modules(repo)
    return {name: imports(name, path, known) & set(known) - {name} for name, path in known.items()}


def test_imports_keep_their_direction():
    assert forbidden(REPO) == []


def test_every_folder_has_its_row():
    """A new folder must be given its place in the table (and in docs/design.md) before it may be imported."""
    assert {folder(name) for name in modules(REPO)} - FREE - set(MAY_IMPORT) == set()


def test_the_table_and_the_modules_have_no_cycle():
    assert cycle(MAY_IMPORT) == []
    assert cycle(import_graph(REPO)) == []


@pytest.mark.parametrize("name", TORCH_ONLY)
def test_the_core_needs_torch_only(name):
    files = {module: path for module, path in modules(REPO).items() if folder(module) == name}
    outside = {target.split(".")[0] for module, path in files.items() for target in imports(module, path, files)}
    assert files and "torch" in outside
    assert outside - set(sys.stdlib_module_names) <= {"torch", "diffalign"}


def test_the_folders_import_each_other_by_their_full_names():
    """``import rewards`` in a checkout would make a second copy of the package, with a table of its own."""
    short = {
        f"{path.relative_to(REPO)}: {target}"
        for module, path in modules(REPO).items()
        for target in imports(module, path, ())
        if target.split(".")[0] in ("rewards", "eval", "pipelines")
    }
    assert short == set()


def test_a_planted_violation_is_found(tmp_path):
    files = {
        "diffalign/train/__init__.py": "from diffalign.train.loop import train\n",
        "diffalign/train/loop.py": "def train():\n    from diffalign.rewards import hps\n",
        "diffalign/data/__init__.py": "",
        "diffalign/data/a.py": "from . import b\n",
        "diffalign/data/b.py": "def f():\n    from .a import g\n",
        "diffalign/new/__init__.py": "import diffalign.data.a\n",
        "rewards/__init__.py": "from diffalign.extras import require\n",
        "rewards/hps.py": "",
        "diffalign/worlds/shapes/__init__.py": "from ...train import loop\nfrom ..other import x\n",
        "diffalign/cli.py": "from diffalign.train import train\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert forbidden(tmp_path) == [
        "diffalign/new/__init__.py imports diffalign.data.a",
        "diffalign/train/loop.py imports diffalign.rewards.hps",
        "diffalign/worlds/shapes/__init__.py imports diffalign.train.loop",
    ]
    assert cycle(import_graph(tmp_path)) == ["diffalign.data.a", "diffalign.data.b", "diffalign.data.a"]
