"""What paths that died teach about the age that a NAT lets mappings have."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from warpgate.plan.ages import OLDEST, SHARE, YOUNGEST, Ages, Life

HERE, THERE, ELSEWHERE = (ip_address(f"198.51.100.{number}") for number in (1, 2, 3))


def life(age: float, *, direct: bool = True, ends: tuple = (HERE, THERE)) -> Life:
    return Life(ends, direct, 1000.0, 1000.0 + age)


def after(*deaths: Life, then: Life | None = None) -> float | None:
    """Seconds after which a path is replaced, once these have died one after the other."""
    ages = Ages()
    for number, death in enumerate(deaths):
        ages.died(death, deaths[number + 1] if number + 1 < len(deaths) else then or death)
    renew_at = ages.renew_at(then or life(0.0))
    return None if renew_at is None else renew_at - 1000.0


def test_two_deaths_at_a_like_age_teach_it_and_the_sooner_one_counts() -> None:
    assert after(life(60.0)) is None
    assert after(life(60.0), life(60.4)) == pytest.approx(SHARE * 60.0)
    assert after(life(60.0), life(47.0)) == pytest.approx(SHARE * 47.0)  # idle: it was heard every 15 s
    assert after(life(40.0), life(60.0), life(60.0)) == pytest.approx(SHARE * 60.0)


@pytest.mark.parametrize(
    "deaths",
    [
        (life(60.0), life(300.0)),
        (life(60.0, direct=False), life(60.0, direct=False)),
        (life(2 * OLDEST), life(2 * OLDEST)),
    ],
)
def test_other_deaths_teach_nothing(deaths: tuple[Life, ...]) -> None:
    assert after(*deaths) is None


def test_a_peer_that_ends_each_path_soon_does_not_make_us_replace_them_all_the_time() -> None:
    assert after(life(YOUNGEST - 0.1), life(YOUNGEST - 0.1)) is None
    assert after(life(YOUNGEST), life(YOUNGEST)) == pytest.approx(SHARE * YOUNGEST)


def test_who_has_moved_learns_anew() -> None:
    moved = (ELSEWHERE, THERE)
    assert after(life(60.0), life(60.0), then=life(0.0, ends=moved)) is None
    assert after(life(60.0), life(60.0), life(60.0, ends=moved), then=life(0.0)) is None
    assert after(life(60.0), life(60.0), then=life(0.0, direct=False)) is None
