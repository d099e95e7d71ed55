// External memory behind an AXI4 master: one slave with latency, bandwidth and protocol checks. No Verilator in here.
//
// All outputs are registered: they are decided at a clock edge, from what was seen at that edge, for the cycle behind it.
//   latency L     AR taken in cycle c: the first beat of its burst is offered in cycle c + L at the earliest; last W beat taken in
//                 cycle c: B is offered in cycle c + L at the earliest. L >= 1.
//   bandwidth     num / den beats a cycle for R and W together. At each edge the credit grows by num / den, and at most one beat of it
//                 is kept. An R beat takes one beat of credit when it is offered (it is then held until taken); a W beat when it is
//                 taken. WREADY is offered only with a whole beat of credit, for a burst whose AW was taken before, and while WVALID
//                 was high at the edge was_. When R and W both want the next beat they alternate.
//   order         all in order, at most 64 bursts under way in each direction (AW counts until its B is taken).
// A read sees every W beat that was taken before its own beat was offered.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <deque>
#include <stdexcept>
#include <string>
#include <vector>

namespace mst {

/// The master broke the protocol: one line.
struct ProtocolError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

/// What the master drives in one cycle. `wdata` points to the bytes of a beat.
struct MasterPorts {
    bool arvalid = false, rready = false, awvalid = false, wvalid = false, wlast = false, bready = false;
    uint32_t arid = 0, arlen = 0, arsize = 0, arburst = 0, awid = 0, awlen = 0, awsize = 0, awburst = 0;
    uint64_t araddr = 0, awaddr = 0, wstrb = 0;
    const uint8_t* wdata = nullptr;
};

/// What the memory drives in one cycle. `rdata` points to the bytes of a beat.
struct SlavePorts {
    bool arready = true, rvalid = false, rlast = false, awready = true, wready = false, bvalid = false;
    uint32_t rid = 0, bid = 0;
    const uint8_t* rdata = nullptr;
};

class Memory {
  public:
    static constexpr size_t kOutstanding = 64;
    static constexpr uint64_t kPage = 4096;

    /// `beat_bytes`: bytes of a beat, a power of two. ProtocolError on a size or speed that cannot be.
    void configure(std::vector<uint8_t> contents, size_t beat_bytes, uint32_t latency, uint32_t num, uint32_t den) {
        if (latency < 1) throw ProtocolError("memory: latency must be at least 1 cycle, not 0");
        if (num < 1 || den < num) throw ProtocolError("memory: bandwidth must be above 0 and at most 1 beat a cycle, not " +
                                                      std::to_string(num) + "/" + std::to_string(den));
        if (contents.size() % beat_bytes) throw ProtocolError("memory: " + std::to_string(contents.size()) + " bytes are not whole beats");
        bytes_ = std::move(contents);
        beat_ = beat_bytes;
        latency_ = latency;
        num_ = num;
        den_ = den;
        offered_.resize(beat_bytes);
        held_.resize(beat_bytes);
        rebind();
    }

    /// What the memory drives in this cycle.
    const SlavePorts& out() const { return out_; }

    /// The outputs differ from those of the cycle before (a new R beat counts).
    bool moved() const { return moved_; }

    /// The rising edge: `in` is what the master drove in this cycle. ProtocolError when the master broke a rule.
    void clock(const MasterPorts& in) {
        check(in);
        if (in.arvalid && out_.arready) reads_.push_back({in.araddr, in.arlen + 1, in.arid, now_ + latency_});
        if (in.awvalid && out_.awready) writes_.push_back({in.awaddr, in.awlen + 1, in.awid, 0});
        if (out_.wready && in.wvalid) take(in);
        if (out_.rvalid && in.rready) out_.rvalid = false;
        if (out_.bvalid && in.bready) out_.bvalid = false, answers_.pop_front();
        last_ = in;
        if (in.wvalid) std::memcpy(held_.data(), in.wdata, beat_);
        ++now_;
        decide(in.wvalid);
        const bool same = was_.arready == out_.arready && was_.rvalid == out_.rvalid && was_.awready == out_.awready &&
                          was_.wready == out_.wready && was_.bvalid == out_.bvalid && was_.bid == out_.bid;
        moved_ = !same || fresh_;
        was_ = out_;
    }

    uint64_t beats_read() const { return beats_read_; }
    uint64_t beats_written() const { return beats_written_; }
    /// Cycles in which a read beat could have been offered but for the bandwidth.
    uint64_t starved() const { return starved_; }
    /// Nothing is under way.
    bool idle() const { return reads_.empty() && writes_.empty() && answers_.empty() && !out_.rvalid; }
    const std::vector<uint8_t>& bytes() const { return bytes_; }

    /// After a move: the outputs point into this memory.
    void rebind() { out_.rdata = offered_.data(); }

    /// Save to or restore from `archive`: called with (data, size) for every part of the state that changes.
    template <class Archive>
    void state(Archive&& archive) {
        sequence(archive, bytes_);
        sequence(archive, offered_);
        sequence(archive, held_);
        sequence(archive, reads_);
        sequence(archive, writes_);
        sequence(archive, answers_);
        for (uint64_t* value : {&now_, &credit_, &beats_read_, &beats_written_, &starved_}) archive(value, sizeof *value);
        for (bool* flag : {&moved_, &write_turn_, &ar_taken_, &aw_taken_, &w_taken_}) archive(flag, sizeof *flag);
        archive(&beat_, sizeof beat_);
        for (auto* value : {&latency_, &num_, &den_}) archive(value, sizeof *value);
        archive(&last_, sizeof last_);
        archive(&out_, sizeof out_);
        archive(&was_, sizeof was_);
        last_.wdata = nullptr;
        rebind();
    }

