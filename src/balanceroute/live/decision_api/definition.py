"""What a gateway says and is told: one definition for JSON over HTTP and for gRPC."""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta

from balanceroute.live.rpc.protobuf import Message, proto_text

PACKAGE, SERVICE = "balanceroute.v1", "Decisions"
PATH, PROTO_PATH = "/v1/decisions", "/v1/decisions.proto"
Count = Annotated[int, Meta(ge=0, le=1 << 40)]
Seconds = Annotated[float, Meta(ge=0.0, le=1e6)]


class SelectRequest(Message, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request that is to have a rank.

    Attributes
    ----------
    prompt_tokens : int
        Length of its prompt; 0: it is found from `prompt`.
    prompt : str
        The text, as the tokenizer sees it.
    max_tokens : int
        Its own limit of output tokens; 0: it has none.
    tenant, client : str
        Whose it is, and for whom it is made; empty: that is not told.
    priority : int
        Within a tenant lower goes first.
    max_wait_s, lease_s : float
        How long it may wait for a rank, and how long a reservation holds without a word of it;
        0: as the settings say.
    is_silent : bool
        Whether nothing will be told of its tokens before its end.
    """

    numbers: ClassVar[dict[str, int]] = {
        "prompt_tokens": 1,
        "prompt": 2,
        "max_tokens": 3,
        "tenant": 4,
        "client": 5,
        "priority": 6,
        "max_wait_s": 7,
        "lease_s": 8,
        "is_silent": 9,
    }
    prompt_tokens: Count = 0
    prompt: str = ""
    max_tokens: Count = 0
    tenant: Annotated[str, Meta(max_length=256)] = ""
    client: Annotated[str, Meta(max_length=256)] = ""
    priority: Annotated[int, Meta(ge=-(1 << 40), le=1 << 40)] = 0
    max_wait_s: Seconds = 0.0
    lease_s: Seconds = 0.0
    is_silent: bool = False


class Decision(Message, frozen=True, kw_only=True):
    """A rank, with a slot and room for the prompt reserved on it.

    Attributes
    ----------
    id : str
        Of the reservation.
    rank : int
        Number of the rank in the group.
    url : str
        Where to send the request.
    rank_header : str
        What to put into ``X-data-parallel-rank``; empty: the port is the rank's own.
    prompt_tokens : int
        What was booked.
    waited_s, lease_s : float
        How long it took, and how long it holds without a word.
    """

    numbers: ClassVar[dict[str, int]] = {
        "id": 1,
        "rank": 2,
        "url": 3,
        "rank_header": 4,
        "prompt_tokens": 5,
        "waited_s": 6,
        "lease_s": 7,
    }
    id: str = ""
    rank: int = 0
    url: str = ""
    rank_header: str = ""
    prompt_tokens: int = 0
    waited_s: float = 0.0
    lease_s: float = 0.0


class Progress(Message, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far a request has got; also finishes one.

    Attributes
    ----------
    id : str
        Of the reservation.
    output_tokens : int
        All so far; less than what was told before changes nothing.
    prompt_tokens : int
        As the engine counts them; 0: it has not said.
    """

    numbers: ClassVar[dict[str, int]] = {"id": 1, "output_tokens": 2, "prompt_tokens": 3}
    id: str
    output_tokens: Count = 0
    prompt_tokens: Count = 0


class Release(Message, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A reservation that is given back, because the request was given up or has failed.

    Attributes
    ----------
    id : str
        Of the reservation.
    failure : str
        What went wrong on the rank, which counts against it; empty: nothing.
    """

    numbers: ClassVar[dict[str, int]] = {"id": 1, "failure": 2}
    id: str
    failure: Annotated[str, Meta(max_length=1024)] = ""


class Booked(Message, frozen=True, kw_only=True):
    """What is booked of a request after a word of it.

    Attributes
    ----------
    id : str
        Of the reservation.
    output_tokens : int
        So far, or in all.
    lease_s : float
        How long the reservation holds without another word; 0: it has ended.
    """

    numbers: ClassVar[dict[str, int]] = {"id": 1, "output_tokens": 2, "lease_s": 3}
    id: str = ""
    output_tokens: int = 0
    lease_s: float = 0.0


METHODS: dict[str, tuple[type[Message], type[Message]]] = {
    "Select": (SelectRequest, Decision),
    "Progress": (Progress, Booked),
    "Finish": (Progress, Booked),
    "Release": (Release, Booked),
}
HTTP_PATHS = {
    "Select": PATH,
    "Progress": f"{PATH}/progress",
    "Finish": f"{PATH}/finish",
    "Release": f"{PATH}/release",
}


def definition() -> str:
    """Return the definition as a ``.proto`` file.

    Examples
    --------
    >>> definition().splitlines()[2:6]
    ['package balanceroute.v1;', '', 'service Decisions {',
     '  rpc Select(SelectRequest) returns (Decision);']
    """
    return proto_text(PACKAGE, SERVICE, METHODS)
