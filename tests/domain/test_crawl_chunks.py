import json
from dataclasses import replace

from pixcrawler_worker.domain.crawl_chunks import CrawlChunk, CrawlChunkResult


def make_chunk(page: int = 0) -> CrawlChunk:
    return CrawlChunk(source="a", query="cat", label="cat", page=page, page_size=10, quota=10)


def test_a_chunk_is_its_payload() -> None:
    chunk = replace(make_chunk(page=3), only=(1, 2))
    assert chunk.to_json() == {
        "source": "a",
        "query": "cat",
        "label": "cat",
        "page": 3,
        "page_size": 10,
        "quota": 10,
        "only": (1, 2),
    }
    for one in (chunk, make_chunk()):
        assert CrawlChunk.from_json(json.loads(json.dumps(one.to_json()))) == one


def test_a_result_has_everything_but_the_chunk() -> None:
    result = CrawlChunkResult(
        chunk=make_chunk(), offered=5, stored=3, left=(6, 7), more=False, downloaded=4, reasons={"too_small": 2}
    )
    assert result.to_json() == {
        "offered": 5,
        "stored": 3,
        "downloaded": 4,
        "reasons": {"too_small": 2},
        "left": (6, 7),
        "more": False,
    }
    assert CrawlChunkResult.from_json(make_chunk(), json.loads(json.dumps(result.to_json()))) == result
