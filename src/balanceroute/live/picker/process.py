"""The gRPC method that Envoy calls for each request (envoy.service.ext_proc.v3)."""

from __future__ import annotations

from balanceroute.live.parts import Parts
from balanceroute.live.picker.exchange import Exchange
from balanceroute.live.picker.shared import Picker
from balanceroute.live.rpc.calls import Call, Listener, Opening
from balanceroute.live.rpc.methods import Open

PROCESSOR = "envoy.service.ext_proc.v3.ExternalProcessor"
PROCESS = f"/{PROCESSOR}/Process"


def process_method(parts: Parts) -> Open:
    """Return the method, which decides with the parts of a router."""
    picker = Picker.of(parts)

    def open_process(call: Call, _: Opening) -> Listener:
        return Exchange(picker, call)

    return open_process
