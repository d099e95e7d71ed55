import time, cocotb
from sim.tb.tb_loader import *
@cocotb.test()
async def speed(dut):
    csrs = await begin(dut)
    dut.machine_busy.value = 1
    for idle in (0,1):
        if idle:
            feed=None
            from cocotbext.axi import AxiStreamBus, AxiStreamFrame, AxiStreamSource
            src=AxiStreamSource(AxiStreamBus.from_prefix(dut, "s_axis"), dut.clk, dut.rst); src.log.setLevel("WARNING")
            put=lambda p: src.send_nowait(AxiStreamFrame(p))
        else:
            own=StreamSource(dut,"s_axis",dut.clk); put=own.put
        describe(dut,0,1,8)
        n=20000 if not idle else 5000
        put(bytes(8*n)); 
        t=time.process_time(); await pulse(dut,"go")
        await until(dut,"fault")
        await ClockCycles(dut.clk, n)
        dt=time.process_time()-t
        cocotb.log.warning(f"SPEED {'cocotbext' if idle else 'own'} {n/dt:.0f} beats/s")
        if not idle: own.task.cancel()
    t=time.process_time(); await ClockCycles(dut.clk, 20000); dt=time.process_time()-t
    cocotb.log.warning(f"SPEED idle {20000/dt:.0f} cycles/s")
from cocotb.triggers import ClockCycles
