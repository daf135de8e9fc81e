"""What a message of a spool is known by: its own identity, or its content and the time it was written. Pure."""

from __future__ import annotations

import os

from bridge.core.codecs.document import DocumentMessage
from bridge.core.mapping import Mapping
from bridge.core.model import digest
from bridge.files.folder import FileFacts


def read_document(mapping: Mapping, name: bytes, content: bytes) -> DocumentMessage:
    """Reads the message in the content of a file that lies at this path below the root."""
    return mapping.document(os.fsdecode(name)).read(content)


def keys_of(message: DocumentMessage, raw: bytes, facts: FileFacts) -> tuple[bytes, bytes]:
    """Returns a message's key, and the digest of its content where it has no identity of its own, else nothing."""
    identity = identity_of(message, raw)
    return (identity, b"") if message.identity is not None else (digest(identity, b"%d" % facts.written), identity)


def identity_of(message: DocumentMessage, raw: bytes) -> bytes:
    """Digests what a message is known by: its identity, or else its content.

    That holds for as long as nobody rewrites a file that has no identity of its own.
    """
    return digest(b"content", raw, message.named) if message.identity is None else digest(b"id", message.identity)
