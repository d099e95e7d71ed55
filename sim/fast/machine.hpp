// The machine under Verilator, its clock, and what hangs at its ports: AXI4-Lite master, packet source, result sink, trace, memory.
#pragma once
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "Vmst_fast.h"
#include "formats.hpp"
#include "verilated.h"
#if MST_MEMORY_BITS
#include "memory.hpp"
#endif

/// What `eval()` of the model does, beside locks for threads that are not there: once the logic behind inputs, if there is any; then
/// again and again what waits for an event, until there is none. Weak: another Verilator may name them otherwise.
__attribute__((weak)) bool Vmst_fast___024root___eval_phase__ico(Vmst_fast___024root* root);
__attribute__((weak)) bool Vmst_fast___024root___eval_phase__act(Vmst_fast___024root* root);
__attribute__((weak)) bool Vmst_fast___024root___eval_phase__nba(Vmst_fast___024root* root);

using Bytes = std::vector<uint8_t>;

[[noreturn]] inline void fail(const std::string& what) {
    std::fflush(stdout);
    std::fprintf(stderr, "%s\n", what.c_str());
    std::_Exit(3);
}

inline std::string hex(uint64_t value) {
    char text[24];
    std::snprintf(text, sizeof text, "0x%" PRIx64, value);
    return text;
}

inline Bytes slurp(const std::string& path) {
    std::FILE* file = std::fopen(path.c_str(), "rb");
    if (!file) fail(path + ": cannot be read");
    Bytes data(std::filesystem::file_size(path));
    if (std::fread(data.data(), 1, data.size(), file) != data.size()) fail(path + ": cannot be read");
    std::fclose(file);
    return data;
}

/// The bytes of a port, lowest first: Verilator keeps ports as little-endian integers or arrays of 32-bit words.
template <class Port>
const uint8_t* bytes_of(const Port& port) {
    return reinterpret_cast<const uint8_t*>(&port);
}

/// A file that grows; `PATH.part` until it is whole. What was written after a snapshot is cut off again by `reopen`.
class GrowingFile {
  public:
    void open(const std::string& path) {
        path_ = path;
        file_ = std::fopen(part().c_str(), "wb");
        if (!file_) fail(part() + ": cannot be written");
        std::setvbuf(file_, nullptr, _IOFBF, 1 << 20);
    }
    void reopen(const std::string& path, uint64_t size) {
        path_ = path;
        if (!std::filesystem::exists(part()) && std::filesystem::exists(path)) std::filesystem::rename(path, part());
        if (!std::filesystem::exists(part()) || std::filesystem::file_size(part()) < size)
            fail(part() + ": shorter than the snapshot beside it says: delete the snapshot to start afresh");
        std::filesystem::resize_file(part(), size);
        file_ = std::fopen(part().c_str(), "ab");
        if (!file_) fail(part() + ": cannot be written");
    }
    bool is_open() const { return file_ != nullptr; }
    uint64_t flush() {
        if (std::fflush(file_)) full();
        std::fseek(file_, 0, SEEK_END);
        return static_cast<uint64_t>(std::ftell(file_));
    }
    void put(const void* data, size_t size) {
        if (std::fwrite(data, 1, size, file_) != size) full();
    }
    void close() {
        if (std::fclose(file_)) full();
        file_ = nullptr;
        std::filesystem::rename(part(), path_);
    }

  private:
    std::string part() const { return path_ + ".part"; }
    [[noreturn]] void full() const { fail(part() + ": cannot be written: is the disk full?"); }
    std::string path_;
    std::FILE* file_ = nullptr;
};

class Machine {
  public:
    Machine() {
        top.m_axis_tready = 1;
        top.eval();  // sets the model up
    }

