"""Work is limited to a share of the time."""

import pytest

from mote_localization.time_share import TimeShare


@pytest.mark.parametrize("share", [0.1, 0.25, 1.0])
@pytest.mark.parametrize("other_s", [0.01, 0.03])
def test_work_takes_at_most_its_share_of_the_time(share, other_s):
    limit, now_s, worked_s = TimeShare(share), 5.0, 0.0
    for _ in range(10_000):
        if limit.allows(now_s):
            now_s, worked_s = now_s + 0.2, worked_s + 0.2
            limit.add(0.2, now_s)
        now_s += other_s
    measured = worked_s / (now_s - 5.0)
    assert (
        0.85 * min(share, 0.2 / (0.2 + other_s)) < measured < 1.01 * share
    )  # the last may be near the end


def test_the_first_work_and_that_after_a_reset_begin_at_once():
    limit = TimeShare(0.25)
    assert limit.allows(0.0)
    limit.add(1.0, 1.0)
    assert not limit.allows(3.9) and limit.allows(4.0)
    limit.reset()
    assert limit.allows(1.0)
