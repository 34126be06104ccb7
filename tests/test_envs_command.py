"""``mfenv envs``."""

import json

import gymnasium
import pytest

from mfenv.cli import main
from mfenv.envs.registration import POPULATION, SOCIAL, SOCIETY, SURROGATE, TEXT


def test_lists_every_environment_with_its_spaces(capsys):
    assert main(["envs"]) == 0
    text = capsys.readouterr().out
    assert main(["envs", "--json"]) == 0
    entries = {e["id"]: e for e in json.loads(capsys.readouterr().out)}
    assert set(entries) == {SOCIAL, SOCIETY, SURROGATE, TEXT, POPULATION}
    assert all(id_ in text for id_ in entries)
    env = gymnasium.make(SOCIETY)
    assert str(env.action_space) in entries[SOCIETY]["action"]
    assert str(env.observation_space.shape) in entries[SOCIETY]["observation"]
    assert "distribution 0–22" in text


@pytest.mark.parametrize("id_", [SOCIAL, SOCIETY, SURROGATE, TEXT, POPULATION])
def test_shows_the_documentation_of_one(id_, capsys):
    assert main(["envs", id_]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"# {id_}")
    assert "## Rewards" in text


def test_an_unknown_id_is_one_line(capsys):
    assert main(["envs", "CartPole-v1"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert SOCIETY in error
