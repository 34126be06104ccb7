from dataclasses import replace

import pytest

from mfenv.events.event import Profile
from mfenv.states import MAX_DESCRIPTION, UNKNOWN, state_text

FULL = Profile(
    location="Leeds",
    description="gardener",
    gender="f",
    friends=10,
    followers=100,
    verified=False,
    reposts=3,
    comments=3,
    likes=4,
)


def test_full_profile_is_written_in_both_languages() -> None:
    assert state_text(FULL, "en") == (
        "woman, Leeds, follows few, very small influence, active, not verified, about: gardener"
    )
    assert state_text(FULL, "zh") == (
        "女，Leeds，关注较少，影响力很小，活跃，未认证，简介：gardener"
    )


@pytest.mark.parametrize("language", ["en", "zh"])
def test_unknown_profiles_say_so(language: str) -> None:
    assert state_text(None, language) == UNKNOWN[language]
    assert state_text(Profile(), language) == UNKNOWN[language]
    assert state_text(Profile(description=" \n", mutual=3), language) == UNKNOWN[language]


# The paper's edges: < 10, ≤ 30, ≤ 1000, ≤ 3000; ≤ 100, ≤ 500, ≤ 1000, ≤ 10,000; < 10, ≤ 100.
@pytest.mark.parametrize(
    ("field", "below", "above"),
    [
        *[("friends", edge, edge + 1) for edge in (9, 30, 1000, 3000)],
        *[("followers", edge, edge + 1) for edge in (100, 500, 1000, 10_000)],
        *[("likes", edge, edge + 1) for edge in (9, 100)],
    ],
)
def test_bins_change_exactly_at_the_edges(field: str, below: int, above: int) -> None:
    text = {
        n: state_text(Profile(**{field: n}), "en") for n in (below - 1, below, above, above + 1)
    }
    assert text[below - 1] == text[below] != text[above] == text[above + 1]


@pytest.mark.parametrize(
    "field", ["location", "description", "gender", "friends", "followers", "verified"]
)
def test_an_unknown_field_is_left_out_and_the_rest_stays(field: str) -> None:
    whole = state_text(FULL, "en").split(", ")
    rest = state_text(replace(FULL, **{field: None}), "en").split(", ")
    assert len(rest) == len(whole) - 1
    assert [x for x in whole if x in rest] == rest


def test_free_text_stays_on_one_line_and_is_clipped() -> None:
    text = state_text(Profile(description="a\r\n\u2028b\x00c " + "x" * 100), "en")
    assert text.startswith("about: a b c xxx")
    assert text.isprintable()
    assert len(text) == len("about: ") + MAX_DESCRIPTION
