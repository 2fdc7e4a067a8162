"""The curve of metrics.csv."""

import pytest
from runyard_trainer.export.chart import Curve, draw_curve, read_curve, smooth


def test_smoothing_averages_what_is_there() -> None:
    assert smooth([0, 3, 6, 3, 0], 3) == pytest.approx([1.5, 3, 4, 3, 1.5])
    assert smooth([1, 2, 3], 1) == pytest.approx([1, 2, 3])


def test_training_time_leaves_out_the_pause_between_two_attempts() -> None:
    times = [10.0, 12.0, 14.0, 500.0, 502.0]
    assert Curve([1, 2, 3, 4, 5], [1.0] * 5, [], times).training_s == pytest.approx(8.0)
    assert Curve([1], [1.0], [], [10.0]).training_s is None


def test_a_curve_skips_rows_without_a_finite_loss_and_needs_two_points() -> None:
    curve = read_curve(
        "step,loss,learning_rate,time\n1,2.5,0.1,1970-01-01T00:00:05.500Z\n2,,0.1,\n3,nan,0.1,\n4,2.25,0.05,1970-01-01T00:00:06Z\n"
    )
    assert curve == Curve(steps=[1, 4], losses=[2.5, 2.25], learning_rates=[0.1, 0.05], times=[5.5, 6.0])
    assert draw_curve(Curve([1], [2.0], [], [])) == ""
