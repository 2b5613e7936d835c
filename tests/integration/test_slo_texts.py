"""100,000 texts for ``--slo``: each is a value that can be evaluated, or one clear line a fault."""

from __future__ import annotations

import itertools
import random
from collections import Counter

from slo_texts import outcome_of, texts

TEXTS = 100_000


def test_any_text_is_a_value_or_a_clear_line() -> None:
    outcomes = Counter(outcome_of(text) for text in itertools.islice(texts(random.Random(2026)), TEXTS))
    assert outcomes.total() == TEXTS
    assert min(outcomes["value"], outcomes["refused"]) > TEXTS / 5
