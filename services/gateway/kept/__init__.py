"""Resumable sessions: they run on without their client for a while, and are written into the journal."""
