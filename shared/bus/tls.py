"""What the settings mean for TLS, alike on every NATS connection."""

from __future__ import annotations

import ssl

from shared.bus.settings import BusSettings


def tls_context(settings: BusSettings) -> ssl.SSLContext | None:
    """None: the settings ask for no TLS. Raises OSError for files that cannot be used."""
    if not settings.tls_ca_file:
        return None
    context = ssl.create_default_context(cafile=settings.tls_ca_file)
    if settings.tls_cert_file:
        context.load_cert_chain(settings.tls_cert_file, settings.tls_key_file or None)
    return context
