# Reset: stack, clear .bss, main, stop. One hart, no interrupts taken.
    .section .text.start
    .global _start
_start:
    la sp, _stack
    la t0, _bss
    la t1, _end
1:  bgeu t0, t1, 2f
    sw zero, 0(t0)
    addi t0, t0, 4
    j 1b
2:  call main
    ebreak                  # PicoRV32 traps: the simulation ends
