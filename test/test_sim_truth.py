"""Truth files: what is written is read, what is wrong is said."""

import json

import numpy as np
import pytest

from disguisor_ros.errors import UserError
from disguisor_ros.sim.truth import load_truth, mask_path, truth_folder, write_mask, write_truth

DATA = {"bag_id": "ab", "scenario": "easy", "seed": 0, "fps": 5, "cameras": {"cn01": {}},
        "persons": {"1": {"mask": "none"}}, "frames": []}  # fmt: skip


def test_round_trip(tmp_path):
    write_truth(tmp_path, DATA)
    labels = np.zeros((4, 6), np.uint8)
    labels[1:3, 2:4] = 7
    write_mask(tmp_path, "cn01", 12, labels)
    truth = load_truth(tmp_path)
    assert truth.bag_id == "ab"
    assert truth.persons == {1: {"mask": "none"}}
    assert np.array_equal(truth.mask("cn01", 12), labels)


@pytest.mark.parametrize(
    "text, complaint",
    [("{", "cannot be read"), ("[]", "not a disguisor-truth"), ('{"schema": "x"}', "not a"),
     (json.dumps({"schema": "disguisor-truth", "version": 99}), "version 99"),
     (json.dumps({"schema": "disguisor-truth", "version": 1}), "missing")],
)  # fmt: skip
def test_a_damaged_or_foreign_file_is_named(tmp_path, text, complaint):
    (tmp_path / "truth.json").write_text(text)
    with pytest.raises(UserError, match=complaint):
        load_truth(tmp_path)


def test_missing_truth_and_missing_mask(tmp_path):
    with pytest.raises(UserError, match="no ground truth"):
        load_truth(tmp_path / "nothing")
    write_truth(tmp_path, DATA)
    with pytest.raises(UserError, match="5.png"):
        load_truth(tmp_path).mask("cn01", 5)


def test_paths(tmp_path):
    assert truth_folder(tmp_path / "bag").name == "bag.truth"
    assert mask_path(tmp_path, "cn02", 3) == tmp_path / "masks" / "cn02" / "3.png"
