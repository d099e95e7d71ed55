// A small SoC: PicoRV32, RAM, flash, UART, and the accelerator behind its stream window. Simulation: RAM and flash are read from files.
//
//   0x0000_0000  RAM, 64 KiB     +ram=FILE    the firmware, from the reset address 0 on
//   0x1000_0000  flash, 4 MiB    +flash=FILE  read only: the packed network and the images
//   0x2000_0000  accelerator, 8 KiB (docs/registers.md)
//   0x3000_0000  UART: a write sends a byte (8N1, BAUD_DIVIDER cycles a bit); reads 1 while it is busy
//
// Interrupt 3 is the accelerator's, a level. The files hold one 32-bit word a line, hexadecimal.
`timescale 1ns / 1ps
module mst_soc #(
  parameter RAM_WORDS = 16384,
  parameter FLASH_WORDS = 1048576,
  parameter BAUD_DIVIDER = 8
) (
  input  wire clk,
  input  wire rst,
  output wire uart_tx,
  output wire trap
);
  wire        mem_valid, mem_instr;
  wire [31:0] mem_addr, mem_wdata;
  wire [3:0]  mem_wstrb;
  reg         local_ready;
  reg  [31:0] local_data;
  wire        irq;

  // the accelerator's AXI4-Lite, through PicoRV32's own adapter
  wire        axi_ready;
  wire [31:0] axi_data, awaddr, araddr, wdata, rdata;
  wire [3:0]  wstrb;
  wire        awvalid, awready, wvalid, wready, bvalid, bready, arvalid, arready, rvalid, rready;
  wire        to_accelerator = mem_addr[31:28] == 4'h2;

  picorv32 #(
    .ENABLE_MUL(1), .ENABLE_DIV(1), .BARREL_SHIFTER(1), .ENABLE_IRQ(1), .ENABLE_IRQ_QREGS(0), .LATCHED_IRQ(32'h0000_0006),
    .STACKADDR(4 * RAM_WORDS)
  ) cpu (
    .clk(clk), .resetn(!rst), .trap(trap),
    .mem_valid(mem_valid), .mem_instr(mem_instr), .mem_ready(to_accelerator ? axi_ready : local_ready),
    .mem_addr(mem_addr), .mem_wdata(mem_wdata), .mem_wstrb(mem_wstrb), .mem_rdata(to_accelerator ? axi_data : local_data),
    .mem_la_read(), .mem_la_write(), .mem_la_addr(), .mem_la_wdata(), .mem_la_wstrb(),
    .pcpi_valid(), .pcpi_insn(), .pcpi_rs1(), .pcpi_rs2(), .pcpi_wr(1'b0), .pcpi_rd(32'b0), .pcpi_wait(1'b0), .pcpi_ready(1'b0),
    .irq({28'b0, irq, 3'b0}), .eoi(), .trace_valid(), .trace_data()
  );

  picorv32_axi_adapter adapter (
    .clk(clk), .resetn(!rst),
    .mem_axi_awvalid(awvalid), .mem_axi_awready(awready), .mem_axi_awaddr(awaddr), .mem_axi_awprot(),
    .mem_axi_wvalid(wvalid), .mem_axi_wready(wready), .mem_axi_wdata(wdata), .mem_axi_wstrb(wstrb),
    .mem_axi_bvalid(bvalid), .mem_axi_bready(bready),
    .mem_axi_arvalid(arvalid), .mem_axi_arready(arready), .mem_axi_araddr(araddr), .mem_axi_arprot(),
    .mem_axi_rvalid(rvalid), .mem_axi_rready(rready), .mem_axi_rdata(rdata),
    .mem_valid(mem_valid && to_accelerator), .mem_instr(mem_instr), .mem_ready(axi_ready), .mem_addr(mem_addr),
    .mem_wdata(mem_wdata), .mem_wstrb(mem_wstrb), .mem_rdata(axi_data)
  );

  mst_mmio accelerator (
    .clk(clk), .rst(rst), .irq(irq),
    .s_axil_awaddr(awaddr[12:0]), .s_axil_awprot(3'b0), .s_axil_awvalid(awvalid), .s_axil_awready(awready),
    .s_axil_wdata(wdata), .s_axil_wstrb(wstrb), .s_axil_wvalid(wvalid), .s_axil_wready(wready),
    .s_axil_bresp(), .s_axil_bvalid(bvalid), .s_axil_bready(bready),
    .s_axil_araddr(araddr[12:0]), .s_axil_arprot(3'b0), .s_axil_arvalid(arvalid), .s_axil_arready(arready),
    .s_axil_rdata(rdata), .s_axil_rresp(), .s_axil_rvalid(rvalid), .s_axil_rready(rready)
  );

  // RAM, flash
  reg [31:0] ram [0:RAM_WORDS-1];
  reg [31:0] flash [0:FLASH_WORDS-1];
  reg [8*1024-1:0] path;
  initial begin
    if ($value$plusargs("ram=%s", path)) $readmemh(path, ram);
    if ($value$plusargs("flash=%s", path)) $readmemh(path, flash);
  end

  // UART: start bit, 8 data bits, stop bit
  reg [9:0]  shift;
  reg [3:0]  bits;
  reg [15:0] divider;
  assign uart_tx = shift[0];

  wire local_access = mem_valid && !to_accelerator && !local_ready;
  always @(posedge clk) begin
    local_ready <= local_access;
    if (local_access) begin
      case (mem_addr[31:28])
        4'h0: begin
          local_data <= ram[mem_addr[31:2] % RAM_WORDS];
          if (mem_wstrb[0]) ram[mem_addr[31:2] % RAM_WORDS][7:0] <= mem_wdata[7:0];
          if (mem_wstrb[1]) ram[mem_addr[31:2] % RAM_WORDS][15:8] <= mem_wdata[15:8];
          if (mem_wstrb[2]) ram[mem_addr[31:2] % RAM_WORDS][23:16] <= mem_wdata[23:16];
          if (mem_wstrb[3]) ram[mem_addr[31:2] % RAM_WORDS][31:24] <= mem_wdata[31:24];
        end
        4'h1: local_data <= flash[mem_addr[27:2] % FLASH_WORDS];
        default: local_data <= {31'b0, bits != 0};
      endcase
    end
    if (bits != 0) begin
      if (divider == 0) begin
        divider <= BAUD_DIVIDER - 1;
        shift <= {1'b1, shift[9:1]};
        bits <= bits - 1;
      end else divider <= divider - 1;
    end else if (local_access && mem_addr[31:28] == 4'h3 && mem_wstrb[0]) begin
      shift <= {1'b1, mem_wdata[7:0], 1'b0};
      bits <= 10;
      divider <= BAUD_DIVIDER - 1;
    end
    if (rst) begin
      local_ready <= 0;
      shift <= 10'h3FF;
      bits <= 0;
    end
  end
endmodule
