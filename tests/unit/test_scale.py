"""What a search is to try, from options; faults in one line."""

from __future__ import annotations

import pytest
from builders import settings

from lk_users.errors import Refused
from lk_users.settings.run import Settings
from lk_users.settings.scale import Scale, batch_sizes, ladder_sizes

SIZES = "must be whole numbers of at least 1, as 10,20,40, or auto"
DELAYS = "must be seconds of at least 0, as 0.5,1,2, or auto"
LADDER = "and this is --course ladder"
BATCHES = {"course": "batches"}


@pytest.mark.parametrize(
    ("users", "sizes"),
    [(1, (1,)), (10, (10,)), (11, (10, 11)), (80, (10, 20, 40, 80)), (100, (10, 20, 40, 80, 100))],
)
def test_ladder_sizes_double_up_to_all_users(users: int, sizes: tuple[int, ...]) -> None:
    assert ladder_sizes(users) == sizes


@pytest.mark.parametrize(("users", "sizes"), [(600, (25, 10, 50)), (40, (25, 10)), (10, (5,)), (1, (1,))])
def test_batch_sizes_make_more_than_one_batch(users: int, sizes: tuple[int, ...]) -> None:
    assert batch_sizes(users) == sizes


def test_defaults() -> None:
    assert settings(100).scale == Scale()
    assert settings(80, course="ladder").scale == Scale(ladder_sizes=(10, 20, 40, 80), repeats=3)
    assert settings(600, course="batches").scale == Scale(batch_sizes=(25, 10, 50), repeats=1)


def test_given() -> None:
    ladder = settings(80, course="ladder", ladder_sizes="80, 5,20", repeats="5")
    assert ladder.scale == Scale(ladder_sizes=(5, 20, 80), repeats=5)
    batches = settings(600, course="batches", batch_sizes="50,25", batch_delays="0, 0.5,2")
    assert batches.scale == Scale(batch_sizes=(50, 25), batch_delays_s=(0.0, 0.5, 2.0))


def test_a_worker_does_not_know_how_many_users_there_are() -> None:
    options = {"agent_name": "front-desk", "course": "ladder", "ladder_sizes": "5,2000"}
    assert Settings.from_options(options, None).scale.ladder_sizes == (5, 2000)
    assert Settings.from_options({**options, "ladder_sizes": "auto", "witness": "5"}, None).witness == 5


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"ladder_sizes": "10,x"}, f"--ladder-sizes 10,x: {SIZES}"),
        ({"ladder_sizes": "0"}, f"--ladder-sizes 0: {SIZES}"),
        ({"ladder_sizes": ""}, f"--ladder-sizes : {SIZES}"),
        ({"ladder_sizes": "10,200"}, "--ladder-sizes 10,200: 200 is more than the 100 of --users"),
        ({"repeats": "0"}, "--repeats 0: must be a whole number from 1 to 100, or auto"),
        ({"repeats": "2.5"}, "--repeats 2.5: must be a whole number from 1 to 100, or auto"),
        ({"batch_sizes": "5"}, f"--batch-sizes 5: is for --course batches, {LADDER}"),
        ({"batch_delays": "5"}, f"--batch-delays 5: is for --course batches, {LADDER}"),
        ({"bursts": "2"}, "--bursts 2: --course ladder decides itself what comes next; use --repeats"),
        ({"witness": "11"}, "--witness 11: larger than the smallest burst of 10 (--ladder-sizes)"),
        ({"release": "free"}, "--release free: --course ladder is made of bursts; use barrier"),
        ({**BATCHES, "batch_delays": "1,-1"}, f"--batch-delays 1,-1: {DELAYS}"),
        ({**BATCHES, "batch_delays": "inf"}, f"--batch-delays inf: {DELAYS}"),
        ({**BATCHES, "batch_delays": "nan"}, f"--batch-delays nan: {DELAYS}"),
        (
            {**BATCHES, "batch_size": "25"},
            "--batch-size 25: --course batches looks for it; use --batch-sizes",
        ),
        (
            {**BATCHES, "ladder_sizes": "25"},
            "--ladder-sizes 25: is for --course ladder, and this is --course batches",
        ),
        (
            {"course": "bursts", "repeats": "5"},
            "--repeats 5: is for --course ladder or batches, and this is --course bursts",
        ),
        ({"course": "stairs"}, "--course stairs: unknown; use one of bursts, ladder, batches"),
    ],
)
def test_faults_are_one_line(options: dict[str, str], fault: str) -> None:
    with pytest.raises(Refused) as refused:
        settings(100, **{"course": "ladder", **options})
    assert refused.value.faults == (fault,)
