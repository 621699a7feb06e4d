from __future__ import annotations

import pytest

from evaluation.table import duration, money


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.25, "250 ms"),
        (4.2, "4.2 s"),
        (130, "2 min 10 s"),
        (120, "2 min"),
        (3599.9, "60 min"),
        (27000, "7 h 30 min"),
        (0.9996, "1.0 s"),
        (59.97, "1 min"),
    ],
)
def test_durations_are_in_the_unit_that_one_would_say(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("amount", "text"),
    [(1234.5, "1,234.50"), (12.3, "12.30"), (0.00123, "0.0012"), (3.4e-8, "0.000000034"), (0, "0")],
)
def test_money_is_never_in_powers_of_ten(amount: float, text: str) -> None:
    assert money(amount) == text
