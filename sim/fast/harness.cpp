// Runs module `mst_accelerator` from a job script: register accesses, packets, results. What registers and packets mean stands in the
// script alone; sim/fast/script.py states the formats of all files and writes formats.hpp.
#include <algorithm>
#include <chrono>
#ifdef __linux__
#include <csignal>
#include <sys/prctl.h>
#endif
#include "machine.hpp"
#if MST_SAVABLE
#include "verilated_save.h"
#endif

namespace {

using Clock = std::chrono::steady_clock;

/// Walks the script. Its place there, and what it has seen of the record under way, go into snapshots.
class Run {
  public:
    /// `seconds`: least time between snapshots (below 0: none); after `halt_after` of them (0: never) the run ends.
    Run(const std::string& script, const std::string& folder, const std::string& key, long seconds, uint32_t halt_after)
        : script_(slurp(script)), folder_(folder), key_(key), seconds_(seconds), halt_after_(halt_after) {
        if (seconds_ >= 0 && !MST_SAVABLE) fail("this harness cannot save: build it with savable=True");
    }

    void go() {
        if (seconds_ < 0 || !restore()) {
            answers_.open(folder_ + "/" + ANSWERS);
            machine_.reset();
        }
        while (place_ < script_.size()) {
            const Command command = this->command();
            const uint8_t* data = script_.data() + place_ + sizeof command;
            execute(command, data);
            place_ += sizeof command + command.size;
        }
        answers_.close();
        std::filesystem::remove(folder_ + "/" + SNAPSHOT);
    }

  private:
    struct Command {
        uint32_t op, a, b, size;
    };

    Command command() const {
        Command command;
        if (place_ + sizeof command > script_.size()) fail("script: ends inside a command");
        std::memcpy(&command, script_.data() + place_, sizeof command);
        if (place_ + sizeof command + command.size > script_.size()) fail("script: ends inside a command");
        if (place_ == 0 && (command.op != OP_FORMAT || command.a != MST_FORMAT)) fail("script: not of this harness: build again");
        return command;
    }

    static std::vector<uint32_t> numbers(const uint8_t* data, size_t size) {
        std::vector<uint32_t> values(size / 4);
        std::memcpy(values.data(), data, 4 * values.size());
        return values;
    }

    void execute(const Command& c, const uint8_t* data) {
        switch (c.op) {
        case OP_FORMAT: watch_ = numbers(data, c.size); break;
        case OP_WRITE: machine_.write(c.a, c.b); break;
        case OP_EXPECT: {
            const uint32_t value = machine_.read(c.a);
            if (value != c.b) fail(std::string(data, data + c.size) + " is " + hex(value) + ", expected " + hex(c.b));
            break;
        }
        case OP_SEND: machine_.send(data, c.size); break;
        case OP_WAIT: wait(c.a); break;
        case OP_COLLECT: collect(c.a); break;
        case OP_READ: registers_.push_back(machine_.read(c.a)); break;
        case OP_BEGIN:
            machine_.words.clear();
            machine_.packets = 0;
            registers_.clear();
            image_ = c.a;
            if (c.b) open_trace();
            break;
        case OP_END: record(); break;
        case OP_LAYERS: layers_ = numbers(data, c.size); break;
        case OP_MEMORY: load_memory(data, c.size, c.a, c.b); break;
        default: fail("script: unknown command " + std::to_string(c.op) + ": build again");
        }
    }

    // -- waiting -----------------------------------------------------------------------------------------------------

    uint32_t watch(size_t which) const { return watch_.at(which); }

    /// The interrupt's causes; the run ends when the machine reports an error.
    uint32_t causes() {
        const uint32_t seen = machine_.read(watch(WATCH_STATUS));
        if (seen & watch(WATCH_ERROR_BIT)) {
            const uint32_t code = machine_.read(watch(WATCH_ERROR));
            fail(MACHINE_ERROR " " + std::to_string(code) + " " + std::to_string(machine_.read(watch(WATCH_LAYER))));
        }
        return seen;
    }

    /// Until an interrupt cause of `mask`.
    void wait(uint32_t mask) {
        for (const uint64_t begin = machine_.cycle; !(machine_.top.irq && causes() & mask); machine_.step())
            if (machine_.cycle - begin > patience()) stuck("an interrupt");
    }

    /// Until the record under way holds `packets` result packets.
    void collect(uint32_t packets) {
        bool looked = false;  // an interrupt that is no error stays: one look is enough
        for (uint64_t progress = machine_.cycle; machine_.packets < packets;) {
            machine_.step();
            if (machine_.dispatch) {
                progress = machine_.cycle;
                dispatched();
            } else if (machine_.cycle - progress > patience()) {
                stuck("a result or the next descriptor");
            }
            if (machine_.top.irq && !looked) {
                looked = true;
                causes();
            }
        }
    }

    uint64_t patience() const { return uint64_t{watch(WATCH_PATIENCE)} * 1000; }

    [[noreturn]] void stuck(const std::string& what) {
        fail("image " + std::to_string(image_) + ": no answer: waited " + std::to_string(patience()) + " cycles for " + what +
             " at descriptor " + std::to_string(machine_.read(watch(WATCH_LAYER))));
    }

