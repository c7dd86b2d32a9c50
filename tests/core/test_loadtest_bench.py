"""The benchmark's reading and reckoning: what the kernel and wrk say, lines, plots, and the table of promises."""

from __future__ import annotations

import math
import os
from xml.etree import ElementTree

import pytest

from loadtest.bench import page, plot, table, wrk
from loadtest.bench.curve import Point, fit
from loadtest.bench.measuring import Spread, WrkRow, WrkSample, processors, used
from loadtest.stage import procfs

# What the kernel says


def test_a_process_name_with_spaces_and_brackets_does_not_shift_its_fields() -> None:
    after_name = "S 77 1 1 0 -1 4194560 100 0 0 0 250 125 0 0 20 0 1 0 5 0 0"
    assert procfs.parse_stat(f"42 (a) R 9 (b c) {after_name}") == procfs.Stat(parent=77, ticks=375)


def test_memory_is_read_in_bytes_and_a_zombie_has_none() -> None:
    assert procfs.parse_memory("Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n") == (1 << 20, 2 << 20)
    assert procfs.parse_memory("Name:\tx\nState:\tZ (zombie)\n") == (0, 0)


def test_a_family_is_all_descendants_and_nobody_else() -> None:
    stats = {
        1: procfs.Stat(0, 0),
        2: procfs.Stat(1, 0),
        3: procfs.Stat(2, 0),
        4: procfs.Stat(1, 0),
        5: procfs.Stat(9, 0),
    }
    assert sorted(procfs.family(stats, 1)) == [1, 2, 3, 4]
    assert procfs.family(stats, 3) == [3]


def test_waiting_is_not_work() -> None:
    before = procfs.parse_cpus("cpu  1 1 1 1 1 1 1 1 0 0\ncpu0 100 0 50 800 50 0 0 0 0 0\ncpu1 0 0 0 0 0 0 0 0 0 0\n")
    after = procfs.parse_cpus("cpu  1 1 1 1 1 1 1 1 0 0\ncpu0 120 0 60 860 60 0 0 0 9 9\ncpu1 9 0 0 1 0 0 0 0 0 0\n")
    assert used(before, after, "0") == pytest.approx(0.3)
    assert used(before, after, "0-1") == pytest.approx(39 / 110)


def test_this_process_is_found_with_its_time_and_memory() -> None:
    assert os.getpid() in procfs.tree(os.getpid())
    assert procfs.cpu_s([os.getpid()]) > 0
    assert procfs.rss([os.getpid()]) > 1 << 20
    with pytest.raises(FileNotFoundError):
        procfs.cpu_s([2**22 + 1])  # above the kernel's greatest pid


def test_processors_are_read_as_taskset_takes_them() -> None:
    assert processors("0,2-4") == [0, 2, 3, 4]


# What wrk says

REPORT = """\
Running 4s test @ http://127.0.0.1:8181/
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.31ms  608.21us  12.01ms   92.41%
    Req/Sec    49.41k     2.31k   52.80k    77.50%
  Latency Distribution
     50%  930.00us
     75%    1.45ms
     90%    1.80ms
     99%    1.03s{padding}
  196880 requests in 4.02s, 27.98MB read
{trouble}Requests/sec:  48974.12
"""


def test_a_report_is_read_with_its_units() -> None:
    report = wrk.parse(REPORT.format(padding=" ", trouble=""))
    assert report == wrk.Report(196880, 4.02, 0.93, 1030.0)
    assert report.rate == pytest.approx(48975, rel=1e-4)


@pytest.mark.parametrize(
    "trouble",
    ["  Socket errors: connect 0, read 3, write 0, timeout 0\n", "  Non-2xx or 3xx responses: 1\n"],
)
def test_a_run_with_a_single_failure_is_an_error(trouble: str) -> None:
    with pytest.raises(wrk.WrkError, match="cannot be used"):
        wrk.parse(REPORT.format(padding="", trouble=trouble))


