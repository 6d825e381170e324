"""Settings of the gateway service."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from shared.runtime.process_settings import ModelSettings


class GatewaySettings(ModelSettings, frozen=True, kw_only=True):
    """Settings of one gateway."""

    host: Annotated[str, Meta(description="address of the HTTP door")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="port of the HTTP door; 0: a free one")] = 8080
    request_timeout_s: Annotated[float, Meta(gt=0, description="most a request may take")] = 600.0
    body_limit_bytes: Annotated[int, Meta(ge=1, description="largest HTTP body or WebSocket frame")] = 8 << 20
    bodies_limit_bytes: Annotated[
        int, Meta(ge=1, description="bytes of HTTP bodies that may be arriving at once; more are refused")
    ] = 64 << 20
    allowed_origins: Annotated[
        tuple[str, ...], Meta(description="web pages of other hosts that may open WebSockets; * for any")
    ] = ()
    session_limit: Annotated[int, Meta(ge=1, description="generations at once; more are refused")] = 4096
    quarantine_s: Annotated[float, Meta(ge=0, description="how long a prompt that crashed two workers is refused")] = (
        300.0
    )
    attempts: Annotated[
        int, Meta(ge=1, description="how often a request is placed in a row, and makes no progress, before it fails")
    ] = 3
    resume_grace_s: Annotated[
        float, Meta(ge=0, description="how long a resumable request runs on when its client is gone")
    ] = 30.0
    journal_age_s: Annotated[
        float, Meta(gt=0, description="how long a resumable request can be resumed; never less than request_timeout_s")
    ] = 1800.0
    journal_bytes: Annotated[
        int, Meta(ge=1 << 20, description="most the journal takes of JetStream's memory; then the oldest goes")
    ] = 64 << 20
    journal_replicas: Annotated[int, Meta(ge=1, le=5, description="NATS servers that hold the journal")] = 1
    journal_interval_s: Annotated[
        float, Meta(gt=0, description="time between two notes of a request's tokens in the journal")
    ] = 0.5
