from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from balanceroute.afd.fit import profile_of_measurements, read_measurements
from balanceroute.afd.profile import (
    AttentionCost,
    DeviceProfile,
    FfnCost,
    NetworkCost,
    decode_profile,
    encode_profile,
    load_profile,
    read_profile,
    shipped_profiles,
    with_ffn_of,
)
from balanceroute.errors import ConfigError, TraceError
from tests.afd.workloads import profile

NAMES = [
    f"{model}.{device}"
    for model in ("deepseek-v3", "qwen3-30b-a3b")
    for device in ("b200_sxm", "h100_sxm", "h200_sxm")
]


def test_the_package_has_two_models_on_three_devices() -> None:
    """Each with its source and the error of each fit."""
    assert shipped_profiles() == NAMES
    for name in NAMES:
        found = load_profile(*name.rsplit(".", 1))
        for fit in (found.attention.fit, found.ffn.fit, found.network.fit):
            assert fit is not None
            assert fit.source.startswith("aiconfigurator-core 0.12")
            assert fit.num_points >= 8
            assert fit.median_error_ratio < 0.06
            assert fit.max_error_ratio < 0.25
        assert (found.attention.kv_tokens or 0) > 500_000


def test_faster_devices_are_faster() -> None:
    """A KV token costs least on B200 and most where memory is slowest."""
    for model in ("deepseek-v3", "qwen3-30b-a3b"):
        b200, h200 = (load_profile(model, name).attention for name in ("b200_sxm", "h200_sxm"))
        assert b200.s_per_token < h200.s_per_token


def test_a_profile_survives_its_file(tmp_path: Path) -> None:
    """What is written is what is read."""
    path = tmp_path / "profile.json"
    path.write_bytes(encode_profile(profile()))
    assert read_profile(path) == profile()


def test_unequal_devices() -> None:
    """Attention on one kind, FFN on another; the network is the slower of the two."""
    mixed = with_ffn_of(
        load_profile("deepseek-v3", "h200_sxm"), load_profile("deepseek-v3", "b200_sxm")
    )
    assert mixed.name == "deepseek-v3.h200_sxm+b200_sxm"
    assert mixed.ffn == load_profile("deepseek-v3", "b200_sxm").ffn
    assert mixed.network == load_profile("deepseek-v3", "h200_sxm").network
    with pytest.raises(ConfigError, match="cannot serve attention of qwen3"):
        with_ffn_of(load_profile("qwen3-30b-a3b", "h200_sxm"), mixed)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (
            {"attention": AttentionCost(s_per_token=-1e-9)},
            r"m\.d: attention\.s_per_token must be a number of at least 0, got -1e-09; .*wider",
        ),
        ({"attention": AttentionCost(s_per_token=0.0)}, "is 0, but attention reads the KV cache"),
        (
            {"ffn": FfnCost(s_per_request=-1e-6, constant_s=1.0)},
            r"ffn\.s_per_request .* got -1e-06",
        ),
        ({"ffn": FfnCost(s_per_request=0.0, constant_s=0.0)}, "cannot take 0 s for everything"),
        ({"ffn": FfnCost(s_per_request=1.0, constant_s=0.0, num_devices=0)}, "at least 1, got 0"),
        ({"network": NetworkCost(constant_s=float("nan"))}, r"network\.constant_s .* got nan"),
        (
            {"attention": AttentionCost(s_per_token=1.0, kv_tokens=0)},
            "kv_tokens must be at least 1",
        ),
    ],
)
def test_costs_that_cannot_be(stages: dict[str, object], message: str) -> None:
    """Negative slopes above all: no stage gets faster with more work."""
    settings = {
        "model": "m",
        "device": "d",
        "attention": AttentionCost(s_per_token=1e-6),
        "ffn": FfnCost(s_per_request=1e-4, constant_s=0.0),
    }
    with pytest.raises(ConfigError, match=message):
        DeviceProfile(**{**settings, **stages})  # type: ignore[arg-type]


def test_unknown_profiles_name_the_nearest() -> None:
    """And all there are."""
    with pytest.raises(ConfigError, match=r"did you mean 'deepseek-v3\.h200_sxm'.*Shipped: deep"):
        load_profile("deepseek-v3", "h20_sxm")


def test_files_that_are_no_profiles(tmp_path: Path) -> None:
    """Missing, broken, or with a field that is not known."""
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_profile(tmp_path / "none.json")
    with pytest.raises(ConfigError, match="is no profile"):
        decode_profile(b"{", "broken.json")
    with pytest.raises(ConfigError, match="unknown field `colour`"):
        decode_profile(encode_profile(profile())[:-3] + b', "colour": 1}', "coloured.json")
    negative = (
        encode_profile(profile()).replace(b"0.000001", b"-0.000001").replace(b"1e-6", b"-1e-6")
    )
    with pytest.raises(ConfigError, match="at least 0"):
        decode_profile(negative, "negative.json")


