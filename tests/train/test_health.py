"""What is watched, by hand-derived numbers."""

import pytest
import torch

from diffalign import objectives
from diffalign.data import Image, Label, Pair, Ranking
from diffalign.objectives import means, merge
from diffalign.train import TrainingError
from diffalign.train.health import WINDOW, Health, cautions, check_start, error_changes
from tests.data.files import encoded

SIDES = {"chosen": torch.tensor([0, 1]), "rejected": torch.tensor([2, 3])}


IMAGES = tuple(Image.of(encoded(color)) for color in ("red", "blue"))
TIE, CLEAR = Ranking("a", "p", IMAGES, scores=(0.5, 0.5)), Ranking("b", "p", IMAGES, ranks=(2, 1))
LABEL, PAIR = Label("l", "p", IMAGES[0], True), Pair("c", "p", *IMAGES)


@pytest.mark.parametrize(("name", "records", "batch_size", "said"), [
    ("rankdpo", [TIE, TIE], 4, "WARNING every one of the 2 rankings is a tie"),
    ("rankdpo", [TIE, CLEAR], 1, None),
    ("kto", [LABEL] * 3, 1, "WARNING kto measures a reward against max(0, the mean of its batch), and train_batch_size is 1"),
    ("kto", [LABEL] * 3, 2, None),
    ("bco", [LABEL] * 3, 1, None),  # its mean runs over the whole training
    ("aot", [PAIR] * 3, 1, "WARNING aot sorts within a batch, and train_batch_size is 1"),
    ("aot", [PAIR] * 3, 2, None),
    ("dpo", [PAIR] * 3, 1, None),
])  # fmt: skip
def test_what_a_run_will_not_learn_is_said_before_it_starts(name, records, batch_size, said):
    found = cautions(name, objectives.get(name, beta=1.0), records, batch_size)
    assert len(found) == (said is not None) and all(line.startswith(said) for line in found)


def test_a_sample_that_is_its_own_baseline_is_undecided_however_high_its_reward():
    """What the warning says: for r > 0 and a batch of one, z = beta r - max(0, beta r) = 0 and KTO's loss stays 1/2; of two it does not."""
    kto = objectives.get("kto", beta=1.0)
    for reward in (0.1, 5.0):
        alone = kto(objectives.Evidence(torch.tensor([reward]), torch.zeros(1)), objectives.Labels(torch.tensor([True])))
        assert alone.loss.tolist() == [0.5]
    both = kto(objectives.Evidence(torch.tensor([5.0, -1.0]), torch.zeros(2)), objectives.Labels(torch.tensor([True, False])))
    assert both.loss[0] < 0.05  # 1 - sigma(5 - 2)


def test_error_changes_by_hand():
    """Two pairs at t = 100 (bin 0) and t = 999 (bin 4) of 1000. Chosen 0.5 - 0.4 = 0.1 and 0.3 - 0.5 = -0.2; rejected 0.25 and 0."""
    policy, reference = torch.tensor([0.5, 0.3, 0.75, 0.5]), torch.tensor([0.4, 0.5, 0.5, 0.5])
    found = means(error_changes(policy, reference, torch.tensor([100, 999, 100, 999]), SIDES, 1000))
    assert found == {
        "error/chosen": pytest.approx(0.4), "error/chosen_change": pytest.approx(-0.05), "error/reference_chosen": pytest.approx(0.45),
        "error/rejected": pytest.approx(0.625), "error/rejected_change": pytest.approx(0.125),
        "t_bin/0000-0200/chosen_change": pytest.approx(0.1), "t_bin/0800-1000/chosen_change": pytest.approx(-0.2),
        "t_bin/0000-0200/rejected_change": pytest.approx(0.25), "t_bin/0800-1000/rejected_change": pytest.approx(0.0),
    }  # fmt: skip


