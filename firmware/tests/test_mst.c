/* The driver on a mock of registers: every path, every error. Prints one line a failure, and the number of checks. */
#include <stdio.h>
#include <string.h>

#include "mock.h"

static mock machine;
static mst_machine driver;
static int checks, failures;
static unsigned char seen[MST_ERR_LAST + 1];

static void check(int line, int good, const char *what)
{
    checks++;
    if (!good) {
        failures++;
        printf("test_mst.c:%d: %s\n", line, what);
    }
}
#define CHECK(condition) check(__LINE__, (condition) != 0, #condition)

static void check_status(int line, mst_status got, mst_status want)
{
    seen[got] = 1;
    checks++;
    if (got != want) {
        failures++;
        printf("test_mst.c:%d: %s, expected %s\n", line, mst_name(got), mst_name(want));
    }
}
#define EXPECT(want, call) check_status(__LINE__, (call), (want))

/* -- a packed network, by hand -------------------------------------------------------------------------------------- */

enum { SIDE = 4, CHANNELS = 3, PATCH = 2, CLASSES = 3, IMAGE = SIDE * SIDE * CHANNELS };
enum { TABLE = MST_PACKED_WORDS, FIRST = TABLE + 3 * MST_SECTION_WORDS, WORDS = FIRST + 4 + 2 + 2 };
static uint32_t network[WORDS];
static unsigned char bytes[4 * WORDS + 1];

