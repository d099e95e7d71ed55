// Cells of Yosys' ECP5 netlists: Yosys' own models (share/ecp5 of its package is on the include path) and ours for the block RAM.
// verilator lint_off SPECIFYIGN
// verilator lint_off INITIALDLY
// verilator lint_off PINMISSING
`include "common_sim.vh"
`include "ccu2c_sim.vh"
`include "dp16kd.v"
