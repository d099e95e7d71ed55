/* Bare-metal application of rtl/soc/mst_soc.v: loads the network in flash, classifies the images in flash, tells over the UART.
 *
 * Flash: a packed network; behind it, at the next multiple of four, the images: "MSTI", their number, bytes of one (filled up to
 * words), logits of one, 1 to provoke mishaps too; then every image's bytes; then every image's expected logits.
 */
#include "../mst.h"

#define FLASH ((const uint8_t *)0x10000000u)
#define ACCELERATOR 0x20000000u
#define UART (*(volatile uint32_t *)0x30000000u)
#define IMAGES_MAGIC 0x4D535449u
#define SLEEP_CYCLES 2000u

enum { IMAGES_MAGIC_WORD, IMAGES_COUNT, IMAGES_BYTES, IMAGES_LOGITS, IMAGES_MISHAPS, IMAGES_HEAD };

uint32_t mst_read32(void *user, uint32_t offset)
{
    return *(volatile uint32_t *)((uintptr_t)user + offset);
}

void mst_write32(void *user, uint32_t offset, uint32_t value)
{
    *(volatile uint32_t *)((uintptr_t)user + offset) = value;
}

/* -- text ----------------------------------------------------------------------------------------------------------- */

static void print(const char *text)
{
    for (; *text; text++) {
        while (UART)
            ;
        UART = (uint8_t)*text;
    }
}

static void print_number(uint32_t value)
{
    char digits[11];
    char *at = digits + 10;
    *at = 0;
    do {
        *--at = (char)('0' + value % 10);
        value /= 10;
    } while (value);
    print(at);
}

static void print_signed(int32_t value)
{
    if (value < 0)
        print("-");
    print_number(value < 0 ? 0u - (uint32_t)value : (uint32_t)value);
}

static int fail(const char *what, mst_status status)
{
    print("FAIL ");
    print(what);
    print(": ");
    print(mst_name(status));
    print(", ");
    print(mst_meaning(status));
    print("\n");
    return 1;
}

/* -- PicoRV32 ------------------------------------------------------------------------------------------------------- */

static uint32_t cycle(void *user)
{
    uint32_t value;
    (void)user;
    __asm__ volatile("rdcycle %0" : "=r"(value));
    return value;
}

/* Sleep until an interrupt, or for SLEEP_CYCLES: the timer and waitirq instructions, which are PicoRV32's own. */
static void sleep(void *user)
{
    uint32_t unused;
    (void)user;
    __asm__ volatile(".insn r 0x0B, 6, 5, %0, %1, x0" : "=r"(unused) : "r"(SLEEP_CYCLES));
    __asm__ volatile(".insn r 0x0B, 4, 4, %0, x0, x0" : "=r"(unused));
}

/* -- the application ------------------------------------------------------------------------------------------------ */

static mst_machine machine;
static int32_t logits[MST_LOGITS_COUNT];
static const uint8_t *pixels; /* the images */
static const int32_t *expected;
static uint32_t count, bytes, classes;

static const uint8_t *image(uint32_t index)
{
    return pixels + index * ((bytes + 3) & ~3u);
}

/* Classify image `index`; print its class, cycles and logits; 1 when they are not the expected ones. */
static int classify(const char *what, uint32_t index)
{
    mst_counters counters;
    uint32_t i;
    mst_status status = mst_classify(&machine, image(index), bytes, index, logits, classes);
    if (!status)
        status = mst_read_counters(&machine, &counters);
    if (status)
        return fail(what, status);
    print(what);
    print_number(index);
    print(": class ");
    print_number(mst_class(logits, classes));
    print(", ");
    print_number((uint32_t)counters.cycles);
    print(" cycles, logits");
    for (i = 0; i < classes; i++) {
        print(" ");
        print_signed(logits[i]);
    }
    print("\n");
    for (i = 0; i < classes; i++)
        if (logits[i] != expected[index * classes + i]) {
            print("FAIL logits differ from the golden model's\n");
            return 1;
        }
    return 0;
}

