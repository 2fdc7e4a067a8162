"""Which addresses nodes and pods get."""

from __future__ import annotations

from pathlib import Path

import pytest
from runyard_local.node.addresses import AddressPool, choose_octet, claim_octet, read_claims
from runyard_trainer.contract.exits import UserError

SOCKETS = """Num       RefCount Protocol Flags    Type St Inode Path
0000: 00000002 00000000 00010000 0001 01 17 /run/x
0001: 00000002 00000000 00000000 0001 01 18 @runyard-pods/9/abc123/0
0002: 00000002 00000000 00000000 0001 01 19 @runyard-pods/9/abc123/1
0003: 00000002 00000000 00000000 0001 01 20 @runyard-pods/guard
"""


def test_claims_are_read_from_the_kernels_list_of_sockets() -> None:
    assert read_claims(SOCKETS) == {(9, "abc123")}


def test_nodes_of_an_instance_share_an_octet() -> None:
    assert choose_octet("abc123", {(9, "abc123")}) == 9


def test_an_instance_prefers_always_the_same_octet_and_takes_no_other_ones() -> None:
    preferred = choose_octet("abc123", set())
    assert choose_octet("abc123", set()) == preferred
    assert choose_octet("abc123", {(preferred, "fff")}) not in (preferred, 0, 1, 127)


def test_all_octets_may_be_taken() -> None:
    with pytest.raises(UserError, match=r"no 127\.x network is free"):
        choose_octet("abc", {(octet, "fff") for octet in range(256)})


def test_two_instances_have_octets_of_their_own_and_a_node_runs_once(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    claims = [claim_octet(one, 0), claim_octet(one, 1), claim_octet(two, 0)]
    try:
        assert claims[0].octet == claims[1].octet != claims[2].octet
        with pytest.raises(UserError, match="another process already is node 1"):
            claim_octet(one, 1)
    finally:
        for claim in claims:
            claim.socket.close()


def test_addresses_are_given_out_in_turn() -> None:
    pool = AddressPool(9, 1)
    first, second = pool.allocate(), pool.allocate()
    pool.release(first)
    assert (pool.node_address, first, second, pool.allocate()) == ("127.9.1.1", "127.9.1.2", "127.9.1.3", "127.9.1.4")
