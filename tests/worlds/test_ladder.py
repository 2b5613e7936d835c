"""The ladder climbs a simulated target, in virtual time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from builders import settings
from target import Target

from lk_users.ladder import Climb, LadderCourse
from lk_users.search import PROBES

if TYPE_CHECKING:
    from lk_users.ladder import Ladder

SLO = "p99(agent_joined) <= 4s"


def course(users: int = 160, **options: str) -> LadderCourse:
    return LadderCourse(settings(users, course="ladder", slo=SLO, **options))


def climbed(target: Target, users: int = 160, **options: str) -> Ladder:
    searching = course(users, **options)
    return searching.result(target.play(searching))


def test_it_doubles_to_the_first_failure_and_halves_the_gap() -> None:
    # The last of n waits for 250 + (n - 1) * 100 ms: 38 is the largest within 4 s.
    target = Target(jobs_per_s=10)
    found = climbed(target, repeats="1")
    assert target.sizes == [10, 20, 40, 30, 35, 37, 38, 39]
    assert (found.limit, found.low, found.high, found.confidence) == (38, 38, 39, None)
    assert found.climbs == (Climb(1, 38, 39),)
    assert [rung.round.users for rung in found.rungs if rung.ok] == [10, 20, 30, 35, 37, 38]
    assert found.judged is not None
    assert (found.judged.round.users, found.judged.slo[0].value) == (38, 3950)
    assert found.stopped == ""


def test_a_later_climb_begins_a_step_below_the_limit() -> None:
    target = Target(jobs_per_s=10)
    found = climbed(target, repeats="2")
    assert target.sizes[8:] == [20, 40, 30, 35, 37, 38, 39]
    assert [rung.repeat for rung in found.rungs] == [1] * 8 + [2] * 7
    assert (found.limit, found.low, found.high, found.confidence) == (38, 38, 39, 0.5)


def test_a_later_climb_goes_down_where_its_first_step_fails() -> None:
    searching = course(repeats="2")
    fast, slow = Target(jobs_per_s=100), Target(jobs_per_s=3)
    first = fast.play(course(repeats="1"))
    assert fast.sizes == [10, 20, 40, 80, 160]
    slow.done = list(first)
    found = searching.result(slow.play(searching))
    # 250 + (n - 1) * 333 ms: 12 at once. The second climb begins at 80.
    assert slow.sizes[5:] == [80, 40, 20, 10, 15, 12, 13]
    assert found.climbs == (Climb(1, 160, None), Climb(2, 12, 13))
    assert (found.limit, found.low, found.high) == (12, 12, None)


def test_the_interval_holds_all_climbs() -> None:
    # Up to a second of noise: 28 to 38 users are the limit, by luck.
    found = climbed(Target(jobs_per_s=10, noise_ms=1000), repeats="5")
    limits = sorted(climb.limit for climb in found.climbs)
    assert len(set(limits)) > 1
    assert found.limit == limits[2]
    assert found.low == limits[0]
    assert found.high == max(climb.failed or 0 for climb in found.climbs)
    assert found.confidence == 0.9375


@pytest.mark.parametrize("seed", range(20))
def test_with_noise_the_limit_is_near(seed: int) -> None:
    """Noise of up to 300 ms is worth three users: 35 to 38."""
    found = climbed(Target(jobs_per_s=10, noise_ms=300, seed=seed), repeats="3")
    assert found.limit is not None
    assert 34 <= found.limit <= 38
    assert found.low is not None
    assert found.high is not None
    assert found.low <= found.limit < found.high


def test_of_an_even_number_the_lower_median_counts() -> None:
    found = climbed(Target(jobs_per_s=10, noise_ms=1000), repeats="4")
    assert found.limit == sorted(climb.limit for climb in found.climbs)[1]


def test_not_even_the_smallest_size() -> None:
    target = Target(jobs_per_s=1)
    found = climbed(target, repeats="2")
    assert target.sizes == [10, 10]
    assert (found.limit, found.low, found.high) == (0, 0, 10)
    assert found.judged is not None
    assert not found.judged.ok


def test_all_pass() -> None:
    target = Target(jobs_per_s=1000)
    found = climbed(target, users=100, repeats="3")
    assert target.sizes == [10, 20, 40, 80, 100, 80, 100, 80, 100]
    assert (found.limit, found.low, found.high, found.confidence) == (100, 100, None, 0.75)


@pytest.mark.parametrize(("users", "limit", "high"), [(1, 1, None), (5, 5, None), (50, 0, 50)])
def test_one_step(users: int, limit: int, high: int | None) -> None:
    sizes = {"ladder_sizes": "50"} if users == 50 else {}
    target = Target(jobs_per_s=10)
    found = climbed(target, users=users, repeats="1", **sizes)
    assert target.sizes == [users]
    assert (found.limit, found.high) == (limit, high)


def test_sizes_of_ones_own() -> None:
    target = Target(jobs_per_s=10)
    found = climbed(target, users=60, repeats="1", ladder_sizes="60,15,30")
    assert target.sizes == [15, 30, 60, 45, 37, 41, 39, 38]
    assert found.sizes == (15, 30, 60)
    assert (found.limit, found.high) == (38, 39)


def test_every_burst_comes_after_a_probe() -> None:
    target = Target(jobs_per_s=10)
    found = climbed(target, repeats="1")
    roles = [result.round.role for result in target.done]
    assert roles == ["baseline", "burst"] * 8
    assert [probe.ok for probe in found.probes] == [True] * 8
    assert all(result.round.users == 1 for result in target.done[::2])


def test_it_waits_until_the_target_is_idle() -> None:
    target = Target(jobs_per_s=10, busy_rounds=3)
    found = climbed(target, repeats="1", ladder_sizes="10,20", users=20)
    assert [result.round.users for result in target.done] == [1, 10, 1, 1, 1, 1, 20]
    assert [probe.ok for probe in found.probes] == [True, False, False, False, True]
    assert found.limit == 20


def test_a_cold_first_probe_hides_nothing() -> None:
    """The first probe took 5 s more; the next one is the measure then."""
    searching = course(repeats="1")
    target = Target(jobs_per_s=10, busy_rounds=2)
    target._busy = 1
    found = searching.result(target.play(searching))
    assert [probe.ok for probe in found.probes[:4]] == [True, True, True, True]
    assert found.limit == 38


def test_a_target_that_does_not_recover_ends_it() -> None:
    searching = course(repeats="1")
    target = Target(jobs_per_s=10, busy_rounds=1000)
    found = searching.result(target.play(searching))
    assert target.sizes == [10]
    assert len(found.probes) == 1 + PROBES
    assert found.stopped.startswith("the target was not idle after burst 1: 10 users in a row, each alone")
    assert found.stopped.endswith("the last with its agent after 1250 ms")
    assert searching.void_reasons(target.done) == (found.stopped,)
    assert found.limit is None


def test_a_probe_without_an_agent_is_no_idle_target() -> None:
    target = Target(jobs_per_s=10, dead_at=(0, 1))
    found = climbed(target, repeats="1")
    assert [probe.agent_joined_ns for probe in found.probes[:2]] == [None, None]
    assert [probe.ok for probe in found.probes[:3]] == [False, False, True]
    assert found.limit == 38


@pytest.mark.parametrize("number", [0, 5, 6])
def test_the_first_void_ends_it(number: int) -> None:
    searching = course(repeats="3")
    target = Target(jobs_per_s=10, void_at=(number,))
    found = searching.result(target.play(searching))
    assert len(target.done) == number + 1
    who = {0: "a user alone (round 0)", 5: "burst 5 (40 users)", 6: "a user alone (round 6)"}[number]
    assert found.stopped == f"{who} was void: the generator stalled"
    assert searching.void_reasons(target.done) == (found.stopped,)
    assert found.climbs == ()
    assert found.limit is None
    # What was done before stands; the void one is no rung.
    assert [rung.round.users for rung in found.rungs] == [10, 20, 40][: number // 2]


def test_after_a_whole_climb_its_limit_stands_though_the_next_is_void() -> None:
    searching = course(repeats="2")
    found = searching.result(Target(jobs_per_s=10, void_at=(17,)).play(searching))
    assert (found.limit, found.climbs) == (38, (Climb(1, 38, 39),))
    assert found.stopped.startswith("burst 17 (20 users)")


def test_a_run_that_was_cut_short_says_so() -> None:
    searching = course(repeats="1")
    done = Target(jobs_per_s=10).play(searching)
    assert searching.void_reasons(done) == ()
    assert searching.void_reasons(done[:-1]) == ("the run ended before its search did",)


def test_the_same_rounds_give_the_same_result() -> None:
    searching = course(repeats="3")
    done = Target(jobs_per_s=10, noise_ms=500).play(searching)
    assert course(repeats="3").result(done) == searching.result(done)


def test_judged_by_other_slos_it_does_not_pretend() -> None:
    done = Target(jobs_per_s=10).play(course(repeats="1"))
    other = LadderCourse(settings(160, course="ladder", slo="p99(agent_joined) <= 2s", repeats="1"))
    found = other.result(done)
    assert found.limit is None
    assert found.stopped.startswith("burst 5 is not the one that these SLOs lead to")


def test_batches_of_a_ladder_are_passed_on() -> None:
    target = Target(jobs_per_s=10)
    climbed(target, users=20, repeats="1", batch_size="5", batch_delay="2")
    assert target.plans == [(5, 2.0)] * 2


def test_people_who_watch_hear_of_each_burst() -> None:
    searching = course(repeats="1")
    done = Target(jobs_per_s=10, busy_rounds=1).play(searching)
    assert [searching.news(done[:number]) for number in range(8)] == [
        "",
        "",
        "burst 1, 10 users at once: met the SLOs",
        "the target is not idle yet: one user alone had to wait for the agent; once more",
        "",
        "burst 4, 20 users at once: met the SLOs",
        "the target is not idle yet: one user alone had to wait for the agent; once more",
        "",
    ]
    assert searching.news(done[:8]) == "burst 7, 40 users at once: missed p99(agent_joined) <= 4s"


def test_a_burst_without_data_for_an_slo_ends_it() -> None:
    searching = LadderCourse(settings(160, course="ladder", slo="p95(server_queue) <= 1s"))
    found = searching.result(Target(jobs_per_s=10).play(searching))
    assert found.stopped == (
        "burst 1 (10 users): no data for p95(server_queue) <= 1s: no session has server_queue"
    )
    assert found.rungs == ()
    assert found.limit is None


def test_where_most_climbs_found_no_limit_it_is_judged_by_a_burst_that_failed() -> None:
    searching = course(users=10, repeats="3")
    fast = Target(jobs_per_s=100)
    fast.play(course(users=10, repeats="1"))
    slow = Target(jobs_per_s=1, done=list(fast.done))
    found = searching.result(slow.play(searching))
    assert [climb.limit for climb in found.climbs] == [10, 0, 0]
    assert (found.limit, found.low, found.high) == (0, 0, None)
    assert found.judged is not None
    assert not found.judged.ok


def test_an_idle_target_rests_before_a_burst_where_that_is_asked_for() -> None:
    target = Target(jobs_per_s=10)
    climbed(target, users=20, repeats="1", burst_interval="30")
    assert [(done.round.role, done.round.rest_s) for done in target.done] == [
        ("baseline", 0), ("burst", 30), ("baseline", 0), ("burst", 30),
    ]  # fmt: skip
