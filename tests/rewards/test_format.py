"""The format reward repeats the parser's verdict."""

from rewards.format import FormatReward
from rewards.sample import Sample


def test_one_for_well_formed_zero_otherwise():
    samples = [Sample("x", (), True, ()), Sample("x", None, False, ()), Sample("x", ((0, 0, 1, 1),), False, ())]
    assert [score.value for score in FormatReward().score(samples)] == [1, 0, 0]


def test_flags_name_what_is_wrong():
    [score] = FormatReward().score([Sample(" \n", None, False, (), truncated=True)])
    assert score.flags == {"malformed", "empty", "truncated"}
