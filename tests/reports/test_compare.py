"""``lk-users compare``: what differs, and what is noise, from runs whose truth is known."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from builders import DEADLINE_NS, never_assigned, queued_session, record, write_run

from lk_users.cli import main
from lk_users.clock import NS_PER_MS
from lk_users.compare import intervals, rules, words
from lk_users.compare.sides import Side
from lk_users.record import Mark, Record

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


def side(name: str, *bursts: Sequence[Record], lag_ms: float = 5.0) -> Side:
    return Side(name, [f"run-{name}"], bursts, lag_ms, (), ({},))


def burst(seed: int, sessions: int = 50, *, shift_ms: float = 0.0, slow_ms: float = 0.0) -> list[Record]:
    """Sessions whose agents need 40 to 120 ms from the offer to the room. ``shift_ms``: added to the queue of
    all, as bursts of one setting are shifted; ``slow_ms``: to each agent's way into the room."""
    rng = random.Random(seed)
    made = []
    for ordinal in range(sessions):
        base = queued_session(rng, 0)
        queue, way = 200 + shift_ms + rng.uniform(0, 200), 40 + rng.uniform(0, 80) + slow_ms
        joined = 20 + queue + way
        track, heard = joined + 100 + rng.uniform(0, 40), joined + 150 + rng.uniform(40, 100)
        marks = {
            **base.marks_ns,
            Mark.AGENT_JOINED.value: ns(joined),
            Mark.AGENT_SEEN.value: ns(joined + 1),
            Mark.AGENT_TRACK.value: ns(track),
            Mark.FIRST_AUDIO.value: ns(heard),
            Mark.WELCOMED.value: ns(heard),
        }
        started_ns = base.created_at_ns + ns(queue)
        made.append(
            replace(
                base,
                ordinal=ordinal,
                marks_ns=marks,
                started_at_ns=started_ns,
                joined_at_ns=started_ns + ns(way),
            )
        )
    return made


def ns(ms: float) -> int:
    return round(ms * NS_PER_MS)


def differing(found: Sequence[rules.Difference]) -> set[str]:
    return {one.name for one in found if one.differs}


def test_bursts_of_one_setting_are_alike() -> None:
    for seed in range(0, 40, 2):
        found = rules.compare(side("A", burst(seed)), side("B", burst(seed + 1, shift_ms=90)))
        assert differing(found) == set()
        assert words.verdict(found) == "alike"


def test_an_agent_slowed_by_300_ms_is_found() -> None:
    covered = 0
    for seed in range(0, 40, 2):
        first, second = side("A", burst(seed)), side("B", burst(seed + 1, slow_ms=300, shift_ms=40))
        found = rules.compare(first, second)
        assert "accept_to_join" in differing(found)
        (way,) = (one for one in found if (one.name, one.percent) == ("accept_to_join", 50))
        covered += way.low <= 300 <= way.high
        assert way.difference == pytest.approx(300, abs=20)
        said = words.sentence(first, second, found)
        assert said.startswith("B is slower than A: the agent's way into the room takes ")
        assert said.endswith("nothing else differs beyond noise.")
    # Of 20 intervals at 95 %.
    assert covered >= 17


def test_the_other_way_round_it_is_faster() -> None:
    found = rules.compare(side("A", burst(1, slow_ms=300)), side("B", burst(2)))
    assert words.verdict(found) == "faster"
    assert not any(one.worse for one in found)


def test_a_stretched_upper_half_is_noise_of_one_burst_and_is_said() -> None:
    """As where the server asked its agents' workers anew in the middle of a burst."""
    slow = [replace(one, marks_ns=later(one, 4_900)) if one.ordinal > 20 else one for one in burst(2)]
    first, second = side("A", burst(1)), side("B", slow)
    found = rules.compare(first, second)
    assert words.verdict(found) == "alike"
    (line,) = words.unjudged(first, second, found)
    assert line.startswith("welcomed p")
    assert words.unjudged(first, side("B", burst(2)), rules.compare(first, side("B", burst(2)))) == []


