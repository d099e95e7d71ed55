"""sim/protocol.py: every rule of the monitor has a trace that breaks it and no other, beside one that breaks none."""
import copy
import re
from collections.abc import Callable

import pytest
from amaranth.sim import Simulator

from hwgen.config import MachineConfig
from sim.protocol import ProtocolMonitor, broken_rules, rules_of

CONFIG = MachineConfig(lanes=8, fire_lanes=4, bus_bytes=4, memory_bits=64, memory_outstanding=2)
Cycle = dict[str, int]
ADDRESS = {"size": 3, "burst": 1}


def cycles(*changes: Cycle) -> list[Cycle]:
    """Each cycle's ports that are not 0."""
    return [dict(change) for change in changes]


def address(port: str, at: int, length: int, ready: int = 1) -> Cycle:
    return {f"m_axi_{port}{part}": value for part, value in
            {"valid": 1, "ready": ready, "addr": at, "len": length, **ADDRESS}.items()}


# Every channel waits once for READY; both bursts end at a page's end.
LEGAL = cycles(
    {},
    {"s_axil_awvalid": 1, "s_axil_awaddr": 4, "s_axil_wvalid": 1, "s_axil_wready": 1, "s_axil_wdata": 7, "s_axil_arvalid": 1,
     "s_axis_tvalid": 1, "s_axis_tdata": 5, "m_axis_tvalid": 1, "m_axis_tdata": 6, "m_axis_tlast": 1,
     **address("aw", 4096 - 16, 1, 0), **address("ar", 8192 - 8, 0, 0)},
    {"s_axil_awvalid": 1, "s_axil_awready": 1, "s_axil_awaddr": 4, "s_axil_arvalid": 1, "s_axil_arready": 1,
     "s_axis_tvalid": 1, "s_axis_tready": 1, "s_axis_tdata": 5, "m_axis_tvalid": 1, "m_axis_tready": 1, "m_axis_tdata": 6,
     "m_axis_tlast": 1, **address("aw", 4096 - 16, 1), **address("ar", 8192 - 8, 0)},
    {"s_axil_bvalid": 1, "s_axil_bresp": 2, "s_axil_rvalid": 1, "s_axil_rdata": 9, "m_axi_wvalid": 1, "m_axi_wready": 1,
     "m_axi_rvalid": 1, "m_axi_rlast": 1},
    {"s_axil_bvalid": 1, "s_axil_bresp": 2, "s_axil_bready": 1, "s_axil_rvalid": 1, "s_axil_rdata": 9, "s_axil_rready": 1,
     "m_axi_wvalid": 1, "m_axi_wlast": 1, "m_axi_rvalid": 1, "m_axi_rlast": 1, "m_axi_rready": 1},
    {"m_axi_wvalid": 1, "m_axi_wready": 1, "m_axi_wlast": 1},
    {"m_axi_bvalid": 1},
    {"m_axi_bvalid": 1, "m_axi_bready": 1},
    {},
)


def broken(trace: list[Cycle]) -> list[str]:
    """The rules that the trace breaks."""
    monitor = ProtocolMonitor(CONFIG)
    simulator = Simulator(monitor)
    simulator.add_clock(1e-6)
    seen = []

    async def play(ctx: object) -> None:
        for cycle in trace:
            for name in monitor.signature.members:
                if name != "fault":
                    ctx.set(getattr(monitor, name), cycle.get(name, 0))  # type: ignore[attr-defined]
            await ctx.tick()  # type: ignore[attr-defined]
        seen.append(ctx.get(monitor.fault))  # type: ignore[attr-defined]

    simulator.add_testbench(play)
    simulator.run()
    return broken_rules(seen[0], True)


def put(at: int, **ports: int) -> Callable[[list[Cycle]], None]:
    """Change ports in one cycle."""
    return lambda trace: trace[at].update(ports)


WAITS = {"s_axil_aw": 1, "s_axil_ar": 1, "s_axil_b": 3, "s_axil_r": 3, "s_axis_t": 1, "m_axis_t": 1, "m_axi_aw": 1, "m_axi_ar": 1,
         "m_axi_w": 4, "m_axi_r": 3, "m_axi_b": 6}
"""Channel -> the cycle in which it waits."""
CHANNELS = [*WAITS, "s_axil_w"]
FIRST = {"s_axil_aw": "awprot", "s_axil_ar": "arprot", "s_axil_b": "bresp", "s_axil_r": "rdata", "s_axis_t": "tdata",
         "m_axis_t": "tdata", "m_axi_aw": "awqos", "m_axi_ar": "arcache", "m_axi_w": "wdata", "m_axi_r": "rdata",
         "m_axi_b": "bid"}


