"""A bad marker is one clear line at collection, with and without workers, and never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.standing_farm import StandingFarm, kept, once

# decorator, and the one line that its test must cost
BAD = (
    ('@pytest.mark.p95_latency("12 parsecs")', "test_it: p95_latency: *12 parsecs*duration*"),
    ('@pytest.mark.p95_latency("12")', "test_it: p95_latency: *unit is missing*"),
    ("@pytest.mark.p95_latency()", "test_it: p95_latency: *budget*"),
    ('@pytest.mark.p95_latency("12 ms", budgett=3)', "test_it: p95_latency: *budgett*"),
    ('@pytest.mark.peak_rss("12 ms")', "test_it: peak_rss: *size*"),
    ("@pytest.mark.token_kl('0.02 bits')", "test_it: token_kl: budget must be a number of nats *"),
    (
        "@pytest.mark.accuracy(agreement=0.9, baseline='a')\n@pytest.mark.cosine_similarity(0.9, baseline='b')",
        "test_it: baseline: *one baseline*accuracy names 'a'*",
    ),
    ("@pytest.mark.accuracy(agreeement=0.9)", "test_it: accuracy: *agreeement*did you mean*agreement*"),
    ("@pytest.mark.accuracy(agreement=98)", "test_it: accuracy: *98*"),
    ('@pytest.mark.combo(modell="x")', "test_it: combo: *modell*did you mean*model*"),
    ("@pytest.mark.combo(model=3)", "test_it: combo: model must be*"),
    ('@pytest.mark.board(environment="cloud")', "test_it: board: *cloud*hardware*"),
    ('@pytest.mark.board(timing="cycles")', "test_it: board: timing 'cycles' is none of wall, icount"),
    (
        "@pytest.mark.board(timing='icount')\n@pytest.mark.p95_latency('12 ms')",
        "test_it: p95_latency is held against seconds, and boards with timing: icount count instructions; run it on*",
    ),
    ('@pytest.mark.board(tags="cooled")', "test_it: board: tags must be a list*"),
    ("@pytest.mark.board(tags=5)", "test_it: board: tags must be a list*"),
    ('@pytest.mark.p95_latency("\\u0663 ms")', "test_it: p95_latency: *is no duration*"),
)


def suite(decorator: str, fixture: str = "dut") -> str:
    return f"import pytest\n\n{decorator}\ndef test_it({fixture}):\n    pass\n"


@pytest.fixture(scope="module", params=[(), ("-n2",)], ids=["alone", "n2"])
def collected(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> pytest.RunResult:
    """What one run says of a file for each bad marker, and of one more with a gate on a test without a device."""

    def collect(directory: Path) -> None:
        farm = StandingFarm(directory)
        for number, (decorator, _) in enumerate(BAD):
            farm.suite(suite(decorator), f"test_{number}.py")
        farm.suite(suite('@pytest.mark.p95_latency("12 ms")', fixture="tmp_path"), "test_no_device.py")
        farm.keep(farm.pytest(*request.param))

    return kept(once(tmp_path_factory, f"bad-markers{''.join(request.param)}", collect))


@pytest.mark.parametrize("number", range(len(BAD)), ids=[decorator for decorator, _ in BAD])
def test_a_bad_marker_is_one_line_at_collection(collected, number):
    """One line, which names the file and its line; that nothing else is said about it is shown below."""
    says = {line for line in collected.outlines if line.startswith(f"test_{number}.py:3: ")}  # each worker says it
    assert len(says) == 1, collected.outlines
    collected.stdout.fnmatch_lines([f"test_{number}.py:3: {BAD[number][1]}"])


def test_a_gate_on_a_test_without_a_device_is_refused(collected):
    collected.stdout.fnmatch_lines(
        ["test_no_device.py:3: test_it: p95_latency: nothing can be measured; the test must ask for*dut*"]
    )


def test_bad_markers_are_errors_and_neither_tracebacks_nor_internal_errors(collected):
    assert collected.ret in (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.TESTS_FAILED)  # the latter with workers
    assert len({line for line in collected.outlines if "ERROR collecting test_" in line}) == len(BAD) + 1
    output = collected.stdout.str() + collected.stderr.str()
    assert "INTERNALERROR" not in output
    assert "Traceback" not in output


def test_the_markers_are_documented(pytester):
    result = pytester.runpytest_subprocess("--markers")
    for name in (
        "combo",
        "board",
        "accuracy",
        "p95_latency",
        "peak_rss",
        "thermal",
        "soak",
        "size",
        "cold_start",
        "token_kl",
    ):
        result.stdout.fnmatch_lines([f"@pytest.mark.{name}(*"])


def test_the_markers_survive_strict_mode(pytester):
    pytester.makepyfile("""
        import pytest

        @pytest.mark.p95_latency("12 ms")
        def test_it(dut):
            pass
    """)
    result = pytester.runpytest_subprocess("--strict-markers", "--strict-config")
    result.assert_outcomes(skipped=1)
