import socket
from types import SimpleNamespace

import pytest
from huggingface_hub import constants

from leapverify.train import hub as hub_module
from leapverify.train.hub import first_line, hub, reachable


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.mark.parametrize("found", [True, False])
def test_libraries_go_offline_only_within_the_block_and_only_without_a_hub(
    monkeypatch: pytest.MonkeyPatch, found: bool
) -> None:
    monkeypatch.setattr(hub_module, "reachable", lambda address: found)
    other = SimpleNamespace(HF_HUB_OFFLINE=False)
    with hub(other):
        assert constants.is_offline_mode() is other.HF_HUB_OFFLINE is not found
    assert constants.HF_HUB_OFFLINE is other.HF_HUB_OFFLINE is False


def test_the_flags_come_back_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "reachable", lambda address: False)
    with pytest.raises(ZeroDivisionError), hub():
        1 / 0  # noqa: B018
    assert not constants.HF_HUB_OFFLINE


def test_a_user_who_is_offline_by_choice_is_not_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub_module, "reachable", lambda address: pytest.fail("the network was tried"))
    with hub():
        assert constants.HF_HUB_OFFLINE
    assert constants.HF_HUB_OFFLINE


def test_servers_are_found_where_they_listen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert reachable(address)
    assert not reachable(address)


def test_a_proxy_is_held_to_reach_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("urllib.request.getproxies", lambda: {"https": "http://proxy"})
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("the network was tried"))
    assert reachable("https://example.org")


def test_errors_are_cut_to_a_line() -> None:
    assert first_line(ValueError("\none\ntwo")) == "one"
    assert first_line(ValueError()) == "ValueError"
