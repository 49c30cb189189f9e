"""What befalls the machine that leads."""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from checks.patroni.nodes import Group, Node


class Fault(NamedTuple):
    """What is done to the leader, and once another one leads what ends that."""

    begin: Callable[[Group, Node], Awaitable[None]]
    end: Callable[[Node], None] | None


def done_to(action: Callable[[Node], None]) -> Callable[[Group, Node], Awaitable[None]]:
    """Return a beginning that concerns the leader's machine alone."""

    async def begin(group: Group, leader: Node) -> None:
        action(leader)

    return begin


async def switch_over(group: Group, leader: Node) -> None:
    """Let another one lead, as `patronictl switchover` does. RuntimeError."""
    status, said = await group.ask(leader, "/switchover", {"leader": leader.name})
    if status != 200:
        raise RuntimeError(f"switchover: {status} {said}")


async def restart(group: Group, leader: Node) -> None:
    """Restart PostgreSQL, as `patronictl restart` does. RuntimeError."""
    status, said = await group.ask(leader, "/restart", {})
    if status != 200:
        raise RuntimeError(f"restart: {status} {said}")


FAULTS = {
    "killed": Fault(done_to(Node.kill), Node.start),
    "Patroni killed alone": Fault(done_to(Node.kill_patroni), Node.start),
    "switchover": Fault(switch_over, None),
    "restart": Fault(restart, None),
    "frozen": Fault(done_to(Node.freeze), Node.thaw),
    "cut off": Fault(done_to(Node.cut_off), Node.connect),
    "cut off from etcd": Fault(done_to(Node.lose_etcd), Node.connect),
}
SHORT = ("Patroni killed alone", "killed", "switchover")
LONG = (*FAULTS, "Patroni killed alone", "frozen", "cut off")
