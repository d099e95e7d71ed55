// Tang Primer 20K on its Dock: the 27 MHz oscillator as it is, the machine behind its UART bridge, class and error on the LEDs.
module top(
  input clk_27mhz,
  input uart_rx,
  output uart_tx,
  input button,
  output [5:0] led
);
  // reset for 255 cycles after configuration, and while the button (low) is pressed
  reg [7:0] held = 0;
  reg [1:0] pressed = 0;
  reg rst = 1;
  always @(posedge clk_27mhz) begin
    pressed <= {pressed[0], ~button};
    if (pressed[1]) held <= 0;
    else if (!(&held)) held <= held + 1;
    rst <= !(&held);
  end

  wire [3:0] class_index;
  wire valid, busy, error;
  mst_uart_machine machine(
    .clk(clk_27mhz), .rst(rst), .rx(uart_rx), .tx(uart_tx),
    .class_index(class_index), .valid(valid), .busy(busy), .error(error)
  );
  assign led = ~{error, busy, class_index};
endmodule
