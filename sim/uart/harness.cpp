// A board in simulation: the machine behind its UART bridge, its two wires as bytes on stdin and stdout.
// The protocol stands in firmware/host/simulated.py. Arguments: cycles of a UART bit, clock in Hz.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <vector>

#include "Vmst_uart_machine.h"
#include "verilated.h"

namespace {

bool get(void* data, size_t size) { return std::fread(data, 1, size, stdin) == size; }

void put(uint64_t cycle, uint32_t lamps, const std::vector<uint8_t>& bytes) {
    const uint32_t rest[] = {lamps, static_cast<uint32_t>(bytes.size())};
    std::fwrite(&cycle, sizeof cycle, 1, stdout);
    std::fwrite(rest, sizeof rest, 1, stdout);
    std::fwrite(bytes.data(), 1, bytes.size(), stdout);
    std::fflush(stdout);
}

struct Board {
    Vmst_uart_machine top;
    const unsigned bit;
    uint64_t cycle = 0;
    std::deque<uint8_t> outgoing;
    std::vector<uint8_t> came;
    unsigned send_left = 0, send_count = 0, send_bits = 0;     // bits still to send; cycles of this bit
    unsigned take_left = 0, take_count = 0, take_bits = 0, idle = 0;

    explicit Board(unsigned bit_cycles) : bit(bit_cycles) {
        top.rx = 1;
        top.rst = 1;
        for (int i = 0; i < 8; ++i) step();
        top.rst = 0;
    }

    void step() {
        send();
        top.eval();
        take();
        top.clk = 1;
        top.eval();
        top.clk = 0;
        top.eval();
        ++cycle;
    }

    void send() {
        if (send_count) {
            --send_count;
            return;
        }
        if (!send_left) {
            if (outgoing.empty()) {
                top.rx = 1;
                return;
            }
            send_bits = 0x200u | outgoing.front() << 1;  // start bit 0, data, stop bit 1
            outgoing.pop_front();
            send_left = 10;
        }
        top.rx = send_bits & 1;
        send_bits >>= 1;
        --send_left;
        send_count = bit - 1;
    }

    void take() {
        idle = top.tx ? idle + 1 : 0;
        if (!take_left) {
            if (!top.tx) take_left = 10, take_bits = 0, take_count = bit / 2;
            return;
        }
        if (take_count--) return;
        take_count = bit - 1;
        take_bits |= static_cast<unsigned>(top.tx) << (10 - take_left);
        if (!--take_left && (take_bits & 0x201) == 0x200) came.push_back(take_bits >> 1 & 0xff);
    }

    uint32_t lamps() const { return top.class_index | top.valid << 4 | top.busy << 5 | top.error << 6; }
};

}  // namespace

int main(int argc, char** argv) {
    if (argc != 3) {
        std::fprintf(stderr, "usage: %s BIT_CYCLES CLOCK_HZ\n", argv[0]);
        return 2;
    }
    Board board(static_cast<unsigned>(std::atoi(argv[1])));
    put(std::strtoull(argv[2], nullptr, 10), 0, {});
    for (uint32_t head[2]; get(head, sizeof head);) {
        std::vector<uint8_t> bytes(head[1]);
        if (!get(bytes.data(), bytes.size())) break;
        board.outgoing.insert(board.outgoing.end(), bytes.begin(), bytes.end());
        const uint64_t end = board.cycle + head[0];
        do board.step();
        while (board.cycle < end && !(board.came.size() && board.idle > 20 * board.bit));
        put(board.cycle, board.lamps(), board.came);
        board.came.clear();
    }
    return 0;
}
