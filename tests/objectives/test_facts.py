"""The page and the command line say what the table says."""

import json
from pathlib import Path

from diffalign import cli, objectives
from diffalign.objectives import ALIASES, EXTRAS, TABLE
from diffalign.objectives.facts import facts, markdown

PAGE = Path(__file__).parents[2] / "docs/objectives.md"


def test_the_page_is_the_table():
    assert PAGE.read_text(encoding="utf-8") == markdown(), "run python -m diffalign.objectives.facts"


def test_the_page_has_every_row_extra_and_alias_and_whole_table_rows():
    text = markdown()
    assert all(f"\n| `{name}` | " in text for name in (*TABLE, *ALIASES, *EXTRAS))
    widths = {line.replace("\\|", "").count("|") for line in text.splitlines() if line.startswith("| `")}
    assert widths == {7, 4}  # rows and extras have six cells, aliases three


def test_facts_are_plain_data():
    for row in TABLE.values():
        assert json.loads(json.dumps(facts(row))) == facts(row) and facts(row)["name"] == row.name
    assert "sigmoid" in facts(TABLE["dpo"])["aliases"]


def test_the_command_lists_all(capsys):
    assert cli.main(["objectives"]) == 0
    out = capsys.readouterr().out
    assert all(f"{name}: " in out for name in objectives.names()) and "not verified: " in out
    assert cli.main(["objectives", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in listed] == objectives.names() and listed[0]["options"]["beta"]["default"] is None


def test_every_extra_is_somebodys():
    asked = {need for row in TABLE.values() for need in row.needs}
    assert {f"extra:{name}" for name in EXTRAS} <= asked | {"extra:drift"}  # the anchor's, a knob