/* Expect `want` of a call; what the machine then holds is cleared by an abort. */
static int expect(const char *what, mst_status got, mst_status want)
{
    mst_status cleared = mst_abort(&machine);
    print(what);
    print(": ");
    print(mst_name(got));
    print("\n");
    return got != want ? fail("another status was expected", want) : cleared ? fail("abort", cleared) : 0;
}

/* Every mishap, and after each the same image: nothing may be left of it. */
static int mishaps(void)
{
    uint32_t i;
    int failures = 0;
    failures += classify("again, image ", 0);
    failures += classify("another, image ", count - 1);
    failures += classify("again, image ", 0);
    for (i = 0; i < 3; i++) { /* aborted before its image, with its image, in the middle of computing */
        mst_status status = mst_start(&machine, 2, 0);
        if (!status && i > 0)
            status = mst_send_image(&machine, image(0), bytes);
        if (!status && i > 1)
            for (cycle(0); !status && !(mst_read32(machine.user, MST_LAYER_OFFSET) > 2);)
                status = mst_check(&machine);
        failures += expect("abort", status, MST_OK);
        failures += classify("after it, image ", 0);
    }
    /* images that wait when the run is aborted do not become the next ones */
    if (!mst_start(&machine, 1, 0))
        mst_write32(machine.user, MST_CTRL_OFFSET, MST_CTRL_ABORT_MASK);
    for (i = 0; i < machine.bus_bytes / 4 * (machine.beats / 2); i++)
        mst_write32(machine.user, MST_SEND_OFFSET, i);
    failures += expect("abort with a packet half sent", MST_OK, MST_OK);
    failures += classify("after it, image ", 0);
    /* errors */
    if (!mst_start(&machine, 1, 0))
        mst_write32(machine.user, MST_SEND_LAST_OFFSET, 0);
    failures += expect("a short image", mst_take_result(&machine, logits, classes), MST_ERR_STREAM_SHORT);
    failures += classify("after it, image ", 0);
    if (!mst_start(&machine, 1, 0))
        mst_write32(machine.user, MST_CTRL_OFFSET, MST_CTRL_START_MASK);
    failures += expect("a start too many", mst_take_result(&machine, logits, classes), MST_ERR_BUSY);
    failures += classify("after it, image ", 0);
    machine.timeout = 5000;
    if (!mst_start(&machine, 1, 0))
        failures += expect("no image at all", mst_take_result(&machine, logits, classes), MST_ERR_TIMEOUT);
    machine.timeout = MST_TIMEOUT;
    failures += classify("after it, image ", 0);
    return failures;
}

int main(void)
{
    const uint32_t *head;
    uint32_t size = *(const uint32_t *)(FLASH + 4 * MST_PACKED_SIZE), i, begin;
    int failures = 0;
    mst_status status;
    mst_init(&machine, (void *)ACCELERATOR);
    machine.pause = sleep;
    machine.now = cycle;
    status = mst_probe(&machine);
    if (!status)
        status = mst_abort(&machine); /* whatever ran before this boot */
    if (status)
        return fail("probe", status);
    print("machine of ");
    print_number(machine.lanes);
    print(" lanes\n");
    begin = cycle(0);
    status = mst_load(&machine, FLASH, size);
    if (status)
        return fail("load", status);
    print("network of ");
    print_number(size);
    print(" bytes loaded in ");
    print_number(cycle(0) - begin);
    print(" cycles\n");
    head = (const uint32_t *)(FLASH + size);
    count = head[IMAGES_COUNT], bytes = head[IMAGES_BYTES], classes = head[IMAGES_LOGITS];
    pixels = (const uint8_t *)(head + IMAGES_HEAD);
    expected = (const int32_t *)(const void *)image(count);
    if (head[IMAGES_MAGIC_WORD] != IMAGES_MAGIC || !count || classes != machine.classes) {
        print("FAIL no images for this network behind it in flash\n");
        return 1;
    }
    for (i = 0; i < count; i++)
        failures += classify("image ", i);
    if (head[IMAGES_MISHAPS])
        failures += mishaps();
    print(failures ? "FAIL\n" : "PASS\n");
    return 0;
}
