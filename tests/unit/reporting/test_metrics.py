"""The lab in numbers: what is served, from where it comes, and that dashboard and rules ask for nothing else."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.parser import text_string_to_metric_families
from support.clocks import FakeClock
from support.lab_files import make_lab
from support.memory_leases import MemoryLeaseStore

from pytest_edgehil.errors import LeaseError
from pytest_edgehil.lab.health import Checkup
from pytest_edgehil.lab.inventory import Lab
from pytest_edgehil.lab.leases import Holder
from pytest_edgehil.reporting.metrics import LabMetrics

CI = Holder(name="ci-840", host="runner-1", pid=11, user="ci")
FARM_FILES = Path(__file__).parents[3] / "farm"


class Served:
    """What a scrape brings."""

    def __init__(self, lab: Lab, clock: FakeClock) -> None:
        self.lab = lab
        self.clock = clock
        self.store = MemoryLeaseStore.of(lab, clock=clock)
        self.registry = CollectorRegistry()

    def start(self) -> None:
        self.registry.register(LabMetrics(self.lab, self.store, clock=self.clock))

    def value(self, name: str, **labels: str) -> float:
        found = self.registry.get_sample_value(name, {"lab": "test-farm", **labels})
        assert found is not None, f"{name} {labels} is not served"
        return found

    def lease(self, board_id: str = "bare-1", *, expiry_s: float = 600.0):
        leases = self.store.acquire([[board_id]], holder=CI, expiry_s=expiry_s)
        assert leases is not None
        return leases[0]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    return Served(make_lab(tmp_path), FakeClock())


def test_boards_are_counted_by_state(served):
    served.start()
    served.lease()
    served.store.quarantine("hat-1", reason="hot", by=CI, automatic=True)
    served.clock.advance(30)
    assert {state: served.value("edgehil_boards", state=state) for state in ("free", "leased", "quarantined")} == {
        "free": 2,
        "leased": 1,
        "quarantined": 1,
    }
    assert served.value("edgehil_boards", state="maintenance") == 0
    labels = {"board": "hat-1", "class": "pi5-8gb-hat2"}
    assert served.value("edgehil_board_quarantined", **labels) == 1
    assert served.value("edgehil_board_failures", **labels) == 1
    assert served.value("edgehil_board_held_seconds", board="bare-1", **{"class": "pi5-4gb"}) == 30
    assert served.value("edgehil_lab_up") == 1


def test_who_waits_and_for_how_long(served):
    served.start()
    served.lease()
    served.store.quarantine("bare-2", reason="hot", by=CI)
    with (
        served.store.queue_up([["bare-1"]], holder=CI, expiry_s=600) as first,
        served.store.queue_up([["bare-2"]], holder=CI, expiry_s=600) as second,
    ):
        first.advance()
        served.clock.advance(20)
        second.advance()
        served.clock.advance(5)
        assert served.value("edgehil_queue_length") == 2
        assert served.value("edgehil_queue_oldest_seconds") == 25
        assert served.value("edgehil_queue_wait_seconds") == 30
        assert served.value("edgehil_queue_hopeless") == 1
    assert served.value("edgehil_queue_length") == 0
    assert served.value("edgehil_lease_wait_seconds_count") == 1  # that of the board which was had at once
    assert served.value("edgehil_lease_wait_seconds_sum") == 0


def test_how_long_leases_were_waited_for(served):
    served.start()
    held = served.lease()
    with served.store.queue_up([["bare-1"]], holder=CI, expiry_s=600) as place:
        place.advance()
        served.clock.advance(20)
        served.store.release(held)
        assert isinstance(place.advance(), tuple)
    assert served.value("edgehil_lease_wait_seconds_count") == 2
    assert served.value("edgehil_lease_wait_seconds_sum") == 20


def test_leases_are_counted_once_when_they_end_with_how_long_they_lasted(served):
    earlier = served.lease("bare-2")
    served.store.quarantine("hat-1", reason="hot", by=CI)
    served.start()
    assert served.value("edgehil_quarantines_total", board="hat-1") == 0  # that was before

    served.clock.advance(20)
    served.store.release(earlier)  # begun before, ended now: it counts
    mine = served.lease()
    served.clock.advance(3)
    served.store.release(mine)
    served.lease(expiry_s=100)
    served.clock.advance(500)
    served.lease()  # the one before has expired meanwhile
    served.store.force_release("bare-1", by=CI, reason="stuck")
    for _ in range(2):  # asking again counts nothing twice
        assert served.value("edgehil_lease_seconds_count", ended="released") == 2
        assert served.value("edgehil_lease_seconds_sum", ended="released") == 23
        assert served.value("edgehil_lease_seconds_bucket", ended="released", le="5.0") == 1
        assert served.value("edgehil_lease_seconds_bucket", ended="released", le="+Inf") == 2
        assert served.value("edgehil_lease_seconds_sum", ended="expired") == 100
        assert served.value("edgehil_lease_seconds_count", ended="taken-away") == 1
        assert served.value("edgehil_leases_total", board="bare-1") == 3


def test_flashes_quarantines_and_checks(served):
    mine = served.lease()
    served.store.note_flash(mine, label="before", seconds=1.0, sent_bytes=1)
    served.start()
    served.store.note_flash(mine, label="digits", seconds=2.5, sent_bytes=4096)
    served.store.quarantine("hat-1", reason="hot", by=CI, automatic=True)
    served.store.note_check("hat-1", Checkup(complaint="hot", temperature_c=91.0), by=CI)
    served.store.note_check("hat-1", Checkup(temperature_c=41.0, disk_free_bytes=4096), by=CI)
    served.clock.advance(7)
    assert served.value("edgehil_flash_seconds_count") == 1
    assert served.value("edgehil_flash_seconds_sum") == 2.5
    assert served.value("edgehil_flash_seconds_bucket", le="5.0") == 1
    assert served.value("edgehil_flash_seconds_bucket", le="2.0") == 0
    assert served.value("edgehil_flash_sent_bytes_total") == 4096
    assert served.value("edgehil_quarantines_total", board="hat-1") == 1
    assert served.value("edgehil_failed_checks_total", board="hat-1") == 1
    assert served.value("edgehil_restores_total", board="hat-1") == 1
    assert served.value("edgehil_board_temperature_celsius", board="hat-1") == 41
    assert served.value("edgehil_board_disk_free_bytes", board="hat-1") == 4096
    assert served.value("edgehil_board_check_age_seconds", board="hat-1") == 7


def test_a_database_that_does_not_answer_is_a_number_too(served, monkeypatch):
    served.start()

    def silent() -> None:
        raise LeaseError("the lease database does not answer")

    monkeypatch.setattr(served.store, "boards", silent)
    assert served.value("edgehil_lab_up") == 0
    assert served.registry.get_sample_value("edgehil_queue_length", {"lab": "test-farm"}) is None


def test_it_is_served_over_http_in_a_form_that_prometheus_reads(served):
    served.start()
    server, thread = start_http_server(0, addr="127.0.0.1", registry=served.registry)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics", timeout=30) as answer:
            text = answer.read().decode()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert {"edgehil_boards", "edgehil_lease_seconds"} <= {one.name for one in text_string_to_metric_families(text)}


# --- the dashboard and the rules ---------------------------------------------------------------------------


def names_served(served: Served) -> set[str]:
    """Every name of a sample, also of those that have no board yet."""
    served.store.note_check("hat-1", Checkup(temperature_c=41.0, disk_free_bytes=4096), by=CI)
    served.start()
    families = text_string_to_metric_families(generate_latest(served.registry).decode())
    return {sample.name for family in families for sample in family.samples}


def asked_for(expression: str) -> set[str]:
    return set(re.findall(r"\bedgehil_[a-z_]+", expression))


def test_the_dashboard_asks_for_nothing_that_is_not_served(served):
    dashboard = json.loads((FARM_FILES / "grafana-lab.json").read_text())
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    assert len(expressions) >= len(panels) >= 8
    for panel in panels:
        assert all(asked_for(target["expr"]) for target in panel["targets"]), panel["title"]
    variables = [one["query"]["query"] for one in dashboard["templating"]["list"] if one["type"] == "query"]
    served_names = names_served(served)
    for expression in expressions + variables:
        assert asked_for(expression) <= served_names, expression
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_the_rules_ask_for_nothing_that_is_not_served_and_say_what_to_do(served):
    rules = yaml.safe_load((FARM_FILES / "prometheus-rules.yaml").read_text())
    served_names = names_served(served)
    alerts = [rule for group in rules["groups"] for rule in group["rules"]]
    assert len(alerts) >= 6
    for rule in alerts:
        assert asked_for(rule["expr"]), rule
        assert asked_for(rule["expr"]) <= served_names, rule["expr"]
        assert set(rule["annotations"]) >= {"summary", "description"}
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert re.fullmatch(r"\d+[smhd]", rule["for"])


# series as in https://prometheus.io/docs/prometheus/latest/configuration/unit_testing_rules/: value+step x times
FIRES = {
    "EdgehilLabDatabaseSilent": 'edgehil_lab_up{lab="farm"}: 0x120',
    "EdgehilMetricsGone": 'up{lab="farm"}: 1x120',
    "EdgehilNoHealthyBoard": 'edgehil_queue_hopeless{lab="farm"}: 2x120',
    "EdgehilBoardQuarantined": 'edgehil_board_quarantined{lab="farm",board="b1",class="pi5"}: 1x120',
    "EdgehilBoardComesAndGoes": 'edgehil_board_failures{lab="farm",board="b1",class="pi5"}: 3x120',
    "EdgehilManyQuarantines": 'edgehil_quarantines_total{lab="farm",board="b1",class="pi5"}: 0+1x120',
    "EdgehilLongQueue": 'edgehil_queue_oldest_seconds{lab="farm"}: 1801x120',
    "EdgehilLeasesExpire": 'edgehil_lease_seconds_count{lab="farm",ended="expired",class="pi5"}: 0+1x120',
}
HEALTHY = (
    'edgehil_lab_up{lab="farm"}: 1x120',
    'edgehil_queue_hopeless{lab="farm"}: 0x120',
    'edgehil_board_quarantined{lab="farm",board="b1",class="pi5"}: 0x120',
    'edgehil_board_failures{lab="farm",board="b1",class="pi5"}: 1x120',
    'edgehil_quarantines_total{lab="farm",board="b1",class="pi5"}: 3x120',
    'edgehil_queue_oldest_seconds{lab="farm"}: 60x120',
    'edgehil_lease_seconds_count{lab="farm",ended="expired",class="pi5"}: 4x120',
    'edgehil_lease_seconds_count{lab="farm",ended="released",class="pi5"}: 0+9x120',
)


def promtool(*arguments: str) -> str:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.needs("promtool")
def test_promtool_accepts_the_rules_and_every_expression_of_the_dashboard(tmp_path: Path):
    rules = FARM_FILES / "prometheus-rules.yaml"
    dashboard = json.loads((FARM_FILES / "grafana-lab.json").read_text())
    expressions = [one["expr"] for panel in dashboard["panels"] for one in panel.get("targets", ())]
    asked = [{"record": f"panel:{number}", "expr": one} for number, one in enumerate(expressions)]
    (tmp_path / "panels.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": asked}]}))

    told = promtool("check", "rules", str(rules), str(tmp_path / "panels.yaml"))

    assert f"SUCCESS: {len(FIRES)} rules found" in told
    assert f"SUCCESS: {len(expressions)} rules found" in told


@pytest.mark.needs("promtool")
def test_each_alert_fires_when_it_should_and_none_in_a_healthy_lab(tmp_path: Path):
    def series(*lines: str) -> list[dict[str, str]]:
        return [dict(zip(("series", "values"), line.split(": "), strict=True)) for line in lines]

    rules = yaml.safe_load((FARM_FILES / "prometheus-rules.yaml").read_text())
    alerts = {rule["alert"]: rule for group in rules["groups"] for rule in group["rules"]}
    assert set(alerts) == set(FIRES)
    ill = [
        {
            "interval": "1m",
            "input_series": series(line),
            # how many: an alert's labels and texts are its own
            "promql_expr_test": [
                {
                    "expr": f'count(ALERTS{{alertname="{name}",alertstate="firing"}})',
                    "eval_time": "110m",
                    "exp_samples": [{"labels": "{}", "value": 1}],
                }
            ],
        }
        for name, line in FIRES.items()
    ]
    well = {
        "interval": "1m",
        "input_series": series(*HEALTHY),
        "promql_expr_test": [{"expr": "ALERTS", "eval_time": "110m", "exp_samples": []}],
    }
    cases = {"rule_files": [str((FARM_FILES / "prometheus-rules.yaml").resolve())], "tests": [*ill, well]}
    (tmp_path / "cases.yaml").write_text(yaml.safe_dump(cases))

    assert "SUCCESS" in promtool("test", "rules", str(tmp_path / "cases.yaml"))
