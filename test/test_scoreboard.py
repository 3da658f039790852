"""The scoreboard: the order of the commands, and the table that comes out."""

import argparse
import json
from pathlib import Path

import pytest

from disguisor_ros.errors import UserError
from disguisor_ros.eval import scoreboard
from disguisor_ros.eval.summary import summarize


def arguments(*options):
    parser = argparse.ArgumentParser()
    scoreboard.add_arguments(parser)
    return parser.parse_args([str(option) for option in options])


@pytest.fixture
def commands(monkeypatch):
    calls = []

    def pretend(*call):
        calls.append([str(part) for part in call])
        if call[0] == "simulate":
            call[-1].mkdir()
        if call[0] == "evaluate":
            report = Path(calls[-1][calls[-1].index("--report") + 1])
            report.mkdir(exist_ok=True)
            score = summarize([]) | {
                "latency_ms": 120.5, "frames": {"frames_in": 8, "frames_out": 7},
                "peers": {"deface": {"recall_iou40": 0.5, "pixel_coverage": 0.25}},
            }  # fmt: skip
            (report / "scores.json").write_text(json.dumps(score))

    monkeypatch.setattr(scoreboard, "_disguisor", pretend)
    return calls


def test_each_scenario_is_simulated_run_and_scored(commands, tmp_path):
    args = arguments("--out", tmp_path / "board", "--seconds", 2)
    assert scoreboard.main(args) == 0
    assert [c[0] for c in commands] == ["simulate", "run", "evaluate", "preview"] * 3
    assert [c[2] for c in commands if c[0] == "simulate"] == ["easy", "medium", "hard"]
    board = json.loads((tmp_path / "board" / "scoreboard.json").read_text())
    assert list(board["scenarios"]) == ["easy", "medium", "hard"]
    assert not (tmp_path / "board" / "easy" / "room").exists()


def test_bags_can_be_kept_and_a_second_call_starts_anew(commands, tmp_path):
    args = arguments("--out", tmp_path, "--scenarios", "hard", "--keep-bags")
    scoreboard.main(args)
    stale = tmp_path / "hard" / "room" / "stale"
    stale.touch()
    scoreboard.main(args)
    assert (tmp_path / "hard" / "room").exists() and not stale.exists()


def test_table_has_a_column_for_each_scenario(commands, tmp_path):
    scoreboard.main(arguments("--out", tmp_path, "--scenarios", "easy", "hard"))
    lines = (tmp_path / "scoreboard.md").read_text().splitlines()
    assert lines[0] == "| | easy | hard |"
    assert "| latency, ms (median) | 120.5 | 120.5 |" in lines
    assert "| frames in / out | 8 / 7 | 8 / 7 |" in lines
    assert "| deface (sample): recall at IoU 0.4 | 0.5 | 0.5 |" in lines
    assert "| deface (sample): recall, unmasked frontal faces over 40 px | – | – |" in lines


def test_a_command_that_fails_stops_the_rest(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(UserError, match="simulate .* failed"):
        scoreboard.main(arguments("--out", tmp_path, "--scenarios", "easy"))


def test_a_command_that_was_killed_is_said_to_be(tmp_path, monkeypatch):
    killer = tmp_path / "killer"
    killer.write_text("#!/bin/sh\nkill -9 $$\n")
    killer.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(killer))
    with pytest.raises(UserError, match="killed by signal 9"):
        scoreboard.main(arguments("--out", tmp_path, "--scenarios", "easy"))