def write_csv(path: Path, rows: list[str]) -> Path:
    """Write measurements."""
    path.write_text("\n".join(["stage,requests,tokens,time_ms", *rows]) + "\n")
    return path


def measured_rows() -> list[str]:
    """Return times on lines: 1 ms + 2 µs·n + 10 ns·T, 3 ms + 5 µs·n, 0.1 ms + 1 µs·n."""
    rows = []
    for n in (16, 64, 256):
        rows += [f"attention,{n},{n * k},{1 + 2e-3 * n + 1e-5 * n * k}" for k in (500, 2000, 8000)]
        rows.append(f"ffn,{n},,{3 + 5e-3 * n}")
        rows.append(f"network,{n},,{0.1 + 1e-3 * n}")
    return rows


def test_measurements_give_back_their_lines(tmp_path: Path) -> None:
    """To the six digits that profiles keep."""
    path = write_csv(tmp_path / "m.csv", measured_rows())
    found = profile_of_measurements(
        read_measurements(path), model="mine", device="here", ffn_devices=4, kv_tokens=10_000
    )
    assert found.attention.s_per_token == pytest.approx(1e-8, rel=1e-5)
    assert found.attention.s_per_request == pytest.approx(2e-6, rel=1e-5)
    assert found.ffn.s_per_request == pytest.approx(5e-6, rel=1e-5)
    assert found.ffn.constant_s == pytest.approx(3e-3, rel=1e-5)
    assert found.network.constant_s == pytest.approx(1e-4, rel=1e-5)
    assert (found.ffn.num_devices, found.attention.kv_tokens) == (4, 10_000)
    assert found.attention.fit is not None
    assert found.attention.fit.max_error_ratio < 1e-4


def test_noise_is_reported(tmp_path: Path) -> None:
    """Times off by up to 10 % give a median error of about 5 %."""
    rng = np.random.default_rng(0)
    rows = [f"ffn,{n},,{(3 + 5e-3 * n) * rng.uniform(0.9, 1.1)}" for n in range(16, 2000, 16)]
    path = write_csv(tmp_path / "m.csv", [*measured_rows()[:3], *rows])
    fit = profile_of_measurements(read_measurements(path), model="m", device="d").ffn.fit
    assert fit is not None
    assert 0.03 < fit.median_error_ratio < 0.07
    assert fit.max_error_ratio < 0.13


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["attention,4,100,1.0"], "1 measurements at 1 different sizes"),
        (
            [f"attention,{n},{n * 100},{10 - n / 100}" for n in (10, 20, 30, 40)],
            "attention: the times fall or stay as the size grows",
        ),
    ],
)
def test_measurements_that_give_no_line(tmp_path: Path, rows: list[str], message: str) -> None:
    """Too few, or falling."""
    rows += ["ffn,1,,1.0", "ffn,2,,1.5", "ffn,3,,2.0"]
    with pytest.raises(ConfigError, match=message):
        profile_of_measurements(
            read_measurements(write_csv(tmp_path / "m.csv", rows)), model="m", device="d"
        )


def test_a_stage_without_measurements(tmp_path: Path) -> None:
    """FFN is needed; the network may be free, which is noted."""
    rows = measured_rows()
    attention = [row for row in rows if row.startswith("attention")]
    with pytest.raises(ConfigError, match="no measurements of ffn"):
        profile_of_measurements(
            read_measurements(write_csv(tmp_path / "m.csv", attention)), model="m", device="d"
        )
    no_network = [row for row in rows if not row.startswith("network")]
    found = profile_of_measurements(
        read_measurements(write_csv(tmp_path / "n.csv", no_network)), model="m", device="d"
    )
    assert found.network == NetworkCost()
    assert found.notes == ("The network was not measured and costs nothing.",)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("gemm,1,,1.0", "line 2: stage must be one of attention, ffn, network, got 'gemm'"),
        ("attention,4,,1.0", "line 2: tokens must be a number at least 0, got ''"),
        ("ffn,0,,1.0", "line 2: requests must be a number above 0, got '0'"),
        ("ffn,4,,-1", "line 2: time_ms must be a number above 0, got '-1'"),
        ("ffn,4,,fast", "line 2: time_ms must be a number above 0, got 'fast'"),
    ],
)
def test_bad_rows(tmp_path: Path, row: str, message: str) -> None:
    """They are named by line and column."""
    with pytest.raises(TraceError, match=message):
        read_measurements(write_csv(tmp_path / "m.csv", [row]))


def test_a_table_without_its_columns(tmp_path: Path) -> None:
    """The header that it must have is in the message."""
    path = tmp_path / "m.csv"
    path.write_text("stage,requests\nffn,1\n")
    with pytest.raises(TraceError, match="lacks the columns time_ms, tokens; its header must have"):
        read_measurements(path)
