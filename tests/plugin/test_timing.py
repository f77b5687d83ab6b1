"""What is held against seconds never reaches a board that counts instructions, and costs nobody one."""

from __future__ import annotations

from support.farm import Farm, replay_artifact

LAB = """
lab: counted
boards:
  emu-01: {class: c, environment: emulated, timing: icount, emulated: {image: never-built}}
"""


def test_no_board_that_counts_instructions_is_reserved_for_a_gate_in_milliseconds(farm: Farm) -> None:
    replay_artifact(farm.artifacts, name="steady")
    farm.lab.write_text(LAB)
    farm.pytester.makepyfile(
        """
        import pytest

        @pytest.mark.combo(model="steady")
        @pytest.mark.p95_latency("12 ms")
        def test_it(dut):
            pass
        """
    )
    (lab_has_none, asked_for) = (farm.run(), farm.run("--edgehil-timing=icount"))
    for result in (lab_has_none, asked_for):
        result.assert_outcomes(errors=1)
        assert farm.results["tests"][0]["board"] is None
        assert "reserve" not in [step["name"] for step in farm.results["tests"][0]["steps"] if not step["failed"]]
    lab_has_none.stdout.fnmatch_lines(
        ["*no board of * with timing wall; *emu-01: timing is icount, not wall: it counts instructions*"]
    )
    asked_for.stdout.fnmatch_lines(
        ["*p95_latency is held against seconds, and boards with timing: icount count instructions; run it on a board*"]
    )
