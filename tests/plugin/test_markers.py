"""A bad marker is one clear line at collection, with and without workers, and never a traceback."""

import pytest

WORKERS = pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "n2"])


def collect(pytester: pytest.Pytester, decorator: str, *workers: str, fixture: str = "dut") -> pytest.RunResult:
    pytester.makepyfile(f"""
        import pytest

        {decorator}
        def test_it({fixture}):
            pass
    """)
    result = pytester.runpytest_subprocess(*workers)
    output = result.stdout.str() + result.stderr.str()
    assert "INTERNALERROR" not in output
    assert "Traceback" not in output
    return result


@WORKERS
@pytest.mark.parametrize(
    ("decorator", "line"),
    [
        ('@pytest.mark.p95_latency("12 parsecs")', "*test_*.py:3: test_it: p95_latency: *12 parsecs*duration*"),
        ('@pytest.mark.p95_latency("12")', "*test_it: p95_latency: *unit is missing*"),
        ("@pytest.mark.p95_latency()", "*test_it: p95_latency: *budget*"),
        ('@pytest.mark.p95_latency("12 ms", budgett=3)', "*test_it: p95_latency: *budgett*"),
        ('@pytest.mark.peak_rss("12 ms")', "*test_it: peak_rss: *size*"),
        ("@pytest.mark.accuracy(agreeement=0.9)", "*test_it: accuracy: *agreeement*did you mean*agreement*"),
        ("@pytest.mark.accuracy(agreement=98)", "*test_it: accuracy: *98*"),
        ('@pytest.mark.combo(modell="x")', "*test_it: combo: *modell*did you mean*model*"),
        ("@pytest.mark.combo(model=3)", "*test_it: combo: model must be*"),
        ('@pytest.mark.board(environment="cloud")', "*test_it: board: *cloud*hardware*"),
        ('@pytest.mark.board(tags="cooled")', "*test_it: board: tags must be a list*"),
        ("@pytest.mark.board(tags=5)", "*test_it: board: tags must be a list*"),
        ('@pytest.mark.p95_latency("\\u0663 ms")', "*test_it: p95_latency: *is no duration*"),
    ],
)
def test_a_bad_marker_is_one_line_at_collection(pytester, workers, decorator, line):
    result = collect(pytester, decorator, *workers)
    assert result.ret != 0
    result.stdout.fnmatch_lines([line])


@WORKERS
def test_a_gate_on_a_test_without_a_device_is_refused(pytester, workers):
    result = collect(pytester, '@pytest.mark.p95_latency("12 ms")', *workers, fixture="tmp_path")
    assert result.ret != 0
    result.stdout.fnmatch_lines(["*test_it: p95_latency: nothing can be measured; the test must ask for*dut*"])


def test_the_markers_are_documented(pytester):
    result = pytester.runpytest_subprocess("--markers")
    for name in ("combo", "board", "accuracy", "p95_latency", "peak_rss", "thermal", "soak", "size", "cold_start"):
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