    /// One clock cycle. Outputs count as they are just before the clock's edge.
    void step() {
#if MST_MEMORY_BITS
        drive_memory();
#endif
        if (changed_ || lite_) take();
        if (top.s_axis_tvalid && top.s_axis_tready) next_beat();
        if (top.m_axis_tvalid) {
            words.push_back(top.m_axis_tdata);
            packets += top.m_axis_tlast;
        }
        dispatch = top.trace_dispatch;
        if (dispatch) descriptor = top.trace_descriptor;
        if (trace.is_open()) write_trace();
        if (lite_) sample_lite();
#if MST_MEMORY_BITS
        clock_memory();
#endif
        top.clk ^= 1;
        evaluate();
        ++cycle;
    }

    void reset() {
        top.rst = changed_ = true;
        for (int i = 0; i < 4; ++i) step();
        top.rst = 0;
        changed_ = true;
    }

    void write(uint32_t address, uint32_t value) {
        lite_ = true;
        top.s_axil_awaddr = address;
        top.s_axil_wdata = value;
        top.s_axil_wstrb = 15;
        top.s_axil_awvalid = top.s_axil_wvalid = top.s_axil_bready = 1;
        for (int left = kPatience; left; --left) {
            step();
            if (seen_.awready) top.s_axil_awvalid = 0;
            if (seen_.wready) top.s_axil_wvalid = 0;
            if (!seen_.bvalid) continue;
            finish_lite();
            if (seen_.resp) fail("write of " + hex(value) + " to register " + hex(address) + ": response " + hex(seen_.resp));
            return;
        }
        fail("write to register " + hex(address) + ": no answer");
    }

    uint32_t read(uint32_t address) {
        lite_ = true;
        top.s_axil_araddr = address;
        top.s_axil_arvalid = top.s_axil_rready = 1;
        for (int left = kPatience; left; --left) {
            step();
            if (seen_.arready) top.s_axil_arvalid = 0;
            if (!seen_.rvalid) continue;
            finish_lite();
            if (seen_.resp) fail("read of register " + hex(address) + ": response " + hex(seen_.resp));
            return seen_.data;
        }
        fail("read of register " + hex(address) + ": no answer");
    }

    /// Offer a packet, beat by beat; `data` must stay where it is until it was sent.
    void send(const uint8_t* data, size_t size) {
        if (beat_ != end_) fail("script: a packet while one is under way");
        if (!size || size % sizeof top.s_axis_tdata) fail("script: a packet of " + std::to_string(size) + " bytes is not whole beats");
        beat_ = data;
        end_ = data + size;
        offer_beat();
    }

    /// What a snapshot needs beside the model. `base`: where packets lie (the script), which may move.
    template <class Move>
    void state(Move&& move, const uint8_t* base) {
        uint64_t place[] = {static_cast<uint64_t>(beat_ - base), static_cast<uint64_t>(end_ - base)};
        if (beat_ == end_) place[0] = place[1] = 0;
        move(place, sizeof place);
        beat_ = base + place[0];
        end_ = base + place[1];
        move(&cycle, sizeof cycle);
        move(&packets, sizeof packets);
        move(&changed_, sizeof changed_);
#if MST_MEMORY_BITS
        memory.state(move);
#endif
    }

    Vmst_fast top;
    uint64_t cycle = 0;
    bool dispatch = false;  // a descriptor was dispatched in the last cycle: `descriptor`
    uint32_t descriptor = 0;
    std::vector<uint32_t> words;  // results since they were last cleared
    uint32_t packets = 0;
    GrowingFile trace;
#if MST_MEMORY_BITS
    mst::Memory memory;
#endif

  private:
    static constexpr int kPatience = 1000;

    /// One round of it is enough: the only events are those of `clk` and `take` (sim/fast/clocks.py), which nothing inside moves.
    void evaluate() {
        if (Vmst_fast___024root___eval_phase__act && Vmst_fast___024root___eval_phase__nba && !Vmst_fast___024root___eval_phase__ico) {
            Vmst_fast___024root___eval_phase__act(top.rootp);
            Vmst_fast___024root___eval_phase__nba(top.rootp);
        } else {
            top.eval();
        }
    }

    /// Hand the inputs on (sim/fast/latch.py).
    void take() {
        changed_ = false;
        top.take ^= 1;
        evaluate();
    }

