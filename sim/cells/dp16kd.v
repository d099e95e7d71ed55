// A simulation model of the ECP5's block RAM as Yosys uses it, for the post-synthesis check. Yosys itself has only a black box.
// Facts: Lattice FPGA-TN-02204 (modes, widths), Yosys' netlists (where data, byte enables and INITVAL bits go).
// 1,024 words of 18 bits. A narrower word lies in one byte of 9 bits, whose ninth bit only widths of 9 and up use; one of 36 bits
// is two words, written through port A and read through port B. What a read gives of a word that the other port writes in the same
// cycle is the old word here and undefined in the device; the machine relies on neither.
module DP16KD(
  input DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9, DIA8, DIA7, DIA6, DIA5, DIA4, DIA3, DIA2, DIA1, DIA0,
  input ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3, ADA2, ADA1, ADA0,
  input CEA, OCEA, CLKA, WEA, RSTA, CSA2, CSA1, CSA0,
  output DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9, DOA8, DOA7, DOA6, DOA5, DOA4, DOA3, DOA2, DOA1, DOA0,
  input DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9, DIB8, DIB7, DIB6, DIB5, DIB4, DIB3, DIB2, DIB1, DIB0,
  input ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3, ADB2, ADB1, ADB0,
  input CEB, OCEB, CLKB, WEB, RSTB, CSB2, CSB1, CSB0,
  output DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9, DOB8, DOB7, DOB6, DOB5, DOB4, DOB3, DOB2, DOB1, DOB0
);
  parameter DATA_WIDTH_A = 18, DATA_WIDTH_B = 18;
  parameter REGMODE_A = "NOREG", REGMODE_B = "NOREG", RESETMODE = "SYNC", ASYNC_RESET_RELEASE = "SYNC", GSR = "ENABLED";
  parameter CSDECODE_A = "0b000", CSDECODE_B = "0b000", WRITEMODE_A = "NORMAL", WRITEMODE_B = "NORMAL";
  parameter CLKAMUX = "CLKA", CLKBMUX = "CLKB";
  parameter [319:0] INITVAL_00 = 320'd0; parameter [319:0] INITVAL_01 = 320'd0;
  parameter [319:0] INITVAL_02 = 320'd0; parameter [319:0] INITVAL_03 = 320'd0;
  parameter [319:0] INITVAL_04 = 320'd0; parameter [319:0] INITVAL_05 = 320'd0;
  parameter [319:0] INITVAL_06 = 320'd0; parameter [319:0] INITVAL_07 = 320'd0;
  parameter [319:0] INITVAL_08 = 320'd0; parameter [319:0] INITVAL_09 = 320'd0;
  parameter [319:0] INITVAL_0A = 320'd0; parameter [319:0] INITVAL_0B = 320'd0;
  parameter [319:0] INITVAL_0C = 320'd0; parameter [319:0] INITVAL_0D = 320'd0;
  parameter [319:0] INITVAL_0E = 320'd0; parameter [319:0] INITVAL_0F = 320'd0;
  parameter [319:0] INITVAL_10 = 320'd0; parameter [319:0] INITVAL_11 = 320'd0;
  parameter [319:0] INITVAL_12 = 320'd0; parameter [319:0] INITVAL_13 = 320'd0;
  parameter [319:0] INITVAL_14 = 320'd0; parameter [319:0] INITVAL_15 = 320'd0;
  parameter [319:0] INITVAL_16 = 320'd0; parameter [319:0] INITVAL_17 = 320'd0;
  parameter [319:0] INITVAL_18 = 320'd0; parameter [319:0] INITVAL_19 = 320'd0;
  parameter [319:0] INITVAL_1A = 320'd0; parameter [319:0] INITVAL_1B = 320'd0;
  parameter [319:0] INITVAL_1C = 320'd0; parameter [319:0] INITVAL_1D = 320'd0;
  parameter [319:0] INITVAL_1E = 320'd0; parameter [319:0] INITVAL_1F = 320'd0;
  parameter [319:0] INITVAL_20 = 320'd0; parameter [319:0] INITVAL_21 = 320'd0;
  parameter [319:0] INITVAL_22 = 320'd0; parameter [319:0] INITVAL_23 = 320'd0;
  parameter [319:0] INITVAL_24 = 320'd0; parameter [319:0] INITVAL_25 = 320'd0;
  parameter [319:0] INITVAL_26 = 320'd0; parameter [319:0] INITVAL_27 = 320'd0;
  parameter [319:0] INITVAL_28 = 320'd0; parameter [319:0] INITVAL_29 = 320'd0;
  parameter [319:0] INITVAL_2A = 320'd0; parameter [319:0] INITVAL_2B = 320'd0;
  parameter [319:0] INITVAL_2C = 320'd0; parameter [319:0] INITVAL_2D = 320'd0;
  parameter [319:0] INITVAL_2E = 320'd0; parameter [319:0] INITVAL_2F = 320'd0;
  parameter [319:0] INITVAL_30 = 320'd0; parameter [319:0] INITVAL_31 = 320'd0;
  parameter [319:0] INITVAL_32 = 320'd0; parameter [319:0] INITVAL_33 = 320'd0;
  parameter [319:0] INITVAL_34 = 320'd0; parameter [319:0] INITVAL_35 = 320'd0;
  parameter [319:0] INITVAL_36 = 320'd0; parameter [319:0] INITVAL_37 = 320'd0;
  parameter [319:0] INITVAL_38 = 320'd0; parameter [319:0] INITVAL_39 = 320'd0;
  parameter [319:0] INITVAL_3A = 320'd0; parameter [319:0] INITVAL_3B = 320'd0;
  parameter [319:0] INITVAL_3C = 320'd0; parameter [319:0] INITVAL_3D = 320'd0;
  parameter [319:0] INITVAL_3E = 320'd0; parameter [319:0] INITVAL_3F = 320'd0;

  localparam [64*320-1:0] INIT = {
    INITVAL_3F, INITVAL_3E, INITVAL_3D, INITVAL_3C, INITVAL_3B, INITVAL_3A, INITVAL_39, INITVAL_38,
    INITVAL_37, INITVAL_36, INITVAL_35, INITVAL_34, INITVAL_33, INITVAL_32, INITVAL_31, INITVAL_30,
    INITVAL_2F, INITVAL_2E, INITVAL_2D, INITVAL_2C, INITVAL_2B, INITVAL_2A, INITVAL_29, INITVAL_28,
    INITVAL_27, INITVAL_26, INITVAL_25, INITVAL_24, INITVAL_23, INITVAL_22, INITVAL_21, INITVAL_20,
    INITVAL_1F, INITVAL_1E, INITVAL_1D, INITVAL_1C, INITVAL_1B, INITVAL_1A, INITVAL_19, INITVAL_18,
    INITVAL_17, INITVAL_16, INITVAL_15, INITVAL_14, INITVAL_13, INITVAL_12, INITVAL_11, INITVAL_10,
    INITVAL_0F, INITVAL_0E, INITVAL_0D, INITVAL_0C, INITVAL_0B, INITVAL_0A, INITVAL_09, INITVAL_08,
    INITVAL_07, INITVAL_06, INITVAL_05, INITVAL_04, INITVAL_03, INITVAL_02, INITVAL_01, INITVAL_00};
  localparam WIDE = DATA_WIDTH_A == 36 || DATA_WIDTH_B == 36;

  reg [17:0] words[0:1023];
  integer index;
  initial
    for (index = 0; index < 1024; index = index + 1)
      words[index] = INIT[20*index +: 18];

  // "0b101" as text
  function [2:0] chip(input [39:0] text);
    chip = {text[16], text[8], text[0]};
  endfunction

  // Where a word begins in its 18 bits: one of two bytes of 9 bits, then a part of it.
  function [4:0] place(input integer width, input [13:0] address);
    place = width >= 18 ? 0 : (address[3] ? 9 : 0) + (width == 9 ? 0 : width == 4 ? {2'b0, address[2], 2'b0} :
                                                    width == 2 ? {2'b0, address[2:1], 1'b0} : {2'b0, address[2:0]});
  endfunction

  function [17:0] read(input integer width, input [13:0] address);
    read = width >= 18 ? words[address[13:4]] :
           (words[address[13:4]] >> place(width, address)) & ((18'd1 << width) - 18'd1);
  endfunction

  task write(input integer width, input [13:0] address, input [35:0] data);
    begin
      if (width >= 18) begin
        if (address[0]) words[address[13:4]][8:0] <= data[8:0];
        if (address[1]) words[address[13:4]][17:9] <= data[17:9];
        if (width == 36 && address[2]) words[{address[13:5], 1'b1}][8:0] <= data[26:18];
        if (width == 36 && address[3]) words[{address[13:5], 1'b1}][17:9] <= data[35:27];
      end else if (width == 9) words[address[13:4]][place(width, address) +: 9] <= data[8:0];
      else if (width == 4) words[address[13:4]][place(width, address) +: 4] <= data[3:0];
      else if (width == 2) words[address[13:4]][place(width, address) +: 2] <= data[1:0];
      else words[address[13:4]][place(width, address)] <= data[0];
    end
  endtask

  wire [13:0] address_a = {ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3, ADA2, ADA1, ADA0};
  wire [13:0] address_b = {ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3, ADB2, ADB1, ADB0};
  wire [17:0] in_b = {DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9, DIB8, DIB7, DIB6, DIB5, DIB4, DIB3, DIB2, DIB1, DIB0};
  wire [35:0] data_a = {in_b, DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9, DIA8, DIA7, DIA6, DIA5, DIA4, DIA3, DIA2, DIA1, DIA0};
  wire [35:0] data_b = {18'd0, in_b};

  wire clk_a = CLKAMUX == "INV" ? ~CLKA : CLKA;
  wire on_a = CEA & (({CSA2, CSA1, CSA0}) == chip(CSDECODE_A));
  reg [17:0] latch_a = 0, out_a = 0;
  always @(posedge clk_a) begin
    if (on_a) begin
      if (WEA) write(DATA_WIDTH_A, address_a, data_a);
      if (!WEA || WRITEMODE_A != "NORMAL")
        latch_a <= WEA && WRITEMODE_A == "WRITETHROUGH" ? data_a[17:0] : read(DATA_WIDTH_A, address_a);
    end
    if (OCEA) out_a <= latch_a;
    if (RSTA) begin
      latch_a <= 0;
      out_a <= 0;
    end
  end

  wire clk_b = CLKBMUX == "INV" ? ~CLKB : CLKB;
  wire on_b = CEB & (({CSB2, CSB1, CSB0}) == chip(CSDECODE_B));
  reg [17:0] latch_b = 0, out_b = 0;
  always @(posedge clk_b) begin
    if (on_b) begin
      if (WEB) write(DATA_WIDTH_B, address_b, data_b);
      if (!WEB || WRITEMODE_B != "NORMAL")
        latch_b <= WEB && WRITEMODE_B == "WRITETHROUGH" ? data_b[17:0] : read(DATA_WIDTH_B, address_b);
    end
    if (OCEB) out_b <= latch_b;
    if (RSTB) begin
      latch_b <= 0;
      out_b <= 0;
    end
  end

  // the upper half of a word of 36 bits
  reg [17:0] latch_w = 0, out_w = 0;
  always @(posedge clk_b) begin
    if (on_b) latch_w <= words[{address_b[13:5], 1'b1}];
    if (OCEB) out_w <= latch_w;
  end
  wire [17:0] from_a = REGMODE_A == "OUTREG" ? out_a : latch_a;
  wire [17:0] from_b = REGMODE_B == "OUTREG" ? out_b : latch_b;
  wire [17:0] from_w = REGMODE_B == "OUTREG" ? out_w : latch_w;
  assign {DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9, DOA8, DOA7, DOA6, DOA5, DOA4, DOA3, DOA2, DOA1, DOA0} = WIDE ? from_b : from_a;
  assign {DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9, DOB8, DOB7, DOB6, DOB5, DOB4, DOB3, DOB2, DOB1, DOB0} = WIDE ? from_w : from_b;
endmodule
