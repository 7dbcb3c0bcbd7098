"""Whether a request shows the service's token, in either of the two ways that EAS's clients know.

The plain way is the token itself in ``Authorization``. The vendor's client signs instead: ``EAS`` and the base64 of
``HMAC-SHA1(token, "POST\\n" + Content-MD5 + "\\n" + Content-Type + "\\n" + Date + "\\n" + path)``, with the body's
MD5 in hexadecimal. Its ``Date`` is local time that calls itself GMT, so clocks are not compared: a signature is as good
as the transport that keeps it from being read.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from collections.abc import Mapping
from pathlib import Path

from danqing_pack.errors import RequestError

VARIABLE = "DANQING_TOKEN"
SCHEME = b"EAS "


def read_token(file: Path | None) -> bytes | None:
    """The token from ``file``, else from ``DANQING_TOKEN``; None where neither is given.

    Raises ``RequestError`` for a file that cannot be read or holds no token. No message names the token.
    """
    if file is None:
        text = os.environ.get(VARIABLE, "")
        source = VARIABLE
        if not text:
            return None
    else:
        source = f"the token file {file}"
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(f"The token file {file} cannot be read; give a text file with the token.") from error
    token = text.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise RequestError(f"There is no token in {source}; it must be one word of printable ASCII.")
    return token.encode("ascii")


def signature(token: bytes, path: bytes, headers: Mapping[bytes, bytes]) -> bytes:
    """The base64 signature of a POST to ``path`` with these headers (lower-case names)."""
    words = (headers.get(name, b"") for name in (b"content-md5", b"content-type", b"date"))
    digest = hmac.new(token, b"\n".join((b"POST", *words, path)), hashlib.sha1).digest()
    return base64.b64encode(digest)


def shows_token(token: bytes | None, path: bytes, headers: Mapping[bytes, bytes]) -> bool:
    """Whether ``Authorization`` holds the token or signs with it; compared in constant time. No token: open to all."""
    if token is None:
        return True
    shown = headers.get(b"authorization", b"")
    signed = SCHEME + signature(token, path, headers)
    plain = hmac.compare_digest(shown, token)
    return hmac.compare_digest(shown, signed) or plain


def is_signed_body(body: bytes, headers: Mapping[bytes, bytes]) -> bool:
    """Whether the body is the one that the signature speaks of; true where nothing was signed."""
    if not headers.get(b"authorization", b"").startswith(SCHEME):
        return True
    digest = hashlib.md5(body, usedforsecurity=False).hexdigest().encode("ascii")
    return hmac.compare_digest(headers.get(b"content-md5", b"").lower(), digest)
