"""What allure-pytest does not know: verdicts, boards, steps and files, put into its results just before it closes them.

allure-pytest makes one result per attempt and closes it in `pytest_runtest_logfinish`; that fires Allure's hook
``report_result``, in which this sink, coming first, completes the result from the attempt's `TestRecord`. Which
result belongs to which record is not guessed: `attach` leaves a label in the result that is open at that moment,
through Allure's own hook, and ``report_result`` finds and removes it.

Registered with pytest's plugin manager, and only when ``allure_listener`` is there; it joins Allure's plugin manager
by itself when pytest configures it, and leaves it at the end. Nothing here may raise: an exception in these hooks
would take the whole result with it, so what cannot be attached is noted in the result instead.

When a worker dies, the test that it ran never reaches Allure (allure-python#825). Under xdist each worker therefore
leaves the identity of its running test in a file; the controller's sink makes a result of it (`crashed`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import mimetypes
import shutil
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import allure_commons
import pytest
from allure_commons.model2 import Attachment, Label, Parameter, StatusDetails, TestResult
from allure_commons.model2 import Status as AllureStatus
from allure_commons.utils import represent
from allure_pytest import utils as allure_pytest_utils

from pytest_edgehil.errors import ConfigError
from pytest_edgehil.model.record import TestRecord
from pytest_edgehil.reporting import format as fmt
from pytest_edgehil.reporting.allure_files import write_metrics
from pytest_edgehil.reporting.allure_html import description_html, plain_text_as_html
from pytest_edgehil.reporting.allure_result import add_labels, add_parameters, figures, milliseconds, set_status, steps
from pytest_edgehil.reporting.plots import album

SPOOL: Final = "allure-running"
"""Directory below the report directory, in which workers name the test that they run."""

MAX_ATTACHED_BYTES: Final = 8 * 2**20
"""Above this a browser is no good place for a file; a log is cut to its end, anything else is only named."""

_TICKET: Final = "edgehil-record"  # label that ties an open result to its record; never reaches a file


class AllureSink:
    """See above.

    Args:
        report_directory: what the paths of `TestRecord.files` are relative to; all processes of a run share it.
        allure_directory: what ``--alluredir`` names, for metrics; None takes it from pytest's options.
        inconclusive: Allure status of an undecided gate: ``broken``, ``skipped`` or ``unknown``.
        lab: becomes the host in Allure's timeline, with a lane per board; empty keeps the host's own name.
        board_is_identity: the run repeats tests on several boards: the board then tells their results apart, which
            would be taken for retries otherwise.

    Raises:
        ConfigError: `inconclusive` is something else.
    """

    def __init__(
        self,
        report_directory: Path,
        *,
        allure_directory: Path | None = None,
        inconclusive: str = "broken",
        lab: str = "",
        board_is_identity: bool = False,
    ) -> None:
        if inconclusive not in {"broken", "skipped", "unknown"}:
            raise ConfigError(
                f"edgehil_inconclusive: {inconclusive!r} is no Allure status for it; use broken, skipped or unknown"
            )
        self._report_directory = report_directory
        self._allure_directory = allure_directory
        self._inconclusive = inconclusive
        self._lab = lab
        self._board_is_identity = board_is_identity
        self._waiting: dict[str, TestRecord] = {}
        self._spool: Path | None = None

    # --- pytest --------------------------------------------------------------------------------------

    def pytest_configure(self, config: pytest.Config) -> None:
        """Join Allure's plugin manager; in an xdist worker, also prepare for a crash."""
        if self._allure_directory is None:
            self._allure_directory = Path(config.getoption("allure_report_dir"))
        workerinput: Mapping[str, Any] | None = getattr(config, "workerinput", None)
        if workerinput is not None:
            self._spool = _spool_file(self._report_directory, str(workerinput["workerid"]))
            self._spool.parent.mkdir(parents=True, exist_ok=True)
        allure_commons.plugin_manager.register(self)
        config.add_cleanup(self._leave)

    def _leave(self) -> None:
        allure_commons.plugin_manager.unregister(self)
        if self._spool is None:
            # the controller outlives its workers; one worker must not take the directory from under another
            shutil.rmtree(self._report_directory / SPOOL, ignore_errors=True)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Leave the test's identity behind, for the case that this worker dies of it."""
        if self._spool is not None:
            self._spool.write_text(json.dumps(_identity(item)), encoding="utf-8")

    def pytest_runtest_logfinish(self) -> None:
        """The test has come to its end; whatever happens to this worker now is not its crash."""
        if self._spool is not None:
            self._spool.unlink(missing_ok=True)

    # --- what the plugin calls -----------------------------------------------------------------------

    def attach(self, nodeid: str, record: TestRecord) -> None:
        """Complete the result that is open now from this record, once it is closed.

        Call it once per attempt, between allure-pytest's start of the attempt and ``pytest_runtest_logfinish``: in
        `pytest_runtest_makereport` of the teardown. Every attempt needs its own ``logfinish`` (with ``item.nodeid``
        itself: allure-pytest looks results up by the *identity* of that string), or two attempts share a result.
        """
        ticket = f"{nodeid}#{uuid.uuid4()}"
        self._waiting = {ticket: record}  # an older one whose result never came must not land in a newer result
        allure_commons.plugin_manager.hook.add_label(label_type=_TICKET, labels=[ticket])

    def crashed(self, record: TestRecord) -> None:
        """Controller only: write a result for a test whose worker died. Call it in ``pytest_handlecrashitem``.

        Args:
            record: names the test in `nodeid` and the dead worker in `worker`; its end is when the worker died, its
                start is taken from what the worker left.
        """
        identity = self._left_by(record)
        if "started_at" in identity:
            ended_at = record.started_at + record.duration_s
            record = dataclasses.replace(
                record, started_at=identity["started_at"], duration_s=max(0.0, ended_at - identity["started_at"])
            )
        result = TestResult(
            uuid=str(uuid.uuid4()),
            name=identity.get("name", record.nodeid.rsplit("::", 1)[-1]),
            fullName=identity.get("full_name", _full_name(record.nodeid)),
            titlePath=list(identity.get("title_path", record.nodeid.split("::", 1)[0].split("/"))),
            status=AllureStatus.BROKEN,
            labels=[Label(name=name, value=value) for name, value in identity.get("labels", ())],
            parameters=[Parameter(name=name, value=value) for name, value in identity.get("parameters", ())],
        )
        result.testCaseId = hashlib.md5(result.fullName.encode(), usedforsecurity=False).hexdigest()
        result.historyId = identity.get("history_id", result.testCaseId)
        result.statusDetails = StatusDetails(message=record.message)
        self._complete(result, record)
        allure_commons.plugin_manager.hook.report_result(result=result)

    def _left_by(self, record: TestRecord) -> dict[str, Any]:
        path = _spool_file(self._report_directory, record.worker)
        try:
            identity: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}  # it died before it wrote, or while it wrote: the node id must do
        path.unlink(missing_ok=True)
        return identity if identity.get("nodeid") == record.nodeid else {}

    def report_quarantined(self, quarantined: Mapping[str, str]) -> None:
        """Controller only: name quarantined boards on the report's page of global errors."""
        for board, reason in sorted(quarantined.items()):
            allure_commons.plugin_manager.hook.global_error(
                message=f"board {board} is quarantined: {fmt.without_board(board, reason)}",
                trace=f"It gets no more tests until somebody runs: edgehil lab restore {board}",
            )

    # --- Allure --------------------------------------------------------------------------------------

    @allure_commons.hookimpl(tryfirst=True)
    def report_result(self, result: Any) -> None:
        """Complete a result, if a record waits for it."""
        tickets = [one.value for one in result.labels if one.name == _TICKET]
        if not tickets:
            return
        result.labels = [one for one in result.labels if one.name != _TICKET]
        record = self._waiting.pop(tickets[-1], None)
        if record is not None:
            self._complete(result, record)

    def _complete(self, result: Any, record: TestRecord) -> None:
        # the whole attempt: allure-pytest counts the body only, and the board is busy while it is flashed
        result.start = milliseconds(record.started_at)
        result.stop = milliseconds(record.started_at + record.duration_s)
        set_status(result, record, inconclusive=self._inconclusive)
        told = result.descriptionHtml or plain_text_as_html(result.description or "")
        result.descriptionHtml, result.description = description_html(record, told=told), None
        add_labels(result, record, lab=self._lab)
        add_parameters(result, record, board_is_identity=self._board_is_identity)
        result.steps = sorted([*result.steps, *steps(record)], key=lambda one: one.start or 0)
        self._attach_files(result, record)
        assert self._allure_directory is not None
        try:
            write_metrics(self._allure_directory, record)
        except OSError as problem:
            self._note(result, "metrics", f"could not be written: {problem}")

    # --- attachments ---------------------------------------------------------------------------------

    def _attach_files(self, result: Any, record: TestRecord) -> None:
        for purpose, relative in record.files.items():
            if album.is_picture(relative):  # the controller draws it when the last test is done
                name = album.allure_name(record, relative)
                result.attachments.append(Attachment(name=purpose, source=name, type=_mime(Path(relative))))
        if record.verdicts:
            self._attach_bytes(result, "figures", figures(record.verdicts), "text/csv", ".csv")
        for purpose, relative in record.files.items():
            if album.is_picture(relative):
                continue
            path = self._report_directory / relative
            try:
                self._attach_file(result, purpose, path)
            except OSError as problem:
                self._note(result, purpose, f"{relative} could not be attached: {problem.strerror or problem}")

    def _attach_file(self, result: Any, purpose: str, path: Path) -> None:
        mime = _mime(path)
        size = path.stat().st_size
        if size <= MAX_ATTACHED_BYTES:
            name = _attachment_name("".join(path.suffixes[-2:]) or ".txt")
            allure_commons.plugin_manager.hook.report_attached_file(source=str(path), file_name=name)
            result.attachments.append(Attachment(name=purpose, source=name, type=mime))
        elif mime == "text/plain":
            with path.open("rb") as file:
                file.seek(-MAX_ATTACHED_BYTES, io.SEEK_END)
                tail = file.read().split(b"\n", 1)[-1]
            self._attach_bytes(result, f"{purpose} (end of {fmt.quantity(size, 'bytes')})", tail, mime, ".txt")
        else:
            self._note(result, purpose, f"{path.name} has {fmt.quantity(size, 'bytes')}; it is in the report directory")

    def _note(self, result: Any, purpose: str, text: str) -> None:
        self._attach_bytes(result, f"{purpose} (not attached)", text.encode(), "text/plain", ".txt")

    def _attach_bytes(self, result: Any, purpose: str, body: bytes, mime: str, suffix: str) -> None:
        name = _attachment_name(suffix)
        allure_commons.plugin_manager.hook.report_attached_data(body=body, file_name=name)
        result.attachments.append(Attachment(name=purpose, source=name, type=mime))


