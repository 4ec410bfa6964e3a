"""What a reader did with every row."""

from dataclasses import dataclass, field

TOLD = 20  # sentences kept about bad rows


@dataclass
class Counts:
    """Rows read and kept; ``dropped`` by reason; ``ties`` kept at probability 0.5; ``repeated`` ids that were made distinct.

    Always ``read == kept + sum(dropped.values())``. ``ignored`` names the columns that no record uses. ``bad``: what was wrong with the
    first ``TOLD`` of the rows that could not be used.
    """

    read: int = 0
    kept: int = 0
    ties: int = 0
    repeated: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    bad: list[str] = field(default_factory=list)

    def drop(self, reason: str, sentence: str | None = None):
        """``sentence``: what is wrong with the row, where something is."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1
        if sentence is not None and len(self.bad) < TOLD:
            self.bad.append(sentence)

    def __str__(self) -> str:
        parts = [f"{self.read} read", f"{self.kept} kept"]
        if self.ties:
            parts.append(f"{self.ties} of them ties")
        if self.repeated:
            parts.append(f"{self.repeated} repeated ids made distinct")
        if self.dropped:
            reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(self.dropped.items()))
            parts.append(f"{sum(self.dropped.values())} dropped ({reasons})")
        if self.ignored:
            parts.append(f"columns not used: {', '.join(self.ignored)}")
        return ", ".join(parts)
