"""Names of papers and trainers: they resolve with a word of what is meant, and shared acronyms are refused with the choices."""

import pytest

from diffalign import objectives
from diffalign.objectives import ALIASES, TABLE

ONE = {name: alias for name, alias in ALIASES.items() if len(alias.rows) == 1}
SEVERAL = {name: alias for name, alias in ALIASES.items() if len(alias.rows) > 1}


def options(row: str) -> dict:
    return {name: 0.4 for name, what in TABLE[row].options.items() if what.default is None}


def test_aliases_are_no_rows_and_point_at_rows():
    rows = set(objectives.names())
    assert not rows & ALIASES.keys()
    assert all(set(alias.rows) <= rows and alias.note for alias in ALIASES.values())
    assert all(name == name.lower() and "_" not in name for name in (*rows, *ALIASES))


@pytest.mark.parametrize("name", ONE)
def test_an_alias_resolves_and_says_what_is_meant(name):
    row, = ONE[name].rows
    with pytest.warns(UserWarning, match=f"objective '{name}' is '{row}': "):
        assert objectives.get(name, **options(row)) == objectives.get(row, **options(row))
    assert TABLE[name] is TABLE[row] and name in TABLE and name not in list(TABLE)


@pytest.mark.parametrize("name", SEVERAL)
def test_a_shared_acronym_names_the_choices(name):
    with pytest.raises(ValueError, match=f"objective '{name}' may mean {', '.join(SEVERAL[name].rows)}.*say which"):
        objectives.get(name, beta=1.0)
    assert name not in TABLE


@pytest.mark.parametrize("spelt", ["apo_zero", "sppo_hard", "bco_pair", "aot_unpaired", "sigmoid_norm", "apo_zero_unpaired"])
def test_underscores_are_hyphens(spelt, recwarn):
    assert objectives.get(spelt, beta=0.1) == objectives.get(spelt.replace("_", "-"), beta=0.1) and not recwarn.list


def test_every_loss_type_of_trl_is_known():
    """DPOConfig.loss_type of TRL 1.16; ipo is there, but on sums: TRL's is ipo-mean."""
    for name in ("sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired", "apo_zero",
                 "apo_down", "discopop", "sft", "sigmoid_norm"):  # fmt: skip
        assert name in TABLE, name


def test_whose_an_option_is():
    with pytest.raises(ValueError, match=r"unknown option of dpo 'tau' \(tau belongs to discopop, adpo-anchored\)"):
        objectives.get("dpo", beta=1.0, tau=1.0)
    with pytest.raises(ValueError, match=r"\(nll_weight belongs to (\S+ ){8}and \d+ more .*lists all\)\)"):
        objectives.get("dpo", beta=1.0, nll_weight=1.0)
