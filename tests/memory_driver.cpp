// Lets a Python test be the AXI4 master of sim/fast/memory.hpp: one line a cycle each way (tests/test_fast_memory.py).
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <sstream>

#include "memory.hpp"

namespace {

std::string hex(const uint8_t* data, size_t size) {
    std::string text;
    char two[3];
    for (size_t i = 0; i < size; ++i) std::snprintf(two, sizeof two, "%02x", data[i]), text += two;
    return text;
}

/// A second memory that goes on from the state of `memory`.
mst::Memory moved(mst::Memory& memory, size_t beat, uint32_t latency, uint32_t num, uint32_t den) {
    std::vector<uint8_t> saved;
    memory.state([&](void* data, size_t size) {
        saved.insert(saved.end(), static_cast<uint8_t*>(data), static_cast<uint8_t*>(data) + size);
    });
    mst::Memory other;
    other.configure({}, beat, latency, num, den);
    size_t at = 0;
    other.state([&](void* data, size_t size) {
        std::memcpy(data, saved.data() + at, size);
        at += size;
    });
    return other;
}

}  // namespace

int main(int, char** argv) {
    const size_t beat = std::strtoul(argv[1], nullptr, 10), size = std::strtoul(argv[2], nullptr, 10);
    const auto latency = static_cast<uint32_t>(std::atoi(argv[3])), num = static_cast<uint32_t>(std::atoi(argv[4])),
               den = static_cast<uint32_t>(std::atoi(argv[5]));
    try {
        std::vector<uint8_t> contents(size);
        for (size_t i = 0; i < size; ++i) contents[i] = static_cast<uint8_t>(i * 7 + i / 256);
        mst::Memory memory;
        memory.configure(contents, beat, latency, num, den);
        std::string line;
        for (;;) {
            const mst::SlavePorts& out = memory.out();
            std::cout << out.arready << ' ' << out.rvalid << ' ' << out.rlast << ' ' << hex(out.rdata, beat) << ' ' << out.awready << ' '
                      << out.wready << ' ' << out.bvalid << ' ' << memory.moved() << ' ' << memory.beats_read() << ' '
                      << memory.beats_written() << ' ' << memory.starved() << ' ' << memory.idle() << std::endl;
            if (!std::getline(std::cin, line)) return 0;
            if (line == "save") {
                mst::Memory other = moved(memory, beat, latency, num, den);
                memory = std::move(other);
                memory.rebind();
                continue;
            }
            std::istringstream in(line);
            mst::MasterPorts ports;
            std::string data;
            in >> ports.arvalid >> ports.araddr >> ports.arlen >> ports.arsize >> ports.arburst >> ports.rready >> ports.awvalid >>
                ports.awaddr >> ports.awlen >> ports.awsize >> ports.awburst >> ports.wvalid >> data >> ports.wstrb >> ports.wlast >>
                ports.bready;
            if (!in) throw std::runtime_error("driver: bad line: " + line);
            std::vector<uint8_t> bytes(beat);
            for (size_t i = 0; i < beat; ++i) bytes[i] = static_cast<uint8_t>(std::stoi(data.substr(2 * i, 2), nullptr, 16));
            ports.wdata = bytes.data();
            memory.clock(ports);
        }
    } catch (const std::exception& error) {
        std::cout << "error " << error.what() << std::endl;
        return 3;
    }
}
