"""The check for verbatim copies finds what was planted, and nothing else."""

from benchmarks.memorisation import WINDOW, copied, window_hashes

SECRET = "my neighbour at number nine keeps bees"


def test_windows_are_as_many_as_there_are_and_never_span_texts():
    texts = ["x" * (WINDOW - 1), "abcdefghij" * 3, "short", "今" * WINDOW]
    hashes, owner = window_hashes(texts)
    assert owner.tolist() == [1] * (30 - WINDOW + 1) + [3]
    assert len(set(hashes.tolist())) == 10 + 1  # a period of ten characters, and one more text
    two_halves, _ = window_hashes(["ab" * 5, "cd" * 5])
    assert len(two_halves) == 0


def test_copies_are_found_unless_prompted_and_set_phrases_are_told_apart():
    phrase = "everybody please forward this to your friends"
    training = [[SECRET, "other words of no interest at all"]] + [
        [f"{phrase} {i}"] for i in range(20)
    ]
    texts = [f"they say: {SECRET}!", SECRET, phrase, "an entirely new sentence, never seen", ""]
    prompts = ["", f"Topic: {SECRET}", "", "", ""]
    rare, common = copied(texts, prompts, training)
    assert rare.tolist() == [True, False, False, False, False]
    assert common.tolist() == [False, False, True, False, False]