def withdraw(channel: str, at: int) -> Callable[[list[Cycle]], None]:
    """VALID pauses for a cycle after it waited; what else waits goes on waiting."""
    def change(trace: list[Cycle]) -> None:
        waiting = [name for name in CHANNELS
                   if name != channel and trace[at].get(f"{name}valid") and not trace[at].get(f"{name}ready")]
        trace.insert(at + 1, {name: value for name, value in trace[at].items()
                              if any(re.match(rf"{other}(?!ready)", name) for other in waiting)})
    return change


def alter(channel: str, at: int) -> Callable[[list[Cycle]], None]:
    prefix = channel[:channel.rindex("_") + 1]
    def change(trace: list[Cycle]) -> None:
        name = prefix + FIRST[channel]
        trace[at][name] = 3 if trace[at].get(name) != 3 else 0
    return change


def w_waits(trace: list[Cycle]) -> None:
    trace.insert(1, {"s_axil_wvalid": 1, "s_axil_wdata": 7})


def page(port: str) -> Callable[[list[Cycle]], None]:
    def change(trace: list[Cycle]) -> None:
        for at in (1, 2):
            trace[at][f"m_axi_{port}addr"] += 8
    return change


def both(*changes: Callable[[list[Cycle]], None]) -> Callable[[list[Cycle]], None]:
    def change(trace: list[Cycle]) -> None:
        for one in changes:
            one(trace)
    return change


def many(port: str) -> Callable[[list[Cycle]], None]:
    """Three bursts under way in place of two."""
    def change(trace: list[Cycle]) -> None:
        trace += [address(port, 0, 0) for _ in range(3)] + [{}]
    return change


BREAKS: dict[str, Callable[[list[Cycle]], None]] = {
    **{f"{channel}.withdrawn": withdraw(channel, at) for channel, at in WAITS.items()},
    **{f"{channel}.changed": alter(channel, at) for channel, at in WAITS.items()},
    "s_axil_w.withdrawn": both(w_waits, lambda trace: trace.insert(2, {})),
    "s_axil_w.changed": lambda trace: trace.insert(1, {"s_axil_wvalid": 1, "s_axil_wdata": 8}),
    "s_axil_b.response": both(put(3, s_axil_bresp=1), put(4, s_axil_bresp=1)),
    "s_axil_r.response": both(put(3, s_axil_rresp=1), put(4, s_axil_rresp=1)),
    "s_axil_b.early": put(2, s_axil_bvalid=1, s_axil_bresp=2),
    "s_axil_r.early": put(2, s_axil_rvalid=1, s_axil_rdata=9),
    "m_axi_aw.crosses": page("aw"), "m_axi_ar.crosses": lambda trace: [trace[at].update(m_axi_arlen=1) for at in (1, 2)][0],
    "m_axi_aw.burst": both(put(1, m_axi_awburst=2), put(2, m_axi_awburst=2)),
    "m_axi_ar.burst": both(put(1, m_axi_arburst=0), put(2, m_axi_arburst=0)),
    "m_axi_aw.size": both(put(1, m_axi_awsize=2), put(2, m_axi_awsize=2)),
    "m_axi_ar.size": both(put(1, m_axi_arsize=4), put(2, m_axi_arsize=4)),
    "m_axi_aw.many": many("aw"), "m_axi_ar.many": many("ar"),
    "m_axi_w.last": put(3, m_axi_wlast=1), "m_axi_r.last": lambda trace: [trace[at].update(m_axi_rlast=0) for at in (3, 4)][0],
    "m_axi_w.order": put(2, m_axi_wvalid=1, m_axi_wready=1),
    "m_axi_b.early": put(5, m_axi_bvalid=1), "m_axi_r.early": put(2, m_axi_rvalid=1, m_axi_rlast=1),
}
ALSO = {"m_axi_ar.crosses": {"m_axi_r.last"}, "m_axi_w.last": {"m_axi_w.order", "m_axi_b.early"},
        "m_axi_w.order": {"m_axi_w.last"}}
"""Rules that fall with another one: a burst that ends early leaves beats behind it."""


def test_the_legal_trace_breaks_nothing() -> None:
    assert broken(LEGAL) == []


@pytest.mark.parametrize("rule", [rule for rule in rules_of(True) if not rule.endswith(".reset")])
def test_each_rule_can_be_broken(rule: str) -> None:
    trace = copy.deepcopy(LEGAL)
    BREAKS[rule](trace)
    found = set(broken(trace))
    assert rule in found and found <= {rule} | ALSO.get(rule, set()), found


@pytest.mark.parametrize("channel", sorted({rule.split(".")[0] for rule in rules_of(True)}))
def test_valid_right_after_reset_is_found(channel: str) -> None:
    found = broken([{f"{channel}valid": 1, f"{channel}ready": 1}, {}])
    assert f"{channel}.reset" in found


def test_a_machine_without_memory_has_no_rules_for_it() -> None:
    rules = rules_of(False)
    assert rules and not any(rule.startswith("m_axi_") for rule in rules)
