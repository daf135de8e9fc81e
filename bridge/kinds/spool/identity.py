"""Computes the identity of a spool's message: its own, or else its content and the time it was written. Pure."""

from __future__ import annotations

import os

from bridge.core.codecs.document import DocumentMessage
from bridge.core.mapping import Mapping
from bridge.core.model import digest
from bridge.files.folder import FileFacts


def read_document(mapping: Mapping, name: bytes, content: bytes) -> DocumentMessage:
    """Reads the message, with its identity, in the content of a spool file at the path `name` below the root."""
    return mapping.document(os.fsdecode(name)).read(content)


def keys_of(message: DocumentMessage, raw: bytes, facts: FileFacts) -> tuple[bytes, bytes]:
    """Makes the key of a spool message, and the content's digest where it has no identity of its own, else nothing."""
    identity = identity_of(message, raw)
    return (identity, b"") if message.identity is not None else (digest(identity, b"%d" % facts.written), identity)


def identity_of(message: DocumentMessage, raw: bytes) -> bytes:
    """Digests the identity of a spool message, or its content where it has none.

    The digest of a content holds only as long as nobody rewrites the file.
    """
    return digest(b"content", raw, message.named) if message.identity is None else digest(b"id", message.identity)
