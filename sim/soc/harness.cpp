// Clocks module `mst_soc` and writes what its UART sends to standard output. Arguments: +ram=FILE +flash=FILE +cycles=MOST.
// Exit code 0: the CPU stopped; 3: not within so many cycles, or a byte without its stop bit.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "Vmst_soc.h"
#include "verilated.h"

namespace {
constexpr int kDivider = 8;  // BAUD_DIVIDER

/// Looks at the line in the middle of every bit.
class Uart {
  public:
    void clock(bool line) {
        if (!bits_) {
            if (!line) bits_ = 10, wait_ = kDivider / 2, byte_ = 0;
            return;
        }
        if (--wait_) return;
        wait_ = kDivider;
        --bits_;
        if (bits_ == 9) return;  // start bit
        if (bits_) {
            byte_ = byte_ >> 1 | (line ? 0x80 : 0);
            return;
        }
        if (!line) {
            std::fprintf(stderr, "the UART sent a byte without a stop bit\n");
            std::exit(3);
        }
        std::putchar(byte_);
        if (byte_ == '\n') std::fflush(stdout);
    }

  private:
    int bits_ = 0, wait_ = 0;
    uint8_t byte_ = 0;
};
}  // namespace

int main(int argc, char** argv) {
    Verilated::commandArgs(argc, argv);
    const char* most = Verilated::commandArgsPlusMatch("cycles=");
    const uint64_t limit = std::strtoull(std::strlen(most) ? std::strchr(most, '=') + 1 : "1000000000", nullptr, 10);
    Vmst_soc top;
    Uart uart;
    uint64_t cycle = 0, idle = 0;
    for (; cycle < limit; ++cycle) {
        top.rst = cycle < 8;
        top.clk = 0;
        top.eval();
        uart.clock(top.uart_tx || cycle < 8);
        top.clk = 1;
        top.eval();
        if (top.trap && cycle >= 8 && ++idle > 12 * kDivider) break;  // the last byte has left
    }
    top.final();
    std::fflush(stdout);
    std::fprintf(stderr, "%llu cycles\n", static_cast<unsigned long long>(cycle));
    return top.trap ? 0 : 3;
}
