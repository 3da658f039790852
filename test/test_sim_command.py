"""Arguments of disguisor simulate."""

import argparse

import pytest

from disguisor_ros.errors import UserError
from disguisor_ros.sim import command


def settings(*argv):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.settings_of(parser.parse_args([*argv, "out"]))


def test_defaults():
    found = settings()
    assert (found.scenario, found.cameras, found.width, found.height) == ("medium", 4, 1280, 720)
    assert found.frames == 100


@pytest.mark.parametrize(
    "argv",
    [
        ("--scenario", "huge"),
        ("--resolution", "1280"),
        ("--resolution", "8x8"),
        ("--cameras", "9"),
        ("--cameras", "0"),
        ("--fps", "0"),
        ("--seconds", "-1"),
        ("--seconds", "nan"),
        ("--seed", "-1"),
        ("--jpeg", "101"),
        ("--drop", "1"),
        ("--calibration-error", "3"),
        ("--calibration-error", "3,-1"),
    ],
)
def test_bad_arguments_are_named(argv):
    with pytest.raises(UserError, match=argv[0]):
        settings(*argv)


def test_another_seed_is_another_bag():
    assert settings("--seed", "1").bag_id != settings("--seed", "2").bag_id
    assert settings("--seed", "1").bag_id == settings("--seed", "1").bag_id
