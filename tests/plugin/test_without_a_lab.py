"""No lab: tests that need a board skip and say what to pass, or fail if that was asked for; the others just run."""

import pytest

WORKERS = pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "n2"])

SUITE = """
    def test_on_a_board(dut):
        raise AssertionError("never reached")

    def test_on_the_host(rng):
        assert 0 <= rng.random() < 1
"""


@WORKERS
def test_board_tests_skip_and_say_what_to_pass(pytester, workers):
    pytester.makepyfile(SUITE)
    result = pytester.runpytest_subprocess("-rs", *workers)
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(["*no lab: pass --edgehil-lab FILE*"])
    assert "= edgehil =" not in result.stdout.str(), "there is nothing to say"
    assert result.ret == 0


@WORKERS
def test_require_makes_that_an_error(pytester, workers):
    pytester.makepyfile(SUITE)
    result = pytester.runpytest_subprocess("--edgehil-require", *workers)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*no lab: pass --edgehil-lab FILE*"])
    assert "Traceback" not in result.stdout.str()
    assert result.ret == 1


@WORKERS
def test_a_lab_that_does_not_exist_is_one_line(pytester, workers):
    pytester.makepyfile(SUITE)
    result = pytester.runpytest_subprocess("--edgehil-lab", "nowhere.yaml", *workers)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *nowhere.yaml*"])
    assert "Traceback" not in result.stderr.str()


@WORKERS
def test_a_malformed_lab_names_file_line_and_path(pytester, workers):
    pytester.makepyfile(SUITE)
    lab = pytester.makefile(".yaml", lab="lab: x\nboards:\n  b1:\n    class: c\n    environment: virtuall\n")
    result = pytester.runpytest_subprocess(f"--edgehil-lab={lab}", *workers)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*lab.yaml:5: boards.b1.environment: *virtual*"])
    assert "Traceback" not in result.stderr.str()


def test_the_rng_gives_a_test_the_same_numbers_in_every_run(pytester):
    pytester.makepyfile("""
        def test_numbers(rng):
            print("drawn", rng.integers(1 << 30))
    """)
    draws = []
    for seed in ("0", "0", "1"):
        result = pytester.runpytest_subprocess("-s", f"--edgehil-seed={seed}")
        draws.append([line for line in result.outlines if "drawn" in line])
    assert draws[0] == draws[1] != draws[2]


@WORKERS
@pytest.mark.parametrize(
    ("option", "line"),
    [
        ("--edgehil-wait=12 parsecs", "*--edgehil-wait: *12 parsecs*"),
        ("--edgehil-soak=soon", "*--edgehil-soak: *soon*"),
        ("--edgehil-environment=cloud", "*--edgehil-environment: *cloud*hardware*"),
    ],
)
def test_a_bad_option_is_one_line(pytester, workers, option, line):
    pytester.makepyfile(SUITE)
    result = pytester.runpytest_subprocess(option, *workers)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([line])
    assert "Traceback" not in result.stderr.str()
