/* Driver of the Masked Spiking Transformer accelerator behind its stream window. C99, no libc, no heap, no globals that change.
 *
 * The driver reaches the machine through two functions that you write, mst_read32 and mst_write32. Copy mst.c, mst.h and
 * mst_regs.h into your project. docs/firmware.md has an example; docs/registers.md every register and the format of a network.
 */
#ifndef MST_H
#define MST_H

#include <stddef.h>
#include <stdint.h>

#include "mst_regs.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The driver's own errors: X(name, code, meaning). The machine's are in mst_regs.h (MST_MACHINE_ERRORS). */
#define MST_DRIVER_ERRORS(X) \
    X(ARGUMENT, 1, "an argument is null or out of range") \
    X(NO_MACHINE, 2, "the ID register does not hold \"MST1\": no machine of ours at this address") \
    X(MAP_VERSION, 3, "the machine has another register map: generate machine, mst_regs.h and network from one tree") \
    X(NO_WINDOW, 4, "the machine has no stream window: use it as mst_mmio (python -m hwgen emit --mmio)") \
    X(NOT_PROBED, 5, "call mst_probe first") \
    X(NOT_LOADED, 6, "call mst_load first") \
    X(NETWORK_SHORT, 7, "the packed network is cut short") \
    X(NETWORK_MAGIC, 8, "not a packed network: make one with python -m firmware pack") \
    X(NETWORK_FORMAT, 9, "the packed network has another format: pack it again") \
    X(NETWORK_CRC, 10, "the packed network was damaged: its CRC is wrong") \
    X(NETWORK_SECTION, 11, "the packed network has a section that lies outside it or goes to no known memory") \
    X(NETWORK_MAP, 12, "the packed network is for another register map: pack it again") \
    X(NETWORK_MACHINE, 13, "the packed network is for another machine: pack it for this one (--machine)") \
    X(NETWORK_BUILD, 14, "the machine's weights are built in and are not those of this network") \
    X(NETWORK_DEPTH, 15, "the packed network needs more of a memory than the machine has") \
    X(NO_MEMORY, 16, "the network needs external memory, or more of it: call mst_set_memory first") \
    X(IMAGE_SIZE, 17, "the image has another size than the network's") \
    X(TIMEOUT, 18, "the machine did not answer in time") \
    X(OVERFLOW, 19, "the stream window had no room for a beat: does something else use it?") \
    X(RESULT, 20, "the result has another number of logits than the network: abort, and run again") \
    X(STILL_BUSY, 21, "a run or a packet is under way: wait for it, or abort it") \
    X(UNKNOWN, 22, "the machine reports an error code that this driver does not know: is the machine newer?")

/* Errors of the machine follow from here: MST_ERR_MACHINE + ERROR.code. */
#define MST_ERR_MACHINE 64

typedef enum {
    MST_OK = 0,
#define MST_ERR_ENTRY(name, code, meaning) MST_ERR_##name = (code),
    MST_DRIVER_ERRORS(MST_ERR_ENTRY)
#undef MST_ERR_ENTRY
#define MST_ERR_ENTRY(name, code, meaning) MST_ERR_##name = MST_ERR_MACHINE + (code),
    MST_MACHINE_ERRORS(MST_ERR_ENTRY)
#undef MST_ERR_ENTRY
    MST_ERR_LAST = MST_ERR_MACHINE + 255
} mst_status;

/* You write these two: a 32-bit access at byte `offset` of the machine's registers. `user` is what mst_init was given. */
uint32_t mst_read32(void *user, uint32_t offset);
void mst_write32(void *user, uint32_t offset, uint32_t value);

