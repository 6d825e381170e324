"""The smaller routes: health, metrics, version, tokenize, models."""

from __future__ import annotations

import aiohttp
import pytest
from http_door import FixedFleet
from prometheus_client import CollectorRegistry, Counter

from services.gateway.openai.health import FleetStatus


async def test_health_of_a_whole_fleet(http: aiohttp.ClientSession) -> None:
    async with http.get("/health") as response:
        assert response.status == 200
        assert await response.json() == {
            "status": "ok",
            "model": "tiny",
            "prefill_workers": 1,
            "decode_workers": 2,
            "reasons": [],
        }


async def test_health_without_a_decode_says_so(http: aiohttp.ClientSession, fleet: FixedFleet) -> None:
    fleet.now = FleetStatus(prefill_workers=1, decode_workers=0, reasons=("no decode worker",))
    async with http.get("/health") as response:
        assert response.status == 503
        assert (await response.json())["reasons"] == ["no decode worker"]


async def test_live_and_version(http: aiohttp.ClientSession, fleet: FixedFleet) -> None:
    fleet.now = FleetStatus(prefill_workers=0, decode_workers=0, reasons=("nobody",))
    async with http.get("/live") as response:
        assert (response.status, await response.json()) == (200, {"status": "live"})
    async with http.get("/version") as response:
        assert await response.json() == {"version": "9.9"}


async def test_metrics_are_of_the_given_registry(http: aiohttp.ClientSession, registry: CollectorRegistry) -> None:
    Counter("baton_things", "things", registry=registry).inc()
    async with http.get("/metrics") as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/plain; version=")
        assert "baton_things_total 1.0" in await response.text()


async def test_tokenize_a_prompt(http: aiohttp.ClientSession) -> None:
    async with http.post("/tokenize", json={"model": "tiny", "prompt": "hi"}) as response:
        assert await response.json() == {"count": 3, "max_model_len": 64, "tokens": [256, 104, 105]}


async def test_tokenize_without_special_tokens(http: aiohttp.ClientSession) -> None:
    async with http.post("/tokenize", json={"prompt": "hi", "add_special_tokens": False}) as response:
        assert (await response.json())["tokens"] == [104, 105]


async def test_tokenize_a_conversation(http: aiohttp.ClientSession) -> None:
    messages = [{"role": "user", "content": "hi"}]
    async with http.post("/tokenize", json={"messages": messages}) as response:
        assert bytes((await response.json())["tokens"]) == b"user:hi\nassistant:"
    async with http.post("/tokenize", json={"messages": messages, "add_generation_prompt": False}) as response:
        assert bytes((await response.json())["tokens"]) == b"user:hi\n"


async def test_detokenize(http: aiohttp.ClientSession) -> None:
    async with http.post("/detokenize", json={"tokens": [104, 105]}) as response:
        assert await response.json() == {"prompt": "hi"}


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/tokenize", {}, 400),
        ("/tokenize", {"prompt": "hi", "messages": []}, 400),
        ("/tokenize", {"prompt": ["hi"]}, 400),
        ("/tokenize", {"prompt": "hi", "surprise": 1}, 400),
        ("/tokenize", {"prompt": "hi", "model": "other"}, 404),
        ("/tokenize", {"messages": [{"role": "user"}]}, 400),
        ("/detokenize", {"tokens": ["a"]}, 400),
        ("/detokenize", {"tokens": [300]}, 400),
        ("/detokenize", {"tokens": [1], "model": "other"}, 404),
    ],
)
async def test_bad_bodies(http: aiohttp.ClientSession, path: str, body: dict[str, object], status: int) -> None:
    async with http.post(path, json=body) as response:
        assert response.status == status
        assert (await response.json())["error"]["type"] == "invalid_request_error"


async def test_model_names_the_context(http: aiohttp.ClientSession) -> None:
    async with http.get("/v1/models") as response:
        listing = await response.json()
    assert listing["object"] == "list"
    assert listing["data"][0] == {
        "id": "tiny",
        "object": "model",
        "created": 1_700_000_000,
        "owned_by": "baton",
        "max_model_len": 64,
    }
