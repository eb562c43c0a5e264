"""One measured figure with everything beside it, and the result file that holds all of them."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Peer:
    """Another library. value: in the unit of what it stands beside, None where it has none (`note` says why).

    peak: GiB. recorded: measured earlier, elsewhere on the same model of GPU.
    """

    name: str
    value: float | None = None
    peak: float | None = None
    recorded: bool = False
    note: str = ""

    @property
    def label(self) -> str:
        return self.name + (" (recorded)" if self.recorded else "") + (f": {self.note}" if self.note else "")


@dataclass(frozen=True)
class Measured:
    """value: in `unit`, None if the case failed, and then `failed` says why.

    low, high: the middle 80 % of all runs. floors: ms that each kind of work takes at least. peak: GiB,
    everything held during the pass, inputs included. target: an upper bound of times, peaks and errors, a
    lower bound of other units.
    """

    name: str
    value: float | None = None
    unit: str = "ms"
    low: float | None = None
    high: float | None = None
    floors: dict[str, float] = field(default_factory=dict)
    target: float | None = None
    peer: Peer | None = None
    peak: float | None = None
    peak_target: float | None = None
    failed: str = ""

    @property
    def floor(self) -> float | None:
        return max(self.floors.values(), default=None)

    @property
    def over_floor(self) -> float | None:
        return self.value / self.floor if self.floor and self.value is not None else None

    @property
    def less_is_better(self) -> bool:
        """Whether the target is an upper bound."""
        return self.unit in ("ms", "s", "GiB", "nats", "differ")

    @property
    def met(self) -> bool | None:
        """Whether all targets are reached; None without any."""
        if self.target is None and self.peak_target is None:
            return None
        if self.value is None:
            return False
        reached = self.target is None or (
            self.value <= self.target if self.less_is_better else self.value >= self.target
        )
        return reached and (self.peak_target is None or self.peak is None or self.peak <= self.peak_target)


def records(measured: Measured) -> list[dict[str, Any]]:
    """The figure as records of a result file: one of the value, and one of the peak where there is one."""
    record: dict[str, Any] = {
        "name": measured.name,
        "value": _rounded(measured.value),
        "unit": measured.unit,
        "low": _rounded(measured.low),
        "high": _rounded(measured.high),
        "floor": _rounded(measured.floor),
        **{f"floor_{kind}": _rounded(value) for kind, value in measured.floors.items()},
        "target": measured.target,
        "failed": measured.failed or None,
    }
    peak: dict[str, Any] = {
        "name": f"{measured.name} peak",
        "value": _rounded(measured.peak),
        "unit": "GiB",
        "target": measured.peak_target,
    }
    if (peer := measured.peer) is not None:
        record |= {"peer": peer.label, "peer_value": peer.value}
        if peer.peak is not None or peer.note:
            peak |= {"peer": peer.label, "peer_value": peer.peak}
    if measured.failed and measured.peak_target is not None:
        peak["failed"] = measured.failed
    elif measured.peak is None:
        return [_without_none(record)]
    return [_without_none(record), _without_none(peak)]


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")


def _without_none(record: dict[str, Any]) -> dict[str, Any]:
    # A value that is None stays: the case was run, and failed.
    return {key: value for key, value in record.items() if value is not None or key == "value"}
