"""What an emulated server answers when it cannot serve a request, in vLLM's form."""

from __future__ import annotations

from http import HTTPStatus

import msgspec


class ApiError(Exception):
    """An answer with an error status.

    Parameters
    ----------
    status : int
        HTTP status; vLLM repeats it as ``code``.
    message : str
        For the client.
    kind : str
        ``type`` of the error.
    param : str or None
        The parameter that it is about.

    Examples
    --------
    >>> ApiError(404, "No such thing.", kind="NotFoundError", param="model").body
    b'{"error":{"message":"No such thing.","type":"NotFoundError","param":"model","code":404}}'
    """

    def __init__(
        self, status: int, message: str, *, kind: str = "BadRequestError", param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self._kind = kind
        self._param = param

    @property
    def body(self) -> bytes:
        """Return the answer's body."""
        error = {
            "message": str(self),
            "type": self._kind,
            "param": self._param,
            "code": self.status,
        }
        return msgspec.json.encode({"error": error})

    @staticmethod
    def of_status(status: int, message: str) -> ApiError:
        """Return the error that is called by the name of its status."""
        return ApiError(status, message, kind=HTTPStatus(status).phrase)
