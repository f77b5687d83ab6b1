"""The lab in numbers, for Prometheus.

Everything comes from the lab's own database when it is asked for: gauges are its state at that moment; counters and
histograms are the lines of its audit trail and the flashes in it since this program was started, each counted once by
its number, however seldom it is asked. As with every counter they begin at 0 when the program starts anew: use `rate`
and `increase`. What happens while the program does not run is in the audit trail, and not in these numbers.

Needs prometheus-client (the extra ``metrics``).
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from pytest_edgehil.errors import LeaseError
from pytest_edgehil.lab.inventory import Lab
from pytest_edgehil.lab.leases import AuditEvent, AuditLine, BoardState, BoardStatus, LabStore

LEASE_BUCKETS_S = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 24 * 3600.0)
FLASH_BUCKETS_S = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)
_ENDS = {
    AuditEvent.RELEASED: "released",
    AuditEvent.EXPIRED: "expired",
    AuditEvent.FORCE_RELEASED: "taken-away",
}


@dataclass(slots=True)
class Durations:
    """A histogram that is counted here.

    Args:
        limits_s: upper limits of its buckets, ascending; one without a limit follows.
    """

    limits_s: tuple[float, ...]
    counts: list[int] = field(init=False)
    total_s: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.limits_s) + 1)

    def add(self, seconds: float) -> None:
        """Count one more."""
        self.counts[sum(seconds > limit for limit in self.limits_s)] += 1
        self.total_s += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Upper limit → how many took no longer, as Prometheus wants them.

        >>> one = Durations((1.0, 5.0))
        >>> one.add(0.5), one.add(3.0), one.add(99.0)
        (None, None, None)
        >>> one.buckets()
        [('1.0', 1.0), ('5.0', 2.0), ('+Inf', 3.0)]
        """
        names = [*(f"{limit:.1f}" for limit in self.limits_s), "+Inf"]
        return [(name, float(sum(self.counts[: place + 1]))) for place, name in enumerate(names)]


