"""What a reader did with every row."""

from dataclasses import dataclass, field


@dataclass
class Counts:
    """Rows read and kept; ``dropped`` by reason; ``ties`` kept at probability 0.5; ``repeated`` ids that were made distinct.

    Always ``read == kept + sum(dropped.values())``. ``ignored`` names the columns that no record uses.
    """

    read: int = 0
    kept: int = 0
    ties: int = 0
    repeated: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()

    def drop(self, reason: str):
        self.dropped[reason] = self.dropped.get(reason, 0) + 1

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