def later(one: Record, ms: float) -> dict[str, int]:
    moved = (Mark.AGENT_JOINED, Mark.AGENT_SEEN, Mark.AGENT_TRACK, Mark.FIRST_AUDIO, Mark.WELCOMED)
    return {name: at + (ns(ms) if name in moved else 0) for name, at in one.marks_ns.items()}


def test_our_own_lag_is_never_a_difference() -> None:
    first, second = side("A", burst(1)), side("B", burst(2, slow_ms=300), lag_ms=400)
    found = rules.compare(first, second)
    assert differing(found) == set()
    assert words.unjudged(first, second, found)[0].startswith("the generator itself lagged by 400 ms (p95)")


def test_many_bursts_find_what_one_cannot() -> None:
    """60 ms are less than bursts of one setting may differ by, and still more than these do."""
    one = rules.compare(side("A", burst(1)), side("B", burst(2, slow_ms=60)))
    assert differing(one) == set()
    bursts = [[burst(10 * k + seed, slow_ms=slow) for seed in range(4)] for k, slow in ((1, 0), (2, 60))]
    many = rules.compare(side("A", *bursts[0]), side("B", *bursts[1]))
    assert "accept_to_join" in differing(many)
    assert "agent_start" not in differing(many)


def test_of_many_bursts_their_own_scatter_is_the_noise() -> None:
    shifts = (0, 900, 100, 1500)
    ours = [burst(10 + number, shift_ms=ms) for number, ms in enumerate(shifts)]
    theirs = [burst(20 + number, shift_ms=ms + 300) for number, ms in enumerate(shifts)]
    assert differing(rules.compare(side("A", *ours), side("B", *theirs))) == set()


def test_of_two_bursts_each_has_to_differ_from_each() -> None:
    slowed = side("B", burst(3, slow_ms=300), burst(4))
    assert differing(rules.compare(side("A", burst(1), burst(2)), slowed)) == set()


def test_lost_users() -> None:
    lost = [*burst(2)[:38], *(never_assigned(number) for number in range(38, 50))]
    first, second = side("A", burst(1)), side("B", lost)
    found = rules.compare(first, second)
    assert differing(found) == {"lost", "not ok"}
    assert words.sentence(first, second, found) == (
        "B fails more often than A: 12 of 50 users got no welcome, against 0 of 50; nothing else differs "
        "beyond noise."
    )
    few = [*burst(2)[:45], *(never_assigned(number) for number in range(45, 50))]
    assert differing(rules.compare(first, side("B", few))) == set()


def test_nothing_to_compare() -> None:
    first, empty = side("A", burst(1)), side("B")
    assert rules.compare(first, empty) == []
    said = words.sentence(first, empty, [])
    assert said == "Nothing can be said: no session of B has an outcome."


def test_a_mark_that_nobody_passed_is_not_compared() -> None:
    alone = [record(n, marks_ns={"fired": ns(1)}, decided_ns=DEADLINE_NS) for n in range(20)]
    assert {one.name for one in rules.compare(side("A", alone), side("B", alone))} == {
        "lost", "duplicate", "not ok", "start_error",
    }  # fmt: skip


# --- intervals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("probability", "degrees", "quantile"),
    # Tables of Student's distribution.
    [(0.975, 1, 12.706), (0.975, 2, 4.303), (0.975, 5, 2.571), (0.975, 10, 2.228), (0.995, 4, 4.604)],
)
def test_quantiles_of_student(probability: float, degrees: int, quantile: float) -> None:
    assert intervals.student_quantile(probability, degrees) == pytest.approx(quantile, abs=0.001)


def test_interval_of_means() -> None:
    """By hand: means 2 and 5, pooled variance 1, error sqrt(2/3), 4 degrees: 3 ± 2.776 · 0.8165."""
    low, high = intervals.mean_difference([1, 2, 3], [4, 5, 6])
    assert (low, high) == pytest.approx((0.733, 5.267), abs=0.001)


