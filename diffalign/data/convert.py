"""One source of preferences as another: pairs as labels or rankings, rankings as pairs. What is not in the data is not made up."""

from collections.abc import Sequence
from typing import Any

from diffalign.data.records import Label, Pair, Ranking, Record

SOURCES = {"pairs": Pair, "labels": Label, "rankings": Ranking}


def check_source(source: str) -> None:
    """Raises ValueError for what no data is read as or converted to, such as the scores that some objectives take."""
    if source not in SOURCES:
        raise ValueError(
            f"this objective takes {source}, and no data is read or converted to these (it gives {', '.join(SOURCES)}): "
            "choose an objective that takes one of them, or call it yourself"
        )


def as_source(records: Sequence[Record], source: str) -> tuple[list[Record], str | None]:
    """The records as ``pairs``, ``labels`` or ``rankings``, and a line that says what was done (None where nothing was).

        pairs -> labels       the chosen image is good, the rejected one bad; ties say neither and are left out. As Diffusion-KTO made
                              its labels from Pick-a-Pic (arXiv:2404.04465)
                              *Deviates:* there an image that won some of its pairs and lost others got no label; here each pair counts
        pairs -> rankings     of two, the probability that an image is the better one as its score
        rankings -> pairs     the best against the worst; where these tie there is no pair
        rankings -> labels    through pairs

    Prompt, weight, mask and origin go with what is made.

    Raises:
        ValueError: another source, labels asked for as pairs or rankings (they have no partner), records of several kinds, or nothing left.
    """
    check_source(source)
    kinds = {name for name, kind in SOURCES.items() if any(isinstance(record, kind) for record in records)}
    if len(kinds) != 1:
        raise ValueError(f"the data holds {' and '.join(sorted(kinds)) or 'no records'}; give records of one kind")
    given = kinds.pop()
    if given == source:
        return list(records), None
    if given == "labels":
        raise ValueError(
            f"the method takes {source} and the data holds labels, which have no partner: give pairs or rankings, or use "
            "a method for labels (diffusion-kto)"
        )
    if given == "rankings":
        pairs = [pair for record in records if (pair := _best_against_worst(record)) is not None]
        if not pairs:
            raise ValueError("the method takes pairs and every ranking of the data is a tie: give ranks or scores that differ")
        made = pairs if source == "pairs" else as_source(pairs, source)[0]
        return made, f"{len(records)} rankings as {len(made)} {source}: the best against the worst of each"
    if source == "labels":
        clear = [pair for pair in records if not pair.is_tie]
        made = [label for pair in clear for label in _labels(pair)]
        if not made:
            raise ValueError("the method takes labels and every pair of the data is a tie, which says neither good nor bad")
        return made, f"{len(records)} pairs as {len(made)} labels: chosen images are good, rejected ones bad"
    return [_ranking(pair) for pair in records], f"{len(records)} pairs as rankings of two"


def _labels(pair: Pair) -> tuple[Label, Label]:
    better, worse = (pair.chosen, pair.rejected) if pair.probability > 0.5 else (pair.rejected, pair.chosen)
    return (
        Label(f"{pair.id}/good", pair.prompt, better, True, **_kept(pair)),
        Label(f"{pair.id}/bad", pair.prompt, worse, False, **_kept(pair)),
    )


def _ranking(pair: Pair) -> Ranking:
    scores = (pair.probability, 1 - pair.probability)
    return Ranking(pair.id, pair.prompt, pair.images, scores=scores, **_kept(pair))


def _best_against_worst(ranking: Ranking) -> Pair | None:
    goodness = relevance(ranking)
    best, worst = goodness.index(max(goodness)), goodness.index(min(goodness))
    if goodness[best] == goodness[worst]:
        return None
    scores = ranking.scores and (ranking.scores[best], ranking.scores[worst])
    images = ranking.samples[best], ranking.samples[worst]
    return Pair(ranking.id, ranking.prompt, *images, scores=scores, **_kept(ranking))


def _kept(record: Record) -> dict[str, Any]:
    return {"weight": record.weight, "mask": record.mask, "origin": record.origin}


def relevance(ranking: Ranking) -> tuple[float, ...]:
    """How good each sample is, higher is better: the scores, or, of ranks alone, 1 - (samples that are better)/(k - 1), from 1 for the best
    of k to 0. Only the order of ranks counts, so 1, 3, 20 are 1, 2, 3."""
    if ranking.scores is not None:
        return ranking.scores
    most = len(ranking.samples) - 1
    return tuple(1 - sum(other < rank for other in ranking.ranks) / most for rank in ranking.ranks)
