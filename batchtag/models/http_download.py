"""Reading a file over http(s) piece by piece, with errors that say whether another attempt can help.

Knows nothing of hashes or caches: `downloads` has those. requests is imported only when a file is read.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from batchtag.errors import Code, StorageError

if TYPE_CHECKING:
    import requests

_TIMEOUT_S = 60.0
"""Seconds to wait for the connection, and for each next piece."""
_TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP status codes of a server that may answer a later attempt."""
_HEADERS = {"User-Agent": "batchtag", "Accept-Encoding": "identity"}
"""`identity`, because weights do not compress, and the length of the body is then the length of the file."""


def read_http_chunks(url: str, *, chunk_bytes: int) -> Generator[bytes]:
    """Read the body of `url` in pieces of `chunk_bytes`, the last one shorter.

    Raises StorageError, transient where another attempt can help: after a timeout, a broken connection, a body that
    ends early, or a status such as 503. Code NOT_FOUND stands for 404.
    """
    import requests

    num_bytes, is_answered = 0, False
    try:
        with requests.get(url, stream=True, timeout=_TIMEOUT_S, headers=_HEADERS) as response:
            if not response.ok:
                raise _status_error(response)
            is_answered = True
            for chunk in response.iter_content(chunk_bytes):
                num_bytes += len(chunk)
                yield chunk
    except requests.RequestException as error:
        cause = _find_root_cause(error)
        if is_answered:
            message = f"the connection broke after at least {num_bytes:,} bytes: {cause!r}"
            raise StorageError(message, transient=True) from error
        raise StorageError(f"{cause}", transient=_is_transient(cause)) from error


def _status_error(response: requests.Response) -> StorageError:
    status = response.status_code
    return StorageError(
        f"HTTP {status} {response.reason}",
        code=Code.NOT_FOUND if status == 404 else Code.UNREACHABLE,
        transient=status in _TRANSIENT_STATUS,
    )


def _find_root_cause(error: BaseException) -> BaseException:
    """Follow the chain of causes to the first error, which is the socket's own: requests and urllib3 wrap it."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return error


def _is_transient(cause: BaseException) -> bool:
    """Whether another attempt can help. It cannot after a refused connection: nothing listens at that address."""
    return isinstance(cause, TimeoutError | ConnectionError) and not isinstance(cause, ConnectionRefusedError)
