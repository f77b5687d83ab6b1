"""The plugin is loaded by every pytest run in its environment: it must be cheap, and must not drag things in."""

import subprocess
import sys

import pytest

HEAVY = (
    *("paramiko", "serial", "numpy", "scipy", "onnxruntime", "onnx", "sqlalchemy", "pydantic", "yaml"),
    *("allure", "allure_commons", "allure_pytest", "asyncssh", "securesystemslib", "tuf", "cryptography"),
)


def loaded_after(statement: str) -> set[str]:
    script = f"import sys, pytest; {statement}; print(*sorted(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=300)
    return set(done.stdout.split())


def test_importing_the_plugin_loads_nothing_heavy():
    assert loaded_after("import pytest_edgehil.plugin") == set()


def test_importing_the_plugin_makes_no_values_that_only_a_board_needs():
    script = "import sys, pytest, pytest_edgehil.plugin; print(*sorted(m for m in sys.modules if 'edgehil' in m))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=300)
    # dozens of dataclasses: five times what the plugin costs without them
    costly = ("model.artifact", "model.board", "model.record", "model.sample", "model.verdict", "gates.registry")
    assert not set(done.stdout.split()) & {f"pytest_edgehil.{name}" for name in costly}


def test_registering_the_markers_loads_nothing_heavy():
    assert loaded_after("import pytest_edgehil.gates.registry") == set()


@pytest.mark.parametrize("workers", [(), ("-n2",)], ids=["alone", "n2"])
def test_a_run_that_uses_nothing_of_ours_loads_nothing_heavy(pytester: pytest.Pytester, workers):
    heavy = tuple(name for name in HEAVY if name not in {"allure", "allure_commons", "allure_pytest", "yaml"})
    pytester.makepyfile(f"""
        import sys

        def test_loaded():
            assert not [name for name in {heavy!r} if name in sys.modules]
    """)
    result = pytester.runpytest_subprocess(*workers)
    result.assert_outcomes(passed=1)