/* A machine. Set the three hooks after mst_init, if you like; leave the rest alone. */
typedef struct {
    void *user;
    void (*pause)(void *user);   /* called between two polls of a wait: wait for the interrupt, or yield; NULL: poll at once */
    uint32_t (*now)(void *user); /* time in ticks of your own, may wrap around; NULL: time is counted in polls */
    uint32_t timeout;            /* most ticks (or polls) without any progress, per wait; MST_TIMEOUT after mst_init */

    uint32_t build_id, lanes, planes, bus_bytes, beats, logits; /* set by mst_probe; bus_bytes 0: not probed */
    uint32_t memory_base, memory_bytes;                         /* set by mst_set_memory */
    uint8_t *memory;
    uint32_t side, channels, patch, classes; /* set by mst_load; classes 0: not loaded */
} mst_machine;

#define MST_TIMEOUT 10000000u

/* Counters of the last run. */
typedef struct {
    uint64_t cycles; /* clock cycles */
    uint64_t events; /* events that the array processed */
    uint64_t stalls; /* cycles in which only external memory kept a descriptor waiting */
    uint32_t layer;  /* the descriptor that ran last */
    uint32_t image;  /* index of the next image */
} mst_counters;

/* Forget everything about `m` and remember `user`. Touches no register. */
void mst_init(mst_machine *m, void *user);

/* Check that this is our machine, with our register map and a stream window; read what it is. Enables the interrupts. */
mst_status mst_probe(mst_machine *m);

/* Tell the machine where its external memory is: its bus address (a multiple of 4 KiB), where the CPU sees it, its length. */
mst_status mst_set_memory(mst_machine *m, uint32_t base, void *memory, uint32_t bytes);

/* Check a packed network (`size` bytes) whole, then load it and set the mask as packed. On an error none is loaded. */
mst_status mst_load(mst_machine *m, const void *network, uint32_t size);

/* Spike mask: its seed; `enable` 0: none; `ratio` in 1/256 (0 to 255) in place of the network's own, or -1 to keep that. */
mst_status mst_set_mask(mst_machine *m, uint32_t seed, int enable, int ratio);

/* Time steps of each image, 1 to CAP_FIRING.steps: only a machine with firing = "stepwise" takes any. After reset: all of them. */
mst_status mst_set_steps(mst_machine *m, uint32_t steps);

/* Start a run of `images` images, at least 1; the first has index `first` (for the mask). Then send one, take its result,
 * and so on. */
mst_status mst_start(mst_machine *m, uint32_t images, uint32_t first);

/* Send one image: `bytes` = side * side * channels bytes, rows of pixels of channels. Waits for room; stops at an error. */
mst_status mst_send_image(mst_machine *m, const uint8_t *pixels, uint32_t bytes);

/* `*ready` = 1 when a whole result waits; does not wait itself. The machine's error, if it has one. */
mst_status mst_poll(mst_machine *m, int *ready);

/* Wait for a result and take it: `count` = classes logits. */
mst_status mst_take_result(mst_machine *m, int32_t *logits, uint32_t count);

/* Wait for the end of the run. */
mst_status mst_finish(mst_machine *m);

/* One image from start to end: mst_start, mst_send_image, mst_take_result, mst_finish. */
mst_status mst_classify(mst_machine *m, const uint8_t *pixels, uint32_t bytes, uint32_t index, int32_t *logits, uint32_t count);

/* The first index of the largest of `count` logits. */
uint32_t mst_class(const int32_t *logits, uint32_t count);

/* The counters of the last run. */
mst_status mst_read_counters(mst_machine *m, mst_counters *counters);

/* The error that the machine holds, or MST_OK. */
mst_status mst_check(mst_machine *m);

/* Clear the machine's error and every interrupt cause. */
mst_status mst_clear(mst_machine *m);

/* Stop whatever is under way, withdraw what was sent and not used, drop results, clear errors. The network stays loaded. */
mst_status mst_abort(mst_machine *m);

/* The name of a status, such as "TIMEOUT", and what it means and asks for. Never NULL. */
const char *mst_name(mst_status status);
const char *mst_meaning(mst_status status);

#ifdef __cplusplus
}
#endif

#endif
