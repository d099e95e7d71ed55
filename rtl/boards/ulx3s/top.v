// ULX3S 85F: 25 MHz -> 80 MHz, the machine behind its UART bridge on the FTDI's wires, class and error on the LEDs.
module top(
  input clk_25mhz,
  input ftdi_txd,
  output ftdi_rxd,
  input btn_fire1,
  output [7:0] led,
  output wifi_gpio0
);
  // VCO = 25 MHz / CLKI_DIV * CLKFB_DIV * CLKOP_DIV = 560 MHz (400 to 800), CLKOP = VCO / CLKOP_DIV = 80 MHz
  wire clk, locked;
  (* ICP_CURRENT="12" *) (* LPF_RESISTOR="8" *) (* MFG_ENABLE_FILTEROPAMP="1" *) (* MFG_GMCREF_SEL="2" *)
  EHXPLLL #(
    .CLKI_DIV(5), .CLKFB_DIV(16), .CLKOP_DIV(7), .CLKOP_CPHASE(3), .CLKOP_FPHASE(0), .CLKOP_ENABLE("ENABLED"),
    .FEEDBK_PATH("CLKOP"), .OUTDIVIDER_MUXA("DIVA"), .PLLRST_ENA("DISABLED"), .INTFB_WAKE("DISABLED"),
    .STDBY_ENABLE("DISABLED"), .DPHASE_SOURCE("DISABLED")
  ) pll (
    .CLKI(clk_25mhz), .CLKFB(clk), .CLKOP(clk), .LOCK(locked), .RST(1'b0), .STDBY(1'b0), .CLKINTFB(),
    .PHASESEL0(1'b0), .PHASESEL1(1'b0), .PHASEDIR(1'b1), .PHASESTEP(1'b1), .PHASELOADREG(1'b1), .PLLWAKESYNC(1'b0),
    .ENCLKOP(1'b0)
  );

  // reset until the PLL has locked and 255 cycles more, and while FIRE1 is pressed
  reg [7:0] held = 0;
  reg [1:0] button = 0;
  reg rst = 1;
  always @(posedge clk) begin
    button <= {button[0], btn_fire1};
    if (!locked || button[1]) held <= 0;
    else if (!(&held)) held <= held + 1;
    rst <= !(&held);
  end

  wire [3:0] class_index;
  wire valid, busy, error;
  mst_uart_machine machine(
    .clk(clk), .rst(rst), .rx(ftdi_txd), .tx(ftdi_rxd),
    .class_index(class_index), .valid(valid), .busy(busy), .error(error)
  );
  assign led = {error, busy, ~rst, valid, class_index};
  assign wifi_gpio0 = 1'b1;
endmodule
