"""What a group loses at each width: through the anchors, never rising, 0 at full width."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as draw

from search.levels import SHARES, anchors, interpolated
from search.space import widths

property_test = settings(deadline=None, max_examples=200, derandomize=True)


@draw.composite
def options(choose: draw.DrawFn) -> tuple[int, ...]:
    """Allowed widths of a group, ascending."""
    found = choose(draw.lists(draw.integers(1, 200), min_size=1, max_size=30, unique=True))
    return tuple(sorted(found))


@draw.composite
def cases(
    choose: draw.DrawFn,
) -> tuple[list[float] | None, dict[int, float], int]:
    """Errors of removing channels, measured losses, and the number of channels."""
    allowed = choose(options())
    channels = allowed[-1]
    error = draw.floats(0, 10, allow_subnormal=False)
    steps = choose(draw.lists(error, min_size=channels - 1, max_size=channels - 1))
    errors = choose(draw.sampled_from([None, [0.0, *np.cumsum(steps).tolist()]]))
    widths = anchors(allowed) or (max(1, channels - 1),)
    loss = draw.floats(0, 50, allow_subnormal=False)
    return errors, {width: choose(loss) for width in widths}, channels


@property_test
@given(options())
def test_anchors_are_the_allowed_widths_nearest_to_their_shares(allowed: tuple[int, ...]) -> None:
    found = anchors(allowed)
    assert list(found) == sorted(set(found), reverse=True)
    assert set(found) <= set(allowed[:-1])
    for share in SHARES:
        distance = {width: abs(width - share * allowed[-1]) for width in allowed}
        (nearest,) = {max(w for w in allowed if distance[w] == min(distance.values()))}
        assert nearest in (*found, allowed[-1])


@property_test
@given(cases())
def test_losses_never_rise_with_the_width_and_end_at_none(
    case: tuple[list[float] | None, dict[int, float], int],
) -> None:
    errors, measured, channels = case
    losses = interpolated(errors, measured, channels)
    assert len(losses) == channels
    assert np.isfinite(losses).all()
    assert min(losses) >= 0
    assert all(a >= b for a, b in itertools.pairwise(losses))
    assert losses[-1] == 0


@property_test
@given(cases())
def test_losses_pass_through_the_anchors_where_they_fall(
    case: tuple[list[float] | None, dict[int, float], int],
) -> None:
    """Where a narrower anchor measured less, it counts as much as the wider one."""
    errors, measured, channels = case
    losses, most = interpolated(errors, measured, channels), 0.0
    for width in sorted(measured, reverse=True):
        if width == channels:
            continue
        most = max(most, measured[width], 1e-6)
        assert losses[width - 1] == pytest.approx(most, rel=1e-6)


def test_between_anchors_it_is_a_power_law_of_the_error() -> None:
    """Beyond the anchors: in proportion above the widest, as steep as before below the others."""
    errors = [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0]
    losses = interpolated(errors, {7: 0.1, 4: 0.8}, 8)  # at the errors 1 and 8: loss = 0.1 error
    np.testing.assert_allclose(losses[::-1], 0.1 * np.array(errors), rtol=1e-12)
    square = interpolated(errors, {6: 0.04, 4: 0.64}, 8)  # 0.01 error^2 between 2 and 8
    np.testing.assert_allclose(square[::-1], [0, 0.02, 0.04, 0.16, 0.64, 2.56, 10.24, 40.96])


def test_without_errors_the_share_that_went_counts() -> None:
    np.testing.assert_allclose(
        interpolated(None, {4: 0.5}, 5), [2.0, 1.5, 1.0, 0.5, 0.0], rtol=1e-12
    )


def test_what_makes_no_difference_is_told_from_what_costs_nothing() -> None:
    """Flat in errors and losses alike: a little is lost, and the full width loses nothing."""
    losses = interpolated([0.0] * 6, {4: 0.0, 2: 0.0}, 6)
    assert losses[-1] == 0
    assert max(losses) == pytest.approx(1e-6)


@pytest.mark.parametrize("errors", [None, [0.0]])
def test_a_single_channel_loses_nothing(errors: list[float] | None) -> None:
    assert interpolated(errors, {}, 1) == (0.0,)


def test_anchors_of_all_widths() -> None:
    assert anchors(widths(10)) == (8, 6, 4, 2)
    assert anchors((16,)) == ()
    assert anchors((1, 2)) == (1,)


def test_below_the_narrowest_anchor_losses_stay_finite() -> None:
    """Where an error hardly rises between two anchors and much behind them."""
    errors = [0.0, *np.geomspace(1e-9, 1e-6, 15).tolist(), 1.05e-6, 0.01, 0.2, 0.9]
    losses = interpolated(errors, {16: 1e-6, 12: 1e-5, 8: 1e-3, 4: 0.1}, len(errors))
    assert losses[3] == pytest.approx(0.1)
    assert losses[0] == pytest.approx(1e4 * 0.1)