class LabMetrics:
    """A collector for a `prometheus_client.CollectorRegistry`.

    Args:
        lab: the inventory.
        store: its database; what happened before now is not counted.
        clock: seconds since the epoch.
    """

    def __init__(self, lab: Lab, store: LabStore, *, clock: Callable[[], float]) -> None:
        self._lab = lab
        self._store = store
        self._clock = clock
        self._counting = threading.Lock()  # two may ask at once
        self._since_line = self._since_flash = 0
        self._begun: dict[int, float] = {}
        self._leases = {how: Durations(LEASE_BUCKETS_S) for how in _ENDS.values()}
        self._flashes = Durations(FLASH_BUCKETS_S)
        self._waits = Durations(LEASE_BUCKETS_S)
        self._sent_bytes = 0
        self._events: Counter[tuple[str, AuditEvent]] = Counter()
        for line in store.audit():
            self._follow(line, counting=False)
        for flash in store.flashes():
            self._since_flash = flash.number

    def collect(self) -> Iterator[Metric]:
        """Everything, as it is now; only ``edgehil_lab_up 0`` while the database does not answer."""
        up = GaugeMetricFamily("edgehil_lab_up", "Does the lab's database answer?", labels=["lab"])
        try:
            with self._counting:
                self._catch_up()
                found = [*self._boards(), *self._queue(), *self._counted()]
        except LeaseError:
            up.add_metric([self._lab.name], 0)
            yield up
            return
        up.add_metric([self._lab.name], 1)
        yield up
        yield from found

    # --- the state now -------------------------------------------------------------------------------

    def _boards(self) -> Iterator[Metric]:
        states = self._store.boards()
        counts = Counter(state.state for state in states)
        boards = GaugeMetricFamily("edgehil_boards", "Boards by state.", labels=["lab", "state"])
        for status in BoardStatus:
            boards.add_metric([self._lab.name, str(status)], counts[status])
        yield boards
        yield self._by_board(
            states,
            "edgehil_board_quarantined",
            "Is the board quarantined?",
            lambda state: float(state.state is BoardStatus.QUARANTINED),
        )
        yield self._by_board(
            states,
            "edgehil_board_failures",
            "Failures of the board in a row, within a day.",
            lambda state: float(state.failures),
        )
        yield self._by_board(
            states,
            "edgehil_board_held_seconds",
            "How long the holder has had the board; 0 when nobody holds it.",
            lambda state: (
                max(0.0, self._clock() - state.since)
                if state.state is BoardStatus.LEASED and state.since is not None
                else 0.0
            ),
        )
        yield from self._checks()

    def _by_board(
        self, states: tuple[BoardState, ...], name: str, text: str, value: Callable[[BoardState], float]
    ) -> Metric:
        family = GaugeMetricFamily(name, text, labels=["lab", "board", "class"])
        for state in states:
            family.add_metric([self._lab.name, state.board_id, self._lab.board(state.board_id).cls], value(state))
        return family

    def _checks(self) -> Iterator[Metric]:
        temperature = GaugeMetricFamily(
            "edgehil_board_temperature_celsius", "Temperature at the last check.", labels=["lab", "board"]
        )
        room = GaugeMetricFamily(
            "edgehil_board_disk_free_bytes", "Free on its disk at the last check.", labels=["lab", "board"]
        )
        age = GaugeMetricFamily(
            "edgehil_board_check_age_seconds", "How long ago the last check was.", labels=["lab", "board"]
        )
        known = {board.id for board in self._lab.boards}
        for board_id, last in sorted(self._store.checks().items()):
            if board_id not in known:
                continue
            labels = [self._lab.name, board_id]
            age.add_metric(labels, last.age_s)
            if last.checkup.temperature_c is not None:
                temperature.add_metric(labels, last.checkup.temperature_c)
            if last.checkup.disk_free_bytes is not None:
                room.add_metric(labels, last.checkup.disk_free_bytes)
        yield from (temperature, room, age)

    def _queue(self) -> Iterator[Metric]:
        queue = self._store.queue()
        now = self._clock()
        waits = [max(0.0, now - one.asked_at) for one in queue]
        for name, text, value in (
            ("edgehil_queue_length", "Requests that wait for boards.", float(len(queue))),
            ("edgehil_queue_oldest_seconds", "How long the oldest of them has waited.", max(waits, default=0.0)),
            ("edgehil_queue_wait_seconds", "How long all of them together have waited.", sum(waits)),
            (
                "edgehil_queue_hopeless",
                "Requests for which every board that would do is quarantined.",
                float(sum(one.waiting is not None and one.waiting.hopeless for one in queue)),
            ),
        ):
            family = GaugeMetricFamily(name, text, labels=["lab"])
            family.add_metric([self._lab.name], value)
            yield family

    # --- what has happened since we started ----------------------------------------------------------

    def _catch_up(self) -> None:
        for line in self._store.audit(after=self._since_line):
            self._follow(line, counting=True)
        for flash in self._store.flashes(after=self._since_flash):
            self._since_flash = flash.number
            self._flashes.add(flash.seconds)
            self._sent_bytes += flash.sent_bytes

    def _follow(self, line: AuditLine, *, counting: bool) -> None:
        self._since_line = line.number
        if counting:
            self._events[line.board_id, line.event] += 1
        if line.token is None:
            return
        if line.event is AuditEvent.LEASED:
            self._begun[line.token] = line.at
            if counting:
                self._waits.add(line.waited_s or 0.0)
        elif line.event in _ENDS:
            begun = self._begun.pop(line.token, None)
            if counting and begun is not None:
                self._leases[_ENDS[line.event]].add(max(0.0, line.at - begun))

    def _counted(self) -> Iterator[Metric]:
        lab = self._lab.name
        leases = HistogramMetricFamily(
            "edgehil_lease_seconds", "How long leases lasted, by how they ended.", labels=["lab", "ended"]
        )
        for how, durations in self._leases.items():
            leases.add_metric([lab, how], durations.buckets(), durations.total_s)
        waits = HistogramMetricFamily(
            "edgehil_lease_wait_seconds", "How long leases were waited for in the queue.", labels=["lab"]
        )
        waits.add_metric([lab], self._waits.buckets(), self._waits.total_s)
        flashes = HistogramMetricFamily("edgehil_flash_seconds", "How long flashing took.", labels=["lab"])
        flashes.add_metric([lab], self._flashes.buckets(), self._flashes.total_s)
        sent = CounterMetricFamily("edgehil_flash_sent_bytes", "Sent to boards when flashing.", labels=["lab"])
        sent.add_metric([lab], self._sent_bytes)
        yield from (leases, waits, flashes, sent)
        for event, name, text in (
            (AuditEvent.QUARANTINED, "edgehil_quarantines", "Quarantines."),
            (AuditEvent.RESTORED, "edgehil_restores", "Boards that were handed out again."),
            (AuditEvent.CHECK_FAILED, "edgehil_failed_checks", "Checks that a quarantined board did not pass."),
            (AuditEvent.LEASED, "edgehil_leases", "Leases."),
        ):
            family = CounterMetricFamily(name, text, labels=["lab", "board"])
            for board in self._lab.boards:
                family.add_metric([lab, board.id], self._events[board.id, event])
            yield family
