from __future__ import annotations

import random
from collections import Counter

from builders import RUN_ID, burst_round, settings

from lk_users.plan import (
    Share,
    planned,
    region_faults,
    sessions,
    shares,
    worker_of_each_user,
)


def test_shares_cover_every_ordinal_once() -> None:
    rng = random.Random(20260301)
    for _ in range(500):
        parked = [rng.choice((0, 1, rng.randrange(400))) for _ in range(rng.randrange(0, 13))]
        result = shares(RUN_ID, 3, parked, burst_round(max(1, sum(parked))))
        assert [share.count for share in result] == parked
        assert {share.total for share in result} <= {max(1, sum(parked))}
        ordinals = [n for share in result for n in range(share.first, share.first + share.count)]
        assert ordinals == list(range(sum(parked)))


def test_sessions_of_all_shares_are_the_burst_with_unique_names() -> None:
    chosen = settings(40)
    parts = shares(RUN_ID, 1, [7, 0, 33], burst_round(40))
    all_of_it = [one for share in parts for one in sessions(share, chosen, "eu")]
    assert [one.ordinal for one in all_of_it] == list(range(40))
    assert len({one.session_id for one in all_of_it}) == len({one.room for one in all_of_it}) == 40
    assert all_of_it[39].session_id == f"{RUN_ID}-b1-39"
    assert all_of_it[39].room == f"lk-{RUN_ID}-b1-39"


def test_names_differ_by_run_and_burst() -> None:
    chosen = settings(1)
    names = {planned(run, burst, 0, chosen, "eu").room for run in ("a", "b") for burst in (0, 1)}
    assert len(names) == 4


def test_all_start_at_t0_without_batches() -> None:
    assert {burst_round().offset_ns(ordinal) for ordinal in range(600)} == {0}


def test_batches_start_one_after_another() -> None:
    chosen = burst_round(600, batch_size="50", batch_delay="0.25")
    assert [chosen.offset_ns(n) for n in (0, 49, 50, 99, 100, 599)] == [
        0,
        0,
        250_000_000,
        250_000_000,
        500_000_000,
        2_750_000_000,
    ]


def test_a_worker_renders_its_own_sessions_only() -> None:
    chosen = settings(9, metadata='{"id": "{session_id}", "of": "{burst}/{region}/{engine}"}')
    (one,) = sessions(Share(RUN_ID, 2, 4, 1, burst_round(9)), chosen, "us-east")
    assert one.metadata == f'{{"id": "{RUN_ID}-b2-4", "of": "2/us-east/listen"}}'
    assert (one.attributes, one.room_metadata, one.identity) == ("", "", "user-4")


REGIONS = {"w1": "us", "w2": "eu", "w3": "us", "w4": "ap"}


def test_users_go_to_one_worker_after_another() -> None:
    assert worker_of_each_user(["w1", "w2"], {}, {}, 5) == ["w1", "w2", "w1", "w2", "w1"]


def test_each_region_gets_its_users_evenly_over_its_workers() -> None:
    pinned = {"us": 300, "eu": 200, "ap": 100}
    order = worker_of_each_user([*REGIONS], REGIONS, pinned, 600)
    assert Counter(order) == {"w1": 150, "w3": 150, "w2": 200, "w4": 100}
    # All regions fill up at the same pace.
    half = Counter(REGIONS[worker] for worker in order[:300])
    assert all(abs(half[region] - count / 2) <= 1 for region, count in pinned.items())


def test_a_region_that_is_not_named_gets_no_users() -> None:
    assert set(worker_of_each_user([*REGIONS], REGIONS, {"eu": 4}, 4)) == {"w2"}


def test_users_that_cannot_be_placed() -> None:
    assert region_faults(REGIONS, {"us": 1}) == []
    assert region_faults(REGIONS, {"us": 1, "sa": 2, "af": 3}) == [
        "--region-users sa=2: no worker has that region; there are: ap, eu, us",
        "--region-users af=3: no worker has that region; there are: ap, eu, us",
    ]
    assert region_faults({}, {}) == ["no worker is there that runs lk-users: see the workers' logs"]
