"""What pyproject.toml installs is what the folders hold: setuptools leaves an unlisted package out without a word."""

from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10; pytest brings tomli there
    import tomli as tomllib

import diffalign

REPO = Path(__file__).resolve().parent.parent
SETUPTOOLS = tomllib.loads((REPO / "pyproject.toml").read_text())["tool"]["setuptools"]
FOLDERS = SETUPTOOLS["package-dir"]  # package -> folder: "diffalign.eval" -> "eval"


def found(repo: Path, marker: str = "__init__.py") -> set[str]:
    """Names of the packages whose folders hold a file of that name."""
    names = set()
    for package, folder in FOLDERS.items():
        for path in (repo / folder).rglob(marker):
            names.add(".".join([package, *path.parent.relative_to(repo / folder).parts]))
    return names


def test_the_map_holds_the_four_folders():
    assert FOLDERS == {
        "diffalign": "diffalign", "diffalign.pipelines": "pipelines", "diffalign.rewards": "rewards", "diffalign.eval": "eval",
    }  # fmt: skip


def test_every_package_is_listed_once_and_exists():
    listed = SETUPTOOLS["packages"]
    assert sorted(listed) == sorted(found(REPO))


def test_no_module_lies_outside_a_package():
    """A folder with modules but without ``__init__.py`` imports in a checkout and is missing from the wheel."""
    assert found(REPO, "*.py") == found(REPO)


def test_a_package_that_is_not_listed_is_noticed(tmp_path):
    (tmp_path / "eval" / "prompts").mkdir(parents=True)
    (tmp_path / "eval" / "prompts" / "__init__.py").touch()
    (tmp_path / "rewards" / "loose").mkdir(parents=True)
    (tmp_path / "rewards" / "loose" / "hps.py").touch()
    assert found(tmp_path) == {"diffalign.eval.prompts"}
    assert found(tmp_path, "*.py") - found(tmp_path) == {"diffalign.rewards.loose"}


def test_the_version_is_said_once():
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    assert project["version"] == diffalign.__version__