    /// A descriptor was dispatched: say where the run stands, at most once a second; save where a layer begins.
    void dispatched() {
        const auto now = Clock::now();
        const uint32_t descriptor = machine_.descriptor;
        if (now - said_ >= std::chrono::seconds(1)) {
            said_ = now;
            std::printf("%u %u %" PRIu64 "\n", image_, descriptor, machine_.cycle);
            std::fflush(stdout);
        }
        if (seconds_ >= 0 && now - saved_ >= std::chrono::seconds(seconds_) &&
            std::find(layers_.begin(), layers_.end(), descriptor) != layers_.end()) {
            save();
            saved_ = Clock::now();
            if (++snapshots_ == halt_after_) fail(HALTED " " + std::to_string(descriptor));
        }
    }

    // -- files -------------------------------------------------------------------------------------------------------

    void open_trace() {
        machine_.trace.open(trace_path());
        const uint32_t head[] = {TRACE_MAGIC, MST_SPIKE_BYTES, MST_STREAM_BYTES};
        machine_.trace.put(head, sizeof head);
    }

    std::string trace_path() const { return folder_ + "/" + std::to_string(image_) + TRACE_SUFFIX; }

    void record() {
#if MST_MEMORY_BITS
        for (const uint64_t count : {machine_.memory.beats_read(), machine_.memory.beats_written(), machine_.memory.starved()}) {
            registers_.push_back(static_cast<uint32_t>(count));
            registers_.push_back(static_cast<uint32_t>(count >> 32));
        }
#endif
        if (machine_.trace.is_open()) machine_.trace.close();
        const uint32_t head[] = {image_, static_cast<uint32_t>(machine_.words.size()), static_cast<uint32_t>(registers_.size())};
        answers_.put(head, sizeof head);
        answers_.put(machine_.words.data(), 4 * machine_.words.size());
        answers_.put(registers_.data(), 4 * registers_.size());
        answers_.flush();
    }

    void load_memory(const uint8_t* data, size_t size, uint32_t latency, uint32_t bandwidth) {
        uint64_t bytes = 0;
        std::memcpy(&bytes, data, sizeof bytes);
        const std::string path(data + sizeof bytes, data + size);
#if MST_MEMORY_BITS
        try {
            Bytes contents = slurp(path);
            if (contents.size() > bytes) fail(path + ": larger than the memory of " + std::to_string(bytes) + " bytes");
            contents.resize(bytes);
            machine_.memory.configure(std::move(contents), MST_MEMORY_BITS / 8, latency, bandwidth >> 16, bandwidth & 0xffff);
        } catch (const mst::ProtocolError& error) {
            fail(error.what());
        }
#else
        fail(path + ": this machine has no external memory (" + std::to_string(latency) + ", " + std::to_string(bandwidth) + ")");
#endif
    }

    // -- snapshots ---------------------------------------------------------------------------------------------------

#if MST_SAVABLE
    /// Everything but the model, in one order for both ways: `move(data, size)` writes or reads.
    template <class Move>
    void state(Move&& move) {
        const auto list = [&](std::vector<uint32_t>& values) {
            uint64_t size = values.size();
            move(&size, sizeof size);
            values.resize(size);
            move(values.data(), 4 * size);
        };
        for (uint64_t* value : {&place_, &answered_, &traced_}) move(value, sizeof *value);
        move(&image_, sizeof image_);
        for (auto* values : {&watch_, &registers_, &layers_, &machine_.words}) list(*values);
        machine_.state(move, script_.data());
    }

    void save() {
        const std::string path = folder_ + "/" + SNAPSHOT, part = path + ".part";
        answered_ = answers_.flush();
        traced_ = machine_.trace.is_open() ? machine_.trace.flush() : 0;
        VerilatedSave file;
        file.open(part.c_str());
        if (!file.isOpen()) fail(part + ": cannot be written");
        file << key_;
        state([&](void* data, size_t size) { file.write(data, size); });
        file << machine_.top;
        file.close();
        std::filesystem::rename(part, path);  // whole or not at all
    }

    bool restore() {
        const std::string path = folder_ + "/" + SNAPSHOT;
        if (!std::filesystem::exists(path)) return false;
        VerilatedRestore file;
        file.open(path.c_str());
        if (!file.isOpen()) fail(path + ": cannot be read");
        std::string key;
        file >> key;
        if (key != key_) fail(path + ": of another build or another job: delete it to start afresh");
        state([&](void* data, size_t size) { file.read(data, size); });
        file >> machine_.top;
        answers_.reopen(folder_ + "/" + ANSWERS, answered_);
        if (traced_) machine_.trace.reopen(trace_path(), traced_);
        return true;
    }
#else
    void save() {}
    bool restore() { return false; }
#endif

    Bytes script_;
    std::string folder_, key_;
    GrowingFile answers_;
    Machine machine_;
    uint64_t place_ = 0, answered_ = 0, traced_ = 0;
    const long seconds_;
    const uint32_t halt_after_;
    uint32_t image_ = 0, snapshots_ = 0;
    std::vector<uint32_t> watch_, registers_, layers_;
    Clock::time_point said_ = Clock::now(), saved_ = Clock::now();
};

}  // namespace

int main(int argc, char** argv) {
    if (argc != 6) fail("usage: harness SCRIPT FOLDER KEY SECONDS HALT_AFTER");
#ifdef __linux__
    prctl(PR_SET_PDEATHSIG, SIGKILL);  // nobody reads the answers of a run whose parent is gone
#endif
    Run run(argv[1], argv[2], argv[3], std::stol(argv[4]), static_cast<uint32_t>(std::stoul(argv[5])));
    run.go();
    return 0;
}