def test_bins_and_micro_batches_add_up():
    """The bins of a side sum to its whole, in sums and in counts; and two halves merged are the whole batch."""
    generator = torch.Generator().manual_seed(0)
    policy, reference = torch.rand(64, generator=generator), torch.rand(64, generator=generator)
    t = torch.randint(0, 1000, (32,), generator=generator).repeat(2)
    sides = {"chosen": torch.arange(32), "rejected": torch.arange(32, 64)}
    whole = error_changes(policy, reference, t, sides, 1000)
    for side in ("chosen", "rejected"):
        bins = [value for name, value in whole.items() if name.startswith("t_bin/") and name.endswith(f"/{side}_change")]
        assert len(bins) == 5
        assert sum(count for _, count in bins) == 32 == whole[f"error/{side}_change"][1]
        assert sum(total for total, _ in bins).item() == pytest.approx(whole[f"error/{side}_change"][0].item(), abs=1e-12)
    parts = ({side: rows[:10] for side, rows in sides.items()}, {side: rows[10:] for side, rows in sides.items()})
    halves = merge(error_changes(policy, reference, t, part, 1000) for part in parts)
    assert means(halves) == pytest.approx(means(whole))


def test_the_edges_of_the_bins():
    """t = 199 is the last of the first bin, 200 the first of the second."""
    found = error_changes(torch.ones(4), torch.zeros(4), torch.tensor([199, 200, 199, 200]), SIDES, 1000)
    assert [name for name in found if name.endswith("/chosen_change") and "t_bin" in name] == [
        "t_bin/0000-0200/chosen_change", "t_bin/0200-0400/chosen_change",
    ]  # fmt: skip


def row(loss=0.6, rise=0.0, saturation=0.0, start=0.6931):
    """One step's metrics; the reference's error of the chosen side is 0.1."""
    return {"loss": loss, "loss_at_start": start, "error/chosen_change": rise, "error/reference_chosen": 0.1, "saturation": saturation}


def watch(rows) -> list[str]:
    health = Health()
    return [text for step, metrics in enumerate(rows, start=1) for text in health.warnings(step, metrics)]


def test_a_winner_that_gets_worse_is_said_once():
    """The mean rise over 50 steps passes 2 % of 0.1 when 22 of them are 0.0047 (22 * 0.0047 / 50 = 0.00207): at step 72."""
    (text,) = watch([row()] * 50 + [row(rise=0.0047)] * 200)
    assert text.startswith("step 72: the winner's error is 2.1 % above the reference's while the loss has fallen from 0.693 to 0.600")


@pytest.mark.parametrize("rows", [
    [row(rise=-0.01)] * 200,  # the winner gets better
    [row(rise=0.0019)] * 200,  # a rise of 1.9 %
    [row(rise=0.05, loss=0.70)] * 200,  # the loss has not fallen: that is seen in the loss
    [row(rise=0.05)] * (WINDOW - 1),  # too early to tell
    [row(rise=0.05, loss=1.2, start=1.0)] * 200,  # weighted pairs start at another loss, and this one lies above it
    [{"loss": 0.1, "saturation": 0.2}] * 200,  # no reference to compare with
])  # fmt: skip
def test_a_healthy_run_is_not_warned_of(rows):
    assert watch(rows) == []


def test_saturation_is_said_once():
    """Above one half on the mean of 50: with 0.9 after 50 steps of 0.2, when 0.2 + 0.7 k / 50 > 0.5, so k = 22 (0.508)."""
    (text,) = watch([row(saturation=0.2)] * 50 + [row(saturation=0.9)] * 100)
    assert text.startswith("step 72: 51 % of the pairs give hardly any gradient")


def test_both_can_be_said_and_a_resumed_watcher_remembers():
    health = Health()
    said = [text for step in range(60) for text in health.warnings(step, row(rise=0.05, saturation=0.9))]
    assert len(said) == 2
    resumed = Health()
    resumed.load_state_dict(health.state_dict())
    assert resumed.warnings(61, row(rise=0.05, saturation=0.9)) == []
    late = Health()
    late.load_state_dict({"recent": [row(rise=0.05)] * 49, "said": []})
    assert len(late.warnings(50, row(rise=0.05))) == 1


def test_the_start_is_checked_where_it_is_known():
    assert check_start(0.693147, 0.693147) == "step-0 identity: loss 0.693147, expected 0.693147"
    assert "not applicable" in check_start(5.0, None)
    with pytest.raises(TrainingError, match="the first loss is 0.75, but policy and reference are equal and it must be 0.693147.*dropout"):
        check_start(0.75, 0.693147)
    with pytest.raises(TrainingError):  # ipo starts at 1e-8 for beta 5000, where an absolute tolerance would let anything through
        check_start(2e-8, 1e-8)