def test_a_run_without_requests_is_an_error_and_no_row_of_zeros() -> None:
    with pytest.raises(wrk.WrkError):
        wrk.parse(REPORT.format(padding="", trouble="").replace("196880 requests", "0 requests"))
    with pytest.raises(wrk.WrkError, match="cannot be read"):
        wrk.parse("unable to connect to 127.0.0.1:1 Connection refused")


def test_a_script_says_the_fields_and_varies_what_it_is_told() -> None:
    assert wrk.script({'A"': "b\\"}, {}, 0) == 'wrk.headers["A\\""] = "b\\\\"\n'
    few, endless = wrk.script({}, {"X": "%d"}, 8), wrk.script({}, {"X": "%d"}, 0, path="/p/%d")
    assert "% 8" in few
    assert 'string.format("/p/%d", n)' in endless


# Figures


def test_a_straight_line_is_called_one_and_a_bend_is_not() -> None:
    straight = fit([(1, 12), (2, 14), (10, 30)])
    assert (straight.base, straight.slope, straight.explained) == pytest.approx((10, 2, 1))
    assert straight.words("µs").startswith("a straight line: 10 µs and 2 more for each")
    assert "no straight line" in fit([(1, 1), (2, 1), (3, 1), (4, 30)]).words("µs")
    assert "flat" in fit([(1, 10), (100, 10.5)]).words("µs")
    with pytest.raises(ValueError, match="two places"):
        fit([(1, 1), (1, 2)])


@pytest.mark.parametrize("high", [0.9, 37, 512, 1])
def test_an_axis_has_round_steps_and_reaches_above_the_highest(high: float) -> None:
    (axes,) = plot.figure("a", "b", "c", [Point(1, high / 2, 0, high), Point(2, high / 3, 0, high)]).axes
    bottom, top = axes.get_ylim()
    marks = [mark for mark in axes.get_yticks() if bottom <= mark <= top]
    assert bottom == marks[0] == 0
    assert high <= top < 1.2 * high
    assert 4 <= len(marks) <= 9
    step = marks[1] / 10 ** math.floor(math.log10(marks[1]))
    assert any(step == pytest.approx(round_step) for round_step in (1, 2, 2.5, 5))


def test_a_plot_is_an_image_that_names_its_axes() -> None:
    points = [Point(1, 10, 9, 11), Point(1024, 20, 18, 22)]
    text = plot.svg(plot.figure("a < b", "size", "µs", points, log_x=True))
    words = [element.text for element in ElementTree.fromstring(text).iter() if element.text]
    assert {"a < b", "size", "µs", "1Ki"} <= set(words)


def test_the_same_points_give_the_same_file() -> None:
    points = [Point(1, 10, 9, 11), Point(2, 20, 18, 22)]
    first, again = (plot.svg(plot.figure("a", "b", "c", points)) for _ in range(2))
    assert first == again
    assert first != plot.svg(plot.figure("a", "b", "c", [Point(1, 10, 9, 11), Point(2, 21, 18, 22)]))


def row(contender: str, ratio: float) -> WrkRow:
    return WrkRow("pass-through", contender, [WrkSample(20 * ratio, 1000, 1, 2, 0.9, 0.0)] * 3, [ratio] * 3)


def test_a_promise_that_was_not_kept_is_told() -> None:
    told = "\n".join(table.lines([row("nginx", 1.0), row("phasegate", 1.3)]))
    assert "NOT KEPT" in told
    assert "NOT KEPT" not in "\n".join(table.lines([row("nginx", 1.0), row("phasegate", 1.2)]))


def test_a_spread_is_the_median_and_the_range() -> None:
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)


# The page


def test_figures_go_to_their_place_and_nowhere_else() -> None:
    text = "a\n<!-- figures: bench -->\nold\n<!-- end -->\nb\n<!-- figures: scale -->\n<!-- end -->\n"
    made = page.with_figures(text, "bench", "new \\1")
    assert made == text.replace("\nold\n", "\n\nnew \\1\n\n")
    assert page.with_figures(made, "bench", "new \\1") == made
    with pytest.raises(ValueError, match="found 0"):
        page.with_figures(text, "other", "x")