static uint32_t plain_crc(const unsigned char *data, uint32_t size)
{
    uint32_t crc = 0xFFFFFFFFu;
    int bit;
    while (size--)
        for (crc ^= *data++, bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
    return ~crc;
}

/* Words to bytes at an odd address, with the right CRC. */
static const unsigned char *encoded(void)
{
    uint32_t i;
    for (i = 0; i < 4 * WORDS; i++)
        bytes[i + 1] = (unsigned char)(network[i / 4] >> 8 * (i % 4));
    network[MST_PACKED_CRC] = plain_crc(bytes + 1 + 16, 4 * WORDS - 16);
    for (i = 4 * MST_PACKED_CRC; i < 4 * MST_PACKED_CRC + 4; i++)
        bytes[i + 1] = (unsigned char)(network[i / 4] >> 8 * (i % 4));
    return bytes + 1;
}

static void section(uint32_t index, uint32_t target, uint32_t offset, uint32_t count)
{
    network[TABLE + 3 * index + MST_SECTION_TARGET] = target;
    network[TABLE + 3 * index + MST_SECTION_OFFSET] = 4 * offset;
    network[TABLE + 3 * index + MST_SECTION_BYTES] = 4 * count;
}

/* A fresh mock, a probed driver, a good network. */
static void fresh(void)
{
    static const uint32_t caps[] = {MST_CAP_ARRAY_OFFSET, MST_CAP_ATTENTION_OFFSET, MST_CAP_FORMAT_OFFSET, MST_CAP_MEMORY_OFFSET,
                                    MST_CAP_FIRING_OFFSET};
    uint32_t i;
    mock_reset(&machine);
    memset(network, 0, sizeof network);
    network[MST_PACKED_MAGIC] = MST_PACKED_MAGIC_VALUE;
    network[MST_PACKED_FORMAT] = MST_PACKED_FORMAT_VALUE;
    network[MST_PACKED_SIZE] = sizeof network;
    network[MST_PACKED_MAP_VERSION] = MST_VERSION_VALUE;
    for (i = 0; i < 4; i++)
        network[MST_PACKED_CAP_ARRAY + i] = machine.registers[caps[i] / 4];
    for (i = MST_PACKED_WEIGHT_ROWS; i <= MST_PACKED_TRANSFERS; i++)
        network[i] = 10;
    network[MST_PACKED_IMAGE_SIDE] = SIDE;
    network[MST_PACKED_IMAGE_CHANNELS] = CHANNELS;
    network[MST_PACKED_PATCH] = PATCH;
    network[MST_PACKED_CLASSES] = CLASSES;
    network[MST_PACKED_MASK_SEED] = 77;
    network[MST_PACKED_MASK_CTRL] = 1;
    network[MST_PACKED_SECTIONS] = 2;
    section(0, MST_TARGET_PROGRAM, FIRST, 4);
    section(1, MST_TARGET_ROM, FIRST + 4, 2);
    for (i = FIRST; i < WORDS; i++)
        network[i] = 0x01020304u * i;
    mst_init(&driver, &machine);
    driver.timeout = 5;
    EXPECT(MST_OK, mst_probe(&driver));
}

static mst_status load(void)
{
    return mst_load(&driver, encoded(), sizeof network);
}

static void loaded(void)
{
    fresh();
    EXPECT(MST_OK, load());
}

/* -- tests ---------------------------------------------------------------------------------------------------------- */

static void probing(void)
{
    fresh();
    CHECK(driver.build_id == 0xC0FFEE42u && driver.lanes == 8 && driver.planes == 3 && driver.bus_bytes == 8);
    CHECK(driver.beats == MOCK_BEATS && driver.logits == 8);
    CHECK(machine.registers[MST_IRQ_ENABLE_OFFSET / 4] == 7);
    EXPECT(MST_ERR_ARGUMENT, mst_probe(NULL));
    machine.registers[MST_WINDOW_ID_OFFSET / 4] = MST_ID_VALUE; /* as without a window, where addresses repeat */
    EXPECT(MST_ERR_NO_WINDOW, mst_probe(&driver));
    machine.registers[MST_VERSION_OFFSET / 4]++;
    EXPECT(MST_ERR_MAP_VERSION, mst_probe(&driver));
    machine.registers[MST_ID_OFFSET / 4] = 0xFFFFFFFFu;
    EXPECT(MST_ERR_NO_MACHINE, mst_probe(&driver));
}

static void nothing_works_before_probe(void)
{
    mst_counters counters;
    uint8_t pixels[IMAGE] = {0};
    int32_t logits[CLASSES];
    int ready;
    mock_reset(&machine);
    mst_init(&driver, &machine);
    EXPECT(MST_ERR_NOT_PROBED, mst_load(&driver, bytes, 4));
    EXPECT(MST_ERR_NOT_PROBED, mst_set_memory(&driver, 0, bytes, 4));
    EXPECT(MST_ERR_NOT_PROBED, mst_set_mask(&driver, 1, 1, -1));
    EXPECT(MST_ERR_NOT_PROBED, mst_set_steps(&driver, 1));
    EXPECT(MST_ERR_NOT_PROBED, mst_start(&driver, 1, 0));
    EXPECT(MST_ERR_NOT_PROBED, mst_classify(&driver, pixels, IMAGE, 0, logits, CLASSES));
    EXPECT(MST_ERR_NOT_PROBED, mst_poll(&driver, &ready));
    EXPECT(MST_ERR_NOT_PROBED, mst_finish(&driver));
    EXPECT(MST_ERR_NOT_PROBED, mst_read_counters(&driver, &counters));
    EXPECT(MST_ERR_NOT_PROBED, mst_check(&driver));
    EXPECT(MST_ERR_NOT_PROBED, mst_clear(&driver));
    EXPECT(MST_ERR_NOT_PROBED, mst_abort(&driver));
    EXPECT(MST_ERR_NOT_LOADED, mst_send_image(&driver, pixels, IMAGE));
    EXPECT(MST_ERR_NOT_LOADED, mst_take_result(&driver, logits, CLASSES));
    CHECK(machine.count == 0);
}

static void bad_arguments(void)
{
    uint8_t pixels[IMAGE] = {0};
    int32_t logits[CLASSES];
    mst_counters counters;
    int ready;
    loaded();
    EXPECT(MST_ERR_ARGUMENT, mst_load(NULL, bytes, 4));
    EXPECT(MST_ERR_ARGUMENT, mst_load(&driver, NULL, 4));
    EXPECT(MST_ERR_ARGUMENT, mst_set_memory(NULL, 0, bytes, 4));
    EXPECT(MST_ERR_ARGUMENT, mst_set_memory(&driver, 4095, bytes, 4));
    EXPECT(MST_ERR_ARGUMENT, mst_set_memory(&driver, 0, NULL, 4));
    EXPECT(MST_ERR_ARGUMENT, mst_set_mask(NULL, 0, 1, 0));
    EXPECT(MST_ERR_ARGUMENT, mst_set_mask(&driver, 0, 1, 256));
    EXPECT(MST_ERR_ARGUMENT, mst_set_mask(&driver, 0, 1, -2));
    EXPECT(MST_ERR_ARGUMENT, mst_set_steps(NULL, 1));
    EXPECT(MST_ERR_ARGUMENT, mst_set_steps(&driver, 1)); /* a machine that fires in one step */
    EXPECT(MST_ERR_ARGUMENT, mst_start(NULL, 1, 0));
    EXPECT(MST_ERR_ARGUMENT, mst_start(&driver, 0, 0));
    EXPECT(MST_ERR_ARGUMENT, mst_send_image(NULL, pixels, IMAGE));
    EXPECT(MST_ERR_ARGUMENT, mst_send_image(&driver, NULL, IMAGE));
    EXPECT(MST_ERR_IMAGE_SIZE, mst_send_image(&driver, pixels, IMAGE - 1));
    EXPECT(MST_ERR_ARGUMENT, mst_poll(NULL, &ready));
    EXPECT(MST_ERR_ARGUMENT, mst_poll(&driver, NULL));
    EXPECT(MST_ERR_ARGUMENT, mst_take_result(NULL, logits, CLASSES));
    EXPECT(MST_ERR_ARGUMENT, mst_take_result(&driver, NULL, CLASSES));
    EXPECT(MST_ERR_ARGUMENT, mst_take_result(&driver, logits, CLASSES - 1));
    EXPECT(MST_ERR_ARGUMENT, mst_finish(NULL));
    EXPECT(MST_ERR_ARGUMENT, mst_classify(NULL, pixels, IMAGE, 0, logits, CLASSES));
    EXPECT(MST_ERR_ARGUMENT, mst_classify(&driver, NULL, IMAGE, 0, logits, CLASSES));
    EXPECT(MST_ERR_ARGUMENT, mst_classify(&driver, pixels, IMAGE, 0, NULL, CLASSES));
    EXPECT(MST_ERR_ARGUMENT, mst_classify(&driver, pixels, IMAGE, 0, logits, CLASSES + 1));
    EXPECT(MST_ERR_IMAGE_SIZE, mst_classify(&driver, pixels, IMAGE + 1, 0, logits, CLASSES));
    EXPECT(MST_ERR_ARGUMENT, mst_read_counters(NULL, &counters));
    EXPECT(MST_ERR_ARGUMENT, mst_read_counters(&driver, NULL));
    EXPECT(MST_ERR_ARGUMENT, mst_check(NULL));
    EXPECT(MST_ERR_ARGUMENT, mst_clear(NULL));
    EXPECT(MST_ERR_ARGUMENT, mst_abort(NULL));
    CHECK(!machine.running);
}

static void loading(void)
{
    loaded();
    CHECK(machine.packets == 2 && machine.target[0] == MST_TARGET_PROGRAM && machine.target[1] == MST_TARGET_ROM);
    CHECK(machine.count == 6 && !memcmp(machine.sent, network + FIRST, 4 * 6));
    CHECK(machine.registers[MST_LOAD_TARGET_OFFSET / 4] == MST_TARGET_NONE);
    CHECK(machine.registers[MST_MASK_SEED_OFFSET / 4] == 77 && machine.registers[MST_MASK_CTRL_OFFSET / 4] == 1);
    CHECK(driver.side == SIDE && driver.channels == CHANNELS && driver.patch == PATCH && driver.classes == CLASSES);
    machine.running = 1;
    EXPECT(MST_ERR_STILL_BUSY, load());
    CHECK(driver.classes == 0);
    machine.running = 0;
    machine.queued = 1; /* an image waits */
    EXPECT(MST_ERR_STILL_BUSY, load());
    EXPECT(MST_OK, mst_abort(&driver));
    EXPECT(MST_OK, load());
}

static void bad_networks(void)
{
    static const struct {
        uint32_t word, value;
        mst_status status;
    } cases[] = {
        {MST_PACKED_MAGIC, 0, MST_ERR_NETWORK_MAGIC},
        {MST_PACKED_FORMAT, 99, MST_ERR_NETWORK_FORMAT},
        {MST_PACKED_SIZE, 4 * WORDS + 1, MST_ERR_NETWORK_SHORT},
        {MST_PACKED_SIZE, 8, MST_ERR_NETWORK_SHORT},
        {MST_PACKED_SIZE, 4 * WORDS - 4, MST_ERR_NETWORK_CRC},
        {MST_PACKED_MAP_VERSION, 1, MST_ERR_NETWORK_MAP},
        {MST_PACKED_CAP_ARRAY, 1, MST_ERR_NETWORK_MACHINE},
        {MST_PACKED_CAP_ATTENTION, 1, MST_ERR_NETWORK_MACHINE},
        {MST_PACKED_CAP_FORMAT, 1, MST_ERR_NETWORK_MACHINE},
        {MST_PACKED_CAP_MEMORY, 1, MST_ERR_NETWORK_MACHINE},
        {MST_PACKED_CAP_FIRING, 1, MST_ERR_NETWORK_MACHINE},
        {MST_PACKED_WEIGHT_ROWS, 11, MST_ERR_NETWORK_DEPTH},
        {MST_PACKED_SPIKE_WORDS, 11, MST_ERR_NETWORK_DEPTH},
        {MST_PACKED_STREAM_WORDS, 11, MST_ERR_NETWORK_DEPTH},
        {MST_PACKED_PARAM_WORDS, 11, MST_ERR_NETWORK_DEPTH},
        {MST_PACKED_ROM_WORDS, 11, MST_ERR_NETWORK_DEPTH},
        {MST_PACKED_DESCRIPTORS, 11, MST_ERR_NETWORK_DEPTH},
        {MST_PACKED_TRANSFERS, 11, MST_ERR_NETWORK_DEPTH},
        {MST_PACKED_CLASSES, 9, MST_ERR_NETWORK_DEPTH},
        {MST_PACKED_CLASSES, 0, MST_ERR_NETWORK_SECTION},
        {MST_PACKED_PATCH, 0, MST_ERR_NETWORK_SECTION},
        {MST_PACKED_PATCH, 3, MST_ERR_NETWORK_SECTION},
        {MST_PACKED_EXTERNAL_BYTES, 4, MST_ERR_NO_MEMORY},
        {MST_PACKED_SECTIONS, 0x40000000u, MST_ERR_NETWORK_SECTION},
        {TABLE + MST_SECTION_TARGET, MST_TARGET_NONE, MST_ERR_NETWORK_SECTION},
        {TABLE + MST_SECTION_TARGET, MST_TARGET_DISCARD, MST_ERR_NETWORK_SECTION},
        {TABLE + MST_SECTION_TARGET, MST_PACKED_EXTERNAL, MST_ERR_NETWORK_SECTION},
        {TABLE + MST_SECTION_OFFSET, 4 * WORDS, MST_ERR_NETWORK_SECTION},
        {TABLE + MST_SECTION_OFFSET, 0xFFFFFFFCu, MST_ERR_NETWORK_SECTION},
        {TABLE + MST_SECTION_BYTES, 0, MST_ERR_NETWORK_SECTION},
        {TABLE + MST_SECTION_BYTES, 6, MST_ERR_NETWORK_SECTION},
        {TABLE + MST_SECTION_BYTES, 4 * WORDS, MST_ERR_NETWORK_SECTION},
    };
    uint32_t i;
    for (i = 0; i < sizeof cases / sizeof *cases; i++) {
        fresh();
        network[cases[i].word] = cases[i].value;
        EXPECT(cases[i].status, load());
        CHECK(machine.count == 0 && driver.classes == 0); /* nothing reached the machine */
    }
    for (i = 0; i < sizeof network; i += 3) {
        fresh();
        EXPECT(MST_ERR_NETWORK_SHORT, mst_load(&driver, encoded(), i));
    }
    for (i = 16; i < sizeof network; i += 5) {
        fresh();
        encoded();
        bytes[1 + i] ^= 0x10;
        EXPECT(MST_ERR_NETWORK_CRC, mst_load(&driver, bytes + 1, sizeof network));
    }
}

static void built_in_weights(void)
{
    fresh();
    machine.registers[MST_CAP_FORMAT_OFFSET / 4] &= ~MST_CAP_FORMAT_LOADABLE_MASK;
    network[MST_PACKED_CAP_FORMAT] &= ~MST_CAP_FORMAT_LOADABLE_MASK;
    network[MST_PACKED_SECTIONS] = 0;
    EXPECT(MST_ERR_NETWORK_BUILD, load());
    network[MST_PACKED_BUILD_ID] = 0xC0FFEE42u;
    EXPECT(MST_OK, load());
    CHECK(machine.count == 0 && driver.classes == CLASSES);
}

static void external_memory(void)
{
    static uint8_t memory[12];
    fresh();
    network[MST_PACKED_SECTIONS] = 3;
    network[MST_PACKED_EXTERNAL_BYTES] = 12;
    section(2, MST_PACKED_EXTERNAL, FIRST + 6, 2);
    EXPECT(MST_ERR_NO_MEMORY, load());
    EXPECT(MST_OK, mst_set_memory(&driver, 0x40003000u, memory, 11));
    CHECK(machine.registers[MST_MEMORY_BASE_OFFSET / 4] == 0x40003u);
    EXPECT(MST_ERR_NO_MEMORY, load());
    EXPECT(MST_OK, mst_set_memory(&driver, 0x40003000u, memory, 12));
    EXPECT(MST_OK, load());
    CHECK(!memcmp(memory, bytes + 1 + 4 * (FIRST + 6), 8) && memory[8] == 0 && machine.packets == 2);
}

static void failing_loads(void)
{
    fresh();
    machine.mute = 1;
    EXPECT(MST_ERR_TIMEOUT, load());
    CHECK(machine.registers[MST_LOAD_TARGET_OFFSET / 4] == MST_TARGET_NONE && driver.classes == 0);
    fresh();
    machine.load_error = 4;
    EXPECT(MST_ERR_LOAD_RANGE, load());
    fresh();
    network[MST_PACKED_SECTIONS] = 1;
    section(0, MST_TARGET_WEIGHTS, MST_PACKED_WORDS, 15);
    machine.stuck = 1;
    EXPECT(MST_ERR_TIMEOUT, load()); /* no room */
    CHECK(machine.count == 2 * MOCK_BEATS && machine.open);
    fresh();
    machine.stuck = 1;
    section(0, MST_TARGET_WEIGHTS, MST_PACKED_WORDS, 15);
    machine.registers[MST_ERROR_OFFSET / 4] = 6;
    EXPECT(MST_ERR_LOAD_TARGET, load()); /* no room, and an error says why */
    fresh();
    machine.overflow = 1;
    EXPECT(MST_ERR_OVERFLOW, load());
}

static void classifying(void)
{
    uint8_t pixels[IMAGE];
    int32_t logits[CLASSES], ready = -1;
    uint32_t i, token, byte;
    mst_counters counters;
    loaded();
    machine.count = 0;
    for (i = 0; i < IMAGE; i++)
        pixels[i] = (uint8_t)(i * 37 + 11);
    EXPECT(MST_OK, mst_classify(&driver, pixels, IMAGE, 9, logits, CLASSES));
    CHECK(logits[0] == -5 && logits[1] == 2 && logits[2] == 9 && mst_class(logits, CLASSES) == 2);
    CHECK(machine.registers[MST_IMAGES_OFFSET / 4] == 1 && machine.registers[MST_IMAGE_INDEX_OFFSET / 4] == 9);
    CHECK(machine.registers[MST_RESULT_OFFSET / 4] == 0); /* let go */
    CHECK(machine.count == 4 * 4); /* 4 tokens of 12 bytes, in 2 beats of 8 */
    for (token = 0; token < 4; token++)
        for (byte = 0; byte < 16; byte++) {
            uint32_t row = token / 2 * 2 + byte / 6, column = token % 2 * 2 + byte % 6 / 3;
            uint32_t want = byte < 12 ? pixels[(row * SIDE + column) * CHANNELS + byte % 3] : 0;
            CHECK((machine.sent[token * 4 + byte / 4] >> 8 * (byte % 4) & 255) == want);
        }
    machine.registers[MST_CYCLES_LO_OFFSET / 4] = 5, machine.registers[MST_CYCLES_HI_OFFSET / 4] = 1;
    machine.registers[MST_EVENTS_LO_OFFSET / 4] = 6, machine.registers[MST_STALLS_HI_OFFSET / 4] = 2;
    machine.registers[MST_LAYER_OFFSET / 4] = 8;
    EXPECT(MST_OK, mst_read_counters(&driver, &counters));
    CHECK(counters.cycles == 0x100000005u && counters.events == 6 && counters.stalls == 0x200000000u);
    CHECK(counters.layer == 8 && counters.image == 9);
    EXPECT(MST_OK, mst_start(&driver, 1, 0));
    EXPECT(MST_OK, mst_poll(&driver, &ready));
    CHECK(ready == 0);
    EXPECT(MST_ERR_STILL_BUSY, mst_start(&driver, 1, 0));
    EXPECT(MST_OK, mst_send_image(&driver, pixels, IMAGE));
    EXPECT(MST_OK, mst_poll(&driver, &ready));
    CHECK(ready == 1);
    EXPECT(MST_OK, mst_take_result(&driver, logits, CLASSES));
    EXPECT(MST_OK, mst_finish(&driver));
    EXPECT(MST_OK, mst_set_mask(&driver, 5, 1, 192));
    CHECK(machine.registers[MST_MASK_SEED_OFFSET / 4] == 5 && machine.registers[MST_MASK_CTRL_OFFSET / 4] == (192 << 8 | 3));
    EXPECT(MST_OK, mst_set_mask(&driver, 5, 0, -1));
    CHECK(machine.registers[MST_MASK_CTRL_OFFSET / 4] == 0);
    machine.registers[MST_CAP_FIRING_OFFSET / 4] = 3u << 16 | 16;
    EXPECT(MST_ERR_ARGUMENT, mst_set_steps(&driver, 0));
    EXPECT(MST_ERR_ARGUMENT, mst_set_steps(&driver, 17));
    EXPECT(MST_OK, mst_set_steps(&driver, 16));
    CHECK(machine.registers[MST_STEPS_OFFSET / 4] == 16);
}

static void odd_patches(void)
{
    /* 3x3 patches of one byte: 9 bytes are two words and a byte, in three beats of 4 or two of 8 */
    uint8_t pixels[9] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    loaded();
    driver.side = driver.patch = 3, driver.channels = 1;
    machine.count = 0;
    EXPECT(MST_OK, mst_send_image(&driver, pixels, 9));
    CHECK(machine.count == 4 && machine.sent[0] == 0x04030201u && machine.sent[2] == 9 && machine.sent[3] == 0);
    driver.bus_bytes = 4;
    machine.count = 0;
    EXPECT(MST_OK, mst_send_image(&driver, pixels, 9));
    CHECK(machine.count == 3 && machine.sent[1] == 0x08070605u && machine.sent[2] == 9);
}

static void failing_runs(void)
{
    uint8_t pixels[IMAGE] = {0};
    int32_t logits[CLASSES];
    uint32_t code;
    for (code = 1; code < 10; code++) { /* each of the machine's errors, at the end of the image */
        loaded();
        machine.image_error = code;
        EXPECT(code < 9 ? (mst_status)(MST_ERR_MACHINE + code) : MST_ERR_UNKNOWN,
               mst_classify(&driver, pixels, IMAGE, 0, logits, CLASSES));
        EXPECT(code < 9 ? (mst_status)(MST_ERR_MACHINE + code) : MST_ERR_UNKNOWN, mst_start(&driver, 1, 0)); /* until cleared */
        EXPECT(MST_OK, mst_clear(&driver));
        EXPECT(MST_OK, mst_check(&driver));
        CHECK(machine.registers[MST_IRQ_STATUS_OFFSET / 4] == 0);
    }
    loaded();
    EXPECT(MST_OK, mst_start(&driver, 1, 0));
    machine.image_error = 3;
    EXPECT(MST_OK, mst_send_image(&driver, pixels, IMAGE));
    EXPECT(MST_ERR_STREAM_LONG, mst_finish(&driver));
    loaded();
    EXPECT(MST_OK, mst_start(&driver, 1, 0));
    EXPECT(MST_OK, mst_send_image(&driver, pixels, IMAGE));
    machine.registers[MST_ERROR_OFFSET / 4] = 7; /* a result is there, and an error, too */
    EXPECT(MST_ERR_MEMORY_FAULT, mst_take_result(&driver, logits, CLASSES));
    loaded();
    machine.start_error = 5;
    EXPECT(MST_OK, mst_start(&driver, 1, 0));
    EXPECT(MST_ERR_BUSY, mst_take_result(&driver, logits, CLASSES));
    loaded();
    machine.stuck = 1;
    EXPECT(MST_ERR_TIMEOUT, mst_classify(&driver, pixels, IMAGE, 0, logits, CLASSES));
    loaded();
    driver.patch = 1; /* tokens of 3 bytes: the queue is full inside the filling */
    machine.stuck = 1;
    machine.queued = 2;
    EXPECT(MST_OK, mst_start(&driver, 1, 0));
    EXPECT(MST_ERR_TIMEOUT, mst_send_image(&driver, pixels, IMAGE));
    loaded();
    machine.logits = 2;
    EXPECT(MST_ERR_RESULT, mst_classify(&driver, pixels, IMAGE, 0, logits, CLASSES));
    loaded();
    machine.logits = 4;
    EXPECT(MST_ERR_RESULT, mst_classify(&driver, pixels, IMAGE, 0, logits, CLASSES));
    CHECK(machine.registers[MST_RESULT_OFFSET / 4] == 0);
    fresh();
    EXPECT(MST_ERR_NOT_LOADED, mst_start(&driver, 1, 0));
}

static void time_and_pauses(void)
{
    int32_t logits[CLASSES];
    loaded();
    driver.pause = mock_pause;
    driver.timeout = 20;
    EXPECT(MST_ERR_TIMEOUT, mst_take_result(&driver, logits, CLASSES));
    CHECK(machine.pauses == 20);
    driver.now = mock_now;
    machine.pauses = machine.ticks = 0;
    EXPECT(MST_ERR_TIMEOUT, mst_take_result(&driver, logits, CLASSES)); /* over the wrap of the time */
    CHECK(machine.pauses == 20 && machine.ticks == 22);
}

static void aborting(void)
{
    uint8_t pixels[IMAGE] = {0};
    int32_t logits[CLASSES];
    loaded();
    EXPECT(MST_OK, mst_start(&driver, 1, 0));
    EXPECT(MST_OK, mst_abort(&driver));
    CHECK(!machine.running && machine.registers[MST_LOAD_TARGET_OFFSET / 4] == MST_TARGET_NONE);
    machine.stuck = 1; /* in the middle of an image */
    EXPECT(MST_ERR_TIMEOUT, mst_classify(&driver, pixels, IMAGE, 0, logits, CLASSES));
    CHECK(machine.open);
    machine.packets = 0;
    EXPECT(MST_OK, mst_abort(&driver));
    CHECK(!machine.open && machine.queued == 0 && machine.packets == 1 && machine.target[0] == MST_TARGET_DISCARD);
    machine.stuck = 0;
    machine.closing = 2; /* two results are on their way */
    EXPECT(MST_OK, mst_abort(&driver));
    CHECK(machine.closing == 0 && machine.registers[MST_RESULT_OFFSET / 4] == 0);
    EXPECT(MST_OK, mst_classify(&driver, pixels, IMAGE, 0, logits, CLASSES));
    machine.overflow = 1;
    machine.registers[MST_ERROR_OFFSET / 4] = 2;
    EXPECT(MST_OK, mst_abort(&driver));
    CHECK(!machine.overflow);
    EXPECT(MST_OK, mst_check(&driver));
    machine.mute = machine.stuck = machine.open = 1;
    machine.queued = 2 * MOCK_BEATS;
    EXPECT(MST_ERR_TIMEOUT, mst_abort(&driver)); /* never drains, and no room to end the packet */
    CHECK(machine.registers[MST_LOAD_TARGET_OFFSET / 4] == MST_TARGET_NONE);
}

static void names(void)
{
    CHECK(!strcmp(mst_name(MST_OK), "OK") && !strcmp(mst_meaning(MST_OK), "no error"));
    CHECK(!strcmp(mst_name(MST_ERR_TIMEOUT), "TIMEOUT") && !strcmp(mst_name(MST_ERR_STREAM_LONG), "STREAM_LONG"));
    CHECK(!strcmp(mst_name((mst_status)50), "UNKNOWN") && strlen(mst_meaning((mst_status)50)) > 10);
#define SEEN(name, code, meaning) \
    check(__LINE__, seen[MST_ERR_##name], #name " was never returned"); \
    check(__LINE__, !strcmp(mst_name(MST_ERR_##name), #name) && strlen(mst_meaning(MST_ERR_##name)) > 10, #name " has no name");
    MST_DRIVER_ERRORS(SEEN)
    MST_MACHINE_ERRORS(SEEN)
#undef SEEN
}

int main(void)
{
    probing();
    nothing_works_before_probe();
    bad_arguments();
    loading();
    bad_networks();
    built_in_weights();
    external_memory();
    failing_loads();
    classifying();
    odd_patches();
    failing_runs();
    time_and_pauses();
    aborting();
    names();
    printf("%d checks, %d failures\n", checks, failures);
    return failures != 0;
}