    void offer_beat() {
        changed_ = true;
        top.s_axis_tvalid = beat_ != end_;
        if (beat_ == end_) return;
        std::memcpy(&top.s_axis_tdata, beat_, sizeof top.s_axis_tdata);
        top.s_axis_tlast = beat_ + sizeof top.s_axis_tdata == end_;
    }

    void next_beat() {
        beat_ += sizeof top.s_axis_tdata;
        offer_beat();
    }

    void write_trace() {
        if (top.trace_spike_en) word(TRACE_SPIKE, top.trace_spike_address, bytes_of(top.trace_spike_data), MST_SPIKE_BYTES);
        if (top.trace_stream_en) word(TRACE_STREAM, top.trace_stream_address, bytes_of(top.trace_stream_data), MST_STREAM_BYTES);
        if (top.trace_dispatch) word(TRACE_DISPATCH, top.trace_descriptor, bytes_of(top.trace_cycle), 8);
        if (top.trace_finished) word(TRACE_FINISH, top.trace_descriptor, bytes_of(top.trace_cycle), 8);
    }

    void word(uint32_t kind, uint32_t first, const uint8_t* data, size_t size) {
        const uint32_t head[] = {kind, first};
        trace.put(head, sizeof head);
        trace.put(data, size);
    }

    void finish_lite() {
        top.s_axil_bready = top.s_axil_rready = lite_ = false;
        changed_ = true;
    }

    void sample_lite() {
        seen_ = {static_cast<bool>(top.s_axil_awready), static_cast<bool>(top.s_axil_wready), static_cast<bool>(top.s_axil_bvalid),
                 static_cast<bool>(top.s_axil_arready), static_cast<bool>(top.s_axil_rvalid),
                 static_cast<uint32_t>(top.s_axil_rvalid ? top.s_axil_rresp : top.s_axil_bresp), top.s_axil_rdata};
    }

#if MST_MEMORY_BITS
    void drive_memory() {
        if (!memory.moved()) return;
        changed_ = true;
        const mst::SlavePorts& out = memory.out();
        top.m_axi_arready = out.arready;
        top.m_axi_awready = out.awready;
        top.m_axi_wready = out.wready;
        top.m_axi_bvalid = out.bvalid;
        top.m_axi_bid = out.bid;
        top.m_axi_bresp = 0;
        top.m_axi_rvalid = out.rvalid;
        if (out.rvalid) {
            top.m_axi_rid = out.rid;
            top.m_axi_rresp = 0;
            top.m_axi_rlast = out.rlast;
            std::memcpy(&top.m_axi_rdata, out.rdata, MST_MEMORY_BITS / 8);
        }
    }

    void clock_memory() {
        mst::MasterPorts in;
        in.arvalid = top.m_axi_arvalid, in.araddr = top.m_axi_araddr, in.arlen = top.m_axi_arlen, in.arsize = top.m_axi_arsize;
        in.arburst = top.m_axi_arburst, in.arid = top.m_axi_arid, in.rready = top.m_axi_rready;
        in.awvalid = top.m_axi_awvalid, in.awaddr = top.m_axi_awaddr, in.awlen = top.m_axi_awlen, in.awsize = top.m_axi_awsize;
        in.awburst = top.m_axi_awburst, in.awid = top.m_axi_awid, in.bready = top.m_axi_bready;
        in.wvalid = top.m_axi_wvalid, in.wlast = top.m_axi_wlast, in.wstrb = top.m_axi_wstrb, in.wdata = bytes_of(top.m_axi_wdata);
        try {
            memory.clock(in);
        } catch (const mst::ProtocolError& error) {
            fail("cycle " + std::to_string(cycle) + ": " + error.what());
        }
    }
#endif

    struct Lite {
        bool awready, wready, bvalid, arready, rvalid;
        uint32_t resp, data;
    };
    Lite seen_{};
    bool lite_ = false, changed_ = true;  // a register access is under way; inputs changed that the machine has not seen
    const uint8_t *beat_ = nullptr, *end_ = nullptr;
};
