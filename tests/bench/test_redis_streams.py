"""What is understood of Redis's figures: the rate, the latencies, and how many share a sync."""

from __future__ import annotations

import math

from bench._harness import Sample
from bench._redis_streams import told, writes_beside

HEADS = (
    '"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms",'
    '"p99_latency_ms","max_latency_ms"'
)
FIGURES = '"XADD stream * event xxx","25906.73","1.773","0.760","1.615","2.343","6.887","11.151"'


def test_the_rate_and_the_latencies_are_found_by_their_heads() -> None:
    rate, percentiles = told([HEADS, FIGURES])
    assert rate == 25906.73
    assert percentiles == {0.5: 0.001615, 0.99: 0.006887}


def test_the_writes_that_went_to_no_socket_are_those_to_the_file() -> None:
    # A run under strace, which saw 5,116 writes and 113 of fdatasync in between.
    before = writes_beside(
        "rchar: 148344\nsyscw: 2093\n", "# Stats\r\ntotal_writes_processed:2003\r\n\r\n"
    )
    after = writes_beside(
        "rchar: 590112\nsyscw: 7208\n", "# Stats\r\ntotal_writes_processed:7005\r\n\r\n"
    )
    assert after - before == 113


def test_a_load_may_tell_its_percentiles_alone() -> None:
    sample = Sample(count=1, wall_s=1.0, percentiles_s={0.5: 0.25})
    assert sample.percentile_s(0.5) == 0.25
    assert math.isnan(sample.percentile_s(0.99))