# --- a test whose worker died ------------------------------------------------------------------------


def _identity(item: pytest.Item) -> dict[str, Any]:
    """What allure-pytest would have written about a test, as far as it is known before it runs."""
    callspec = getattr(item, "callspec", None)
    values: Mapping[str, Any] = callspec.params if callspec is not None else {}
    full_name = allure_pytest_utils.allure_full_name(item)
    parameters = [
        Parameter(name=name, value=represent(value))  # type: ignore[no-untyped-call]
        for name, value in values.items()
    ]
    labels = [*allure_pytest_utils.allure_labels(item), *allure_pytest_utils.allure_suite_labels(item)]
    labels += [("tag", one) for one in allure_pytest_utils.pytest_markers(item)]
    labels += [("framework", "pytest"), ("package", allure_pytest_utils.allure_package(item))]
    return {
        "nodeid": item.nodeid,
        "name": item.name,
        "full_name": full_name,
        "title_path": list(allure_pytest_utils.allure_title_path(item)),
        "history_id": allure_pytest_utils.get_history_id(full_name, parameters, original_values=values),
        "started_at": time.time(),
        "labels": [[str(name), str(value)] for name, value in labels],
        "parameters": [[one.name, one.value] for one in parameters],
    }


def _full_name(nodeid: str) -> str:
    """allure-pytest's full name, made from a node id: ``package.module.Class#test``."""
    path, *rest = nodeid.partition("[")[0].split("::")
    module = path.removesuffix(".py").replace("/", ".")
    *classes, test = rest or [""]
    return ".".join([module, *classes]) + f"#{test}"


def _spool_file(report_directory: Path, worker: str) -> Path:
    return report_directory / SPOOL / f"{worker}.json"


# --- small things ------------------------------------------------------------------------------------


def _attachment_name(suffix: str) -> str:
    return f"{uuid.uuid4()}-attachment{suffix}"


def _mime(path: Path) -> str:
    if path.suffix in {".log", ".txt", ""}:
        return "text/plain"
    kind, encoding = mimetypes.guess_type(path.name)
    return "application/gzip" if encoding == "gzip" else kind or "application/octet-stream"