  private:
    struct Burst {
        uint64_t address;
        uint32_t left, id;
        uint64_t ready;
    };

    template <class Archive, class Sequence>
    static void sequence(Archive& archive, Sequence& items) {
        uint64_t size = items.size();
        archive(&size, sizeof size);
        items.resize(size);
        if constexpr (sizeof(typename Sequence::value_type) == 1) {
            archive(items.data(), size);
        } else {
            for (auto& item : items) archive(&item, sizeof item);
        }
    }

    static void need(bool good, const std::string& what) {
        if (!good) throw ProtocolError("m_axi: " + what);
    }

    void address(const char* channel, uint64_t at, uint32_t len, uint32_t size, uint32_t burst) const {
        const std::string name = std::string(channel) + " " + std::to_string(at) + ": ";
        const uint64_t bytes = (len + 1) * static_cast<uint64_t>(beat_);
        need(burst == 1, name + "burst type " + std::to_string(burst) + ", only INCR (1) is known");
        need((size_t{1} << size) == beat_, name + "size " + std::to_string(size) + " is not the bus width");
        need(at % beat_ == 0, name + "not aligned to a beat");
        need(at / kPage == (at + bytes - 1) / kPage, name + std::to_string(len + 1) + " beats cross a 4 KiB border");
        need(at + bytes <= bytes_.size(), name + std::to_string(bytes) + " bytes leave the memory of " + std::to_string(bytes_.size()));
    }

    /// Held valid and payload of the cycle before, where ready was low; and the bursts that are taken now.
    void check(const MasterPorts& in) {
        if (last_.arvalid && !ar_taken_) need(in.arvalid && in.araddr == last_.araddr && in.arlen == last_.arlen && in.arsize ==
            last_.arsize && in.arburst == last_.arburst && in.arid == last_.arid, "AR changed or withdrawn before ARREADY");
        if (last_.awvalid && !aw_taken_) need(in.awvalid && in.awaddr == last_.awaddr && in.awlen == last_.awlen && in.awsize ==
            last_.awsize && in.awburst == last_.awburst && in.awid == last_.awid, "AW changed or withdrawn before AWREADY");
        if (last_.wvalid && !w_taken_) need(in.wvalid && in.wlast == last_.wlast && in.wstrb == last_.wstrb &&
            !std::memcmp(in.wdata, held_.data(), beat_), "W changed or withdrawn before WREADY");
        ar_taken_ = in.arvalid && out_.arready;
        aw_taken_ = in.awvalid && out_.awready;
        w_taken_ = in.wvalid && out_.wready;
        if (ar_taken_) address("AR", in.araddr, in.arlen, in.arsize, in.arburst);
        if (aw_taken_) address("AW", in.awaddr, in.awlen, in.awsize, in.awburst);
    }

    void take(const MasterPorts& in) {
        Burst& burst = writes_.front();
        need(in.wlast == (burst.left == 1), std::string("WLAST is ") + (in.wlast ? "high" : "low") + " with " +
             std::to_string(burst.left) + " beats of the burst left");
        for (size_t i = 0; i < beat_; ++i)
            if (in.wstrb >> i & 1) bytes_[burst.address + i] = in.wdata[i];
        burst.address += beat_;
        credit_ -= den_;
        ++beats_written_;
        if (--burst.left == 0) {
            answers_.push_back({0, 0, burst.id, now_ + latency_});
            writes_.pop_front();
        }
    }

    /// The outputs of cycle `now_`.
    void decide(bool write_offered) {
        credit_ = std::min<uint64_t>(den_, credit_ + num_);
        fresh_ = false;  // a new R beat
        const bool can_read = !out_.rvalid && !reads_.empty() && reads_.front().ready <= now_;
        const bool can_write = write_offered && !writes_.empty();
        const bool credit = credit_ >= den_;
        starved_ += can_read && !credit;
        const bool write = credit && can_write && (!can_read || write_turn_);
        out_.wready = write;
        if (write) {
            write_turn_ = false;
        } else if (credit && can_read) {
            write_turn_ = true;
            Burst& burst = reads_.front();
            std::memcpy(offered_.data(), &bytes_[burst.address], beat_);
            burst.address += beat_;
            out_.rvalid = fresh_ = true;
            out_.rlast = --burst.left == 0;
            out_.rid = burst.id;
            credit_ -= den_;
            ++beats_read_;
            if (out_.rlast) reads_.pop_front();
        }
        if (!out_.bvalid && !answers_.empty() && answers_.front().ready <= now_) {
            out_.bvalid = true;
            out_.bid = answers_.front().id;
        }
        out_.arready = reads_.size() < kOutstanding;
        out_.awready = writes_.size() + answers_.size() < kOutstanding;
    }

    std::vector<uint8_t> bytes_, offered_, held_;
    size_t beat_ = 8;
    uint64_t latency_ = 1, num_ = 1, den_ = 1, now_ = 0, credit_ = 0, beats_read_ = 0, beats_written_ = 0, starved_ = 0;
    bool moved_ = true, fresh_ = false, write_turn_ = false;
    bool ar_taken_ = false, aw_taken_ = false, w_taken_ = false;
    std::deque<Burst> reads_, writes_, answers_;
    MasterPorts last_;
    SlavePorts out_, was_;
};

}  // namespace mst
