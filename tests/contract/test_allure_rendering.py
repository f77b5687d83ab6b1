"""Our Allure results, rendered by Allure 3 itself and looked at in a real browser.

What Allure does with the files is no concern of the sink's unit tests; here Allure is asked.
"""

from __future__ import annotations

import functools
import html
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from support import allure_cli
from support.allure_project import make_project, run_project

pytestmark = [pytest.mark.needs("allure"), pytest.mark.timeout(900)]

# Allure shows a description in a frame without scripts; its own page may look into it
PROBE = """<script>
setInterval(() => {
  const frame = document.querySelector("iframe[data-testid=test-result-description-frame]");
  const cell = [...(frame?.contentDocument?.querySelectorAll("td") ?? [])]
    .find((one) => one.innerText.includes("p95_latency"));
  if (!cell) return;
  const table = cell.closest("table"), cells = [...table.querySelectorAll("td, th")];
  const within = frame.getBoundingClientRect();
  const boxes = cells.map((one) => one.getBoundingClientRect());
  document.documentElement.dataset.probe = JSON.stringify({
    text: table.innerText,
    shown: [frame, ...cells].every((one) => one.checkVisibility({opacityProperty: true, visibilityProperty: true})),
    top: within.top + Math.min(...boxes.map((one) => one.top)), height: innerHeight,
    cutOff: boxes.some((one) => one.right > within.width + 1 || one.bottom > within.height + 1),
    chips: [...table.querySelectorAll("span")].map((one) => [one.innerText, getComputedStyle(one).backgroundColor]),
  });
}, 50);
</script>"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("rendering")
    make_project(directory)
    results = run_project(directory, "-n2", "--clean-alluredir", WORKER_DIES="1")
    allure_cli.generate(results, directory / "site")
    return directory / "site"


def pages(site: Path) -> dict[str, Any]:
    found = [json.loads(one.read_bytes()) for one in (site / "data" / "test-results").glob("*.json")]
    return {one["name"]: one for one in found}


def widget(site: Path, name: str) -> Any:
    return json.loads((site / "widgets" / f"{name}.json").read_bytes())


def test_every_test_is_in_the_report_with_its_category(site: Path) -> None:
    found = {name: [one["name"] for one in page.get("categories", [])] for name, page in pages(site).items()}
    assert found == {
        "test_digits": [],
        "test_survives": [],
        "test_without_a_board": [],
        "test_parity[8]": [],
        "test_parity[16]": ["Gate or assertion missed"],
        "test_coarse": ["Gate or assertion missed"],
        "test_close_call": ["Gate not decided"],
        "test_hot": ["Measurement not valid"],
        "test_nobody_left": ["Board, link or lab broke"],
        "test_typo": ["Bug of a test or of its tools"],
        "test_dies[kill]": ["Bug of a test or of its tools"],
    }


def test_a_category_leads_to_the_board(site: Path) -> None:
    (category,) = pages(site)["test_coarse"]["categories"]
    assert ("board", "pi5-02") in {(one["key"], one["value"]) for one in category["grouping"]}


def test_the_step_of_a_missed_gate_is_red(site: Path) -> None:
    judge = pages(site)["test_coarse"]["steps"][4]
    assert (judge["name"], judge["status"]) == ("judge", "failed")
    assert [one["status"] for one in judge["steps"]] == ["failed", "failed", "passed"]


def test_the_metrics_page_has_every_gate_that_counts(site: Path) -> None:
    keys = {one["key"] for one in widget(site, "metrics")["current"]}
    assert "p95_latency_ms|digits int8-static|pi5-8gb-hat2|virtual|test_digits" in keys
    assert not any("test_hot" in one for one in keys)


def test_quarantined_boards_and_the_lab_are_on_the_front_page(site: Path) -> None:
    assert "board pi5-04 is quarantined" in json.dumps(widget(site, "globals"))
    environment = {one["name"]: one["values"] for one in widget(site, "allure_environment")}
    assert environment["board classes"] == ["pi5-4gb, pi5-8gb-hat2"]


def test_the_timeline_has_the_boards_as_lanes(site: Path) -> None:
    assert {"pi5-01", "pi5-02", "pi5-03"} <= set(re.findall(r'"(pi5-\d\d)"', json.dumps(widget(site, "timeline"))))


# --- in a browser ------------------------------------------------------------------------------------


class Probing(SimpleHTTPRequestHandler):
    """Serves the report; its page tells where the verdict table is."""

    def do_GET(self) -> None:
        if self.path.split("?", 1)[0] not in {"/", "/index.html"}:
            super().do_GET()
            return
        assert self.directory is not None
        page = (Path(self.directory) / "index.html").read_text(encoding="utf-8")
        body = page.replace("</head>", f"{PROBE}</head>", 1).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class calls it so
        """Keep quiet."""


@pytest.fixture
def address(site: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Probing, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join(timeout=10)


def probed(address: str, page: str, profile: Path) -> dict[str, Any]:
    """What the browser shows of the verdict table on a test's page when nobody has clicked yet."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    assert browser is not None
    quiet = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={profile}", "--window-size=1280,1000", "--virtual-time-budget=20000",
    ]  # fmt: skip
    dump = subprocess.run(
        [browser, *quiet, "--dump-dom", f"{address}/index.html#{page}"],
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    ).stdout
    match = re.search(r'data-probe="([^"]*)"', dump)
    assert match is not None, "there is no verdict table on the page"
    told: dict[str, Any] = json.loads(html.unescape(match[1]))
    return told


@pytest.mark.needs("chromium")
def test_the_verdict_table_is_seen_without_a_click(site: Path, address: str, tmp_path: Path) -> None:
    table = probed(address, pages(site)["test_coarse"]["id"], tmp_path / "profile")
    assert table["shown"]
    assert table["top"] < table["height"], "it begins below the fold"
    assert not table["cutOff"]
    for needed in ("16.2 ms", "≤ 12 ms", "15.6–17 ms", "480", "FAIL", "81.2 %", "PASS"):
        assert needed in table["text"]
    chips = dict(table["chips"])
    assert chips["FAIL"] == "rgb(207, 34, 46)", "colours survive Allure's sanitiser"
    assert chips["PASS"] == "rgb(26, 127, 55)"