def test_interval_of_rates() -> None:
    """The example of Newcombe's paper: 56 of 70 against 48 of 80."""
    low, high = intervals.rate_difference((48, 80), (56, 70))
    assert (low, high) == pytest.approx((0.0524, 0.3339), abs=1e-4)


def test_interval_of_percentiles_is_that_of_drawn_resamples() -> None:
    rng = random.Random(3)
    ours, theirs = (sorted(rng.choices(range(1000), k=60)) for _ in range(2))
    low, high = intervals.percentile_difference(ours, theirs, 50)

    def drawn(values: Sequence[int]) -> int:
        return sorted(rng.choices(values, k=len(values)))[29]

    resamples = sorted(drawn(theirs) - drawn(ours) for _ in range(4000))
    assert low == pytest.approx(resamples[100], abs=45)
    assert high == pytest.approx(resamples[-100], abs=45)
    assert intervals.percentile_difference(ours, theirs, 50) == (low, high)


# --- the command --------------------------------------------------------------------------------------


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., str]:
    """``made(name, records, **options)``: a run's folder."""

    def make(name: str, records: Sequence[Record], **options: Any) -> str:
        write_run(tmp_path / name, records, workers={"w1": ("eu", 0, len(records))}, **options)
        return str(tmp_path / name)

    return make


def distinct(records: Sequence[Record]) -> list[Record]:
    """With the ids that go with their ordinals."""
    return [replace(one, session_id=record(one.ordinal).session_id) for one in records]


def test_the_sentence_comes_first(made: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    ours = made("one", distinct(burst(1)))
    theirs = made("two", distinct(burst(2, slow_ms=300)), watch="5")
    assert main(["compare", ours, theirs]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("B is slower than A: the agent's way into the room takes ")
    assert "--watch: not given | 5" in out
    assert err == ""
    assert main(["compare", ours, theirs, "--fail-on-worse"]) == 10
    assert main(["compare", theirs, ours, "--fail-on-worse"]) == 0


def test_json(made: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    ours, theirs = made("one", distinct(burst(1))), made("two", distinct(burst(2, slow_ms=300)))
    main(["compare", ours, theirs, "--json"])
    found = json.loads(capsys.readouterr().out)
    (pair,) = found["compared"]
    assert (pair["first"], pair["second"], pair["verdict"], pair["unlike"]) == ("A", "B", "slower", [])
    assert [one["name"] for one in pair["differences"] if one["worse"]] == ["accept_to_join"]
    assert [one["sessions"] for one in found["sides"]] == [50, 50]


def test_sides_of_several_runs(made: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    ours = [made(f"a{number}", distinct(burst(number))) for number in range(3)]
    theirs = [made(f"b{number}", distinct(burst(10 + number, slow_ms=60))) for number in range(3)]
    main(["compare", *ours, "--with", *theirs])
    out = capsys.readouterr().out
    assert out.startswith("B is slower than A: the agent's way into the room takes ")
    assert "3 bursts, 150 sessions" in out


def test_a_void_run_says_so(made: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    ours = made("one", distinct(burst(1)))
    void = made("two", distinct(burst(2)), trailers=False)
    assert main(["compare", ours, void]) == 0
    assert "\nMind: B is VOID and says nothing reliable (" in capsys.readouterr().out
    assert main(["compare", ours, void, "--fail-on-worse"]) == 11


def test_refused(made: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = made("one", distinct(burst(1)))
    for arguments, fault in (
        ([ours], f"compare {ours}: name a second run folder to compare it with"),
        ([ours, ours], f"compare {ours}: named twice, and a run does not differ from itself"),
        ([ours, str(tmp_path / "no")], f"{tmp_path / 'no'}: no run folder, run.json cannot be read"),
    ):
        assert main(["compare", *arguments]) == 12
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"lk-users: {fault}")
