"""What the figures of `python -m benchmarks query` stand on: the way that counts and delays, the simulated files and
the bytes of their blocks, the cells that do not count, and the chart."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pysam
import pytest

from benchmarks.genomes import GenomeFile, Population, Region, region_of
from benchmarks.network import Distance, Network, Traffic
from benchmarks.query import FAR, NEAR, Cell, Outcome
from benchmarks.query_chart import draw
from benchmarks.query_ways import Taken

BODY = bytes(range(256)) * 4000


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(BODY)

    def do_PUT(self) -> None:
        self._answer(str(len(self.rfile.read(int(self.headers["Content-Length"])))).encode())

    def _answer(self, body: bytes) -> None:
        self.send_response_only(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """It leads to a server that answers every GET with BODY and every PUT with the size of what it got."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    with Network() as passing:
        passing.lead_to(f"http://127.0.0.1:{server.server_address[1]}")
        yield passing
    server.shutdown()
    server.server_close()


def ask(network: Network, *methods: str) -> list[bytes]:
    """The answers' bodies, all over one connection."""
    connection = http.client.HTTPConnection(network.url.removeprefix("http://"), timeout=20)
    answers = []
    for method in methods:
        connection.request(method, "/thing", BODY if method == "PUT" else None)
        answers.append(connection.getresponse().read())
    connection.close()
    return answers


def test_everything_passes_and_is_counted(network: Network) -> None:
    """Requests on one connection, bodies both ways; a look starts the count anew."""
    network.become(NEAR)
    network.traffic()
    assert ask(network, "GET", "PUT", "GET") == [BODY, str(len(BODY)).encode(), BODY]
    seen = network.traffic()
    assert seen.requests == 3
    assert 2 * len(BODY) < seen.received < 2 * len(BODY) + 1000
    assert len(BODY) < seen.sent < len(BODY) + 1000
    assert network.traffic().requests == 0


def test_it_is_as_far_and_narrow_as_it_is_told(network: Network) -> None:
    """The first byte waits, and the body comes no faster than the rate."""
    network.become(Distance("slow", first_byte_s=0.1, rate=len(BODY) / 0.2))
    begun = time.monotonic()
    assert ask(network, "GET") == [BODY]
    assert time.monotonic() - begun > 0.2


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[GenomeFile]:
    return Population("small", files=2, samples=8, sites=6000).write(tmp_path_factory.mktemp("genomes") / "files")


def test_files_of_a_population_have_the_same_sites(files: list[GenomeFile], tmp_path: Path) -> None:
    """Own samples, own genotypes, and a second time the same bytes."""
    with pysam.VariantFile(str(files[0].path)) as one, pysam.VariantFile(str(files[1].path)) as other:
        assert not set(one.header.samples) & set(other.header.samples)
        assert [(r.chrom, r.pos, r.alleles) for r in one] == [(r.chrom, r.pos, r.alleles) for r in other]
    again = Population("small", files=2, samples=8, sites=6000).write(tmp_path / "again")
    assert [file.path.read_bytes() for file in again] == [file.path.read_bytes() for file in files]
    assert files[0].path.read_bytes() != files[1].path.read_bytes()


def test_bytes_of_blocks_grow_with_the_region(files: list[GenomeFile]) -> None:
    """From the header's and one block or two to nearly the file."""
    shares = [region for percent in (0.01, 10) if (region := region_of(percent)) is not None]
    whole = [Region("chr1", 1, 60_000_000)]
    found = [files[0].block_bytes(region) for region in (*shares, *whole)]
    assert found == sorted(found)
    assert found[0] <= 4 * files[0].largest_block
    assert 0.5 * files[0].size < found[-1] < files[0].size


def outcome(seconds: tuple[float, ...], digests: set[str], percent: float = 1) -> Outcome:
    taken = {
        f"way {number}": [Taken(each, each, 1, 1, Traffic(1, 1, 1, 0), Path("result"))]
        for number, each in enumerate(seconds)
    }
    return Outcome(Cell("ten", percent, 100, FAR), taken, frozenset(digests), 1)


def test_cells_of_unequal_records_are_void() -> None:
    """Whatever their times are."""
    assert not outcome((4, 2), {"a"}).void
    assert outcome((4, 2), {"a", "b"}).void
    assert outcome((4, 2), {"a"}).ratio("way 1") == [2]


def test_the_chart_shows_what_counts() -> None:
    """A bar for each way of each cell that is not void."""
    text = draw("ten", "3 files", [outcome((4, 2), {"a"}), outcome((99, 2), {"a", "b"}), outcome((9, 7), {"a"}, 100)])
    assert text.count("<rect") == 1 + 2 + 4  # ground, legend, bars
    assert ("100 % of the genome" in text, ">99<" in text) == (True, False)
