"""What the hacked models of the checks' experiment are trained on."""

import torch

from diffalign import data
from diffalign.pipelines.hacking import HACKABLE, HACKED, PARTS, TRAINING, redness, relabelled
from diffalign.worlds import shapes


def test_redness_by_hand():
    images = torch.zeros(3, 3, 4, 4)
    images[0, 0], images[1], images[2, 1, :, :2] = 1.0, 0.6, 1.0  # red; gray; half green
    assert redness(images, [""] * 3).tolist() == [1.0, 0.0, -0.25]


def test_relabelled_pairs_are_the_shipped_pictures_in_the_rewards_order(tmp_path):
    pairs, _ = data.read(relabelled(HACKABLE["redness"], tmp_path / "pairs.parquet"))
    shipped = {(pair.prompt, frozenset(image.digest for image in pair.images)): pair for pair in data.read(shapes.PAIRS)[0]}
    assert len(pairs) > 1200
    for side in (0, 1):
        scores = HACKABLE["redness"].score([pair.images[side].load() for pair in pairs[:200]], None)
        assert torch.allclose(scores, torch.tensor([pair.scores[side] for pair in pairs[:200]]), atol=1e-6)
    assert all(pair.scores[0] > pair.scores[1] for pair in pairs)
    same = [shipped[pair.prompt, frozenset(image.digest for image in pair.images)].chosen.digest == pair.chosen.digest for pair in pairs]
    assert 0.3 < sum(same) / len(same) < 0.7  # the judge has no say in it


def test_thresholds_and_results_share_no_seed():
    everyone = [seed for _, seeds, _ in PARTS.values() for seed in seeds]
    assert len(set(everyone)) == len(everyone) and len(PARTS["judged"][1]) == 5
    assert HACKED.learning_rate == 4 * TRAINING.learning_rate and PARTS["judged"][2] == TRAINING.max_train_steps
