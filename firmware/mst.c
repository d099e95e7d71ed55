/* See mst.h. The order of accesses and the rules of an abort stand in docs/registers.md. */
#include "mst.h"

#define FIELD(word, name) (((word) & MST_##name##_MASK) >> MST_##name##_SHIFT)
#define ALL_CAUSES (MST_IRQ_STATUS_DONE_MASK | MST_IRQ_STATUS_ERROR_MASK | MST_IRQ_STATUS_LOADED_MASK)

static uint32_t get(const mst_machine *m, uint32_t offset)
{
    return mst_read32(m->user, offset);
}

static void put(const mst_machine *m, uint32_t offset, uint32_t value)
{
    mst_write32(m->user, offset, value);
}

static uint64_t get_wide(const mst_machine *m, uint32_t low, uint32_t high)
{
    uint64_t value = get(m, low); /* low first: reading it freezes the high word */
    return value | (uint64_t)get(m, high) << 32;
}

/* -- waiting -------------------------------------------------------------------------------------------------------- */

typedef struct {
    uint32_t begin, polls;
} wait;

static wait wait_begin(const mst_machine *m)
{
    wait w;
    w.begin = m->now ? m->now(m->user) : 0;
    w.polls = 0;
    return w;
}

/* After a poll that found nothing: 0 when the time is over. */
static int wait_more(const mst_machine *m, wait *w)
{
    uint32_t passed = m->now ? m->now(m->user) - w->begin : ++w->polls;
    if (passed > m->timeout)
        return 0;
    if (m->pause)
        m->pause(m->user);
    return 1;
}

mst_status mst_check(mst_machine *m)
{
    uint32_t code;
    if (!m || !m->bus_bytes)
        return m ? MST_ERR_NOT_PROBED : MST_ERR_ARGUMENT;
    code = FIELD(get(m, MST_ERROR_OFFSET), ERROR_CODE);
    switch (code) {
    case 0: return MST_OK;
#define CASE(name, code_, meaning) case code_: return MST_ERR_##name;
    MST_MACHINE_ERRORS(CASE)
#undef CASE
    default: return MST_ERR_UNKNOWN;
    }
}

/* Wait until `mask` is set in register `offset`; MST_ERR_TIMEOUT, or the machine's error. */
static mst_status wait_for(mst_machine *m, uint32_t offset, uint32_t mask)
{
    wait w = wait_begin(m);
    for (;;) {
        mst_status status;
        if (get(m, offset) & mask)
            return mst_check(m); /* a run that ends with an error ends, too */
        status = mst_check(m);
        if (status)
            return status;
        if (!wait_more(m, &w))
            return MST_ERR_TIMEOUT;
    }
}

/* -- packets -------------------------------------------------------------------------------------------------------- */

typedef struct {
    uint32_t left; /* words of the packet */
    uint32_t room; /* words that the window is known to take */
} packet;

/* One word of a packet. Waits for room. */
static mst_status send_word(mst_machine *m, packet *p, uint32_t word)
{
    if (!p->room) {
        wait w = wait_begin(m);
        uint32_t per_beat = m->bus_bytes / 4;
        for (;;) {
            uint32_t state = get(m, MST_WINDOW_STATUS_OFFSET);
            mst_status status;
            if (state & MST_WINDOW_STATUS_OVERFLOW_MASK)
                return MST_ERR_OVERFLOW;
            p->room = FIELD(state, WINDOW_STATUS_FREE) * per_beat;
            if (p->room)
                break;
            status = mst_check(m);
            if (status)
                return status;
            if (!wait_more(m, &w))
                return MST_ERR_TIMEOUT;
        }
    }
    p->room--;
    put(m, --p->left ? MST_SEND_OFFSET : MST_SEND_LAST_OFFSET, word);
    return MST_OK;
}

static uint32_t word_at(const uint8_t *bytes)
{
    return bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

/* -- identity ------------------------------------------------------------------------------------------------------- */

void mst_init(mst_machine *m, void *user)
{
    m->user = user;
    m->pause = NULL;
    m->now = NULL;
    m->timeout = MST_TIMEOUT;
    m->build_id = m->lanes = m->planes = m->bus_bytes = m->beats = m->logits = 0;
    m->memory_base = m->memory_bytes = 0;
    m->memory = NULL;
    m->side = m->channels = m->patch = m->classes = 0;
}

mst_status mst_probe(mst_machine *m)
{
    uint32_t array, window;
    if (!m)
        return MST_ERR_ARGUMENT;
    m->bus_bytes = m->classes = 0;
    if (get(m, MST_ID_OFFSET) != MST_ID_VALUE)
        return MST_ERR_NO_MACHINE;
    if (get(m, MST_VERSION_OFFSET) != MST_VERSION_VALUE)
        return MST_ERR_MAP_VERSION;
    if (get(m, MST_WINDOW_ID_OFFSET) != MST_WINDOW_ID_VALUE)
        return MST_ERR_NO_WINDOW;
    array = get(m, MST_CAP_ARRAY_OFFSET);
    window = get(m, MST_WINDOW_CAP_OFFSET);
    m->build_id = get(m, MST_BUILD_ID_OFFSET);
    m->lanes = FIELD(array, CAP_ARRAY_LANES);
    m->planes = FIELD(array, CAP_ARRAY_PLANES);
    m->beats = FIELD(window, WINDOW_CAP_BEATS);
    m->logits = FIELD(window, WINDOW_CAP_LOGITS);
    m->bus_bytes = FIELD(get(m, MST_CAP_FORMAT_OFFSET), CAP_FORMAT_BUS_BYTES);
    put(m, MST_IRQ_ENABLE_OFFSET, ALL_CAUSES);
    return MST_OK;
}

mst_status mst_set_memory(mst_machine *m, uint32_t base, void *memory, uint32_t bytes)
{
    if (!m || !memory || base % 4096)
        return MST_ERR_ARGUMENT;
    if (!m->bus_bytes)
        return MST_ERR_NOT_PROBED;
    m->memory_base = base;
    m->memory = memory;
    m->memory_bytes = bytes;
    put(m, MST_MEMORY_BASE_OFFSET, base / 4096);
    return MST_OK;
}

/* -- loading -------------------------------------------------------------------------------------------------------- */

static uint32_t crc32(const uint8_t *bytes, uint32_t size)
{
    /* CRC-32 (IEEE 802.3), reflected, four bits at a time */
    static const uint32_t table[16] = {0x00000000u, 0x1DB71064u, 0x3B6E20C8u, 0x26D930ACu, 0x76DC4190u, 0x6B6B51F4u,
                                       0x4DB26158u, 0x5005713Cu, 0xEDB88320u, 0xF00F9344u, 0xD6D6A3E8u, 0xCB61B38Cu,
                                       0x9B64C2B0u, 0x86D3D2D4u, 0xA00AE278u, 0xBDBDF21Cu};
    uint32_t crc = 0xFFFFFFFFu;
    while (size--) {
        crc ^= *bytes++;
        crc = crc >> 4 ^ table[crc & 15];
        crc = crc >> 4 ^ table[crc & 15];
    }
    return ~crc;
}

/* A packed network that is whole: its header's words, and its bytes. */
static mst_status check_network(const mst_machine *m, const uint8_t *bytes, uint32_t size, uint32_t *header)
{
    static const uint8_t equal[5][2] = {{MST_PACKED_CAP_ARRAY, MST_CAP_ARRAY_OFFSET},
                                        {MST_PACKED_CAP_ATTENTION, MST_CAP_ATTENTION_OFFSET},
                                        {MST_PACKED_CAP_FORMAT, MST_CAP_FORMAT_OFFSET},
                                        {MST_PACKED_CAP_MEMORY, MST_CAP_MEMORY_OFFSET},
                                        {MST_PACKED_CAP_FIRING, MST_CAP_FIRING_OFFSET}};
    static const uint8_t least[7][2] = {{MST_PACKED_WEIGHT_ROWS, MST_CAP_WEIGHT_ROWS_OFFSET},
                                        {MST_PACKED_SPIKE_WORDS, MST_CAP_SPIKE_WORDS_OFFSET},
                                        {MST_PACKED_STREAM_WORDS, MST_CAP_STREAM_WORDS_OFFSET},
                                        {MST_PACKED_PARAM_WORDS, MST_CAP_PARAM_WORDS_OFFSET},
                                        {MST_PACKED_ROM_WORDS, MST_CAP_ROM_WORDS_OFFSET},
                                        {MST_PACKED_DESCRIPTORS, MST_CAP_DESCRIPTORS_OFFSET},
                                        {MST_PACKED_TRANSFERS, MST_CAP_TRANSFERS_OFFSET}};
    uint32_t i;
    if (size < 4 * MST_PACKED_WORDS)
        return MST_ERR_NETWORK_SHORT;
    for (i = 0; i < MST_PACKED_WORDS; i++)
        header[i] = word_at(bytes + 4 * i);
    if (header[MST_PACKED_MAGIC] != MST_PACKED_MAGIC_VALUE)
        return MST_ERR_NETWORK_MAGIC;
    if (header[MST_PACKED_FORMAT] != MST_PACKED_FORMAT_VALUE)
        return MST_ERR_NETWORK_FORMAT;
    if (header[MST_PACKED_SIZE] > size || header[MST_PACKED_SIZE] < 4 * MST_PACKED_WORDS)
        return MST_ERR_NETWORK_SHORT;
    i = 4 * (MST_PACKED_CRC + 1);
    if (crc32(bytes + i, header[MST_PACKED_SIZE] - i) != header[MST_PACKED_CRC])
        return MST_ERR_NETWORK_CRC;
    if (header[MST_PACKED_MAP_VERSION] != MST_VERSION_VALUE)
        return MST_ERR_NETWORK_MAP;
    for (i = 0; i < sizeof equal / sizeof *equal; i++)
        if (header[equal[i][0]] != get(m, equal[i][1]))
            return MST_ERR_NETWORK_MACHINE;
    if (!(header[MST_PACKED_CAP_FORMAT] & MST_CAP_FORMAT_LOADABLE_MASK) && header[MST_PACKED_BUILD_ID] != m->build_id)
        return MST_ERR_NETWORK_BUILD;
    for (i = 0; i < sizeof least / sizeof *least; i++)
        if (header[least[i][0]] > get(m, least[i][1]))
            return MST_ERR_NETWORK_DEPTH;
    if (header[MST_PACKED_CLASSES] > m->logits)
        return MST_ERR_NETWORK_DEPTH;
    if (header[MST_PACKED_EXTERNAL_BYTES] > m->memory_bytes)
        return MST_ERR_NO_MEMORY;
    if (!header[MST_PACKED_CLASSES] || !header[MST_PACKED_PATCH] || header[MST_PACKED_IMAGE_SIDE] % header[MST_PACKED_PATCH])
        return MST_ERR_NETWORK_SECTION;
    if (header[MST_PACKED_SECTIONS] > (header[MST_PACKED_SIZE] / 4 - MST_PACKED_WORDS) / MST_SECTION_WORDS)
        return MST_ERR_NETWORK_SECTION;
    for (i = 0; i < header[MST_PACKED_SECTIONS]; i++) {
        const uint8_t *entry = bytes + 4 * (MST_PACKED_WORDS + MST_SECTION_WORDS * i);
        uint32_t target = word_at(entry + 4 * MST_SECTION_TARGET), offset = word_at(entry + 4 * MST_SECTION_OFFSET);
        uint32_t count = word_at(entry + 4 * MST_SECTION_BYTES);
        if (!count || count % 4 || offset > header[MST_PACKED_SIZE] || count > header[MST_PACKED_SIZE] - offset)
            return MST_ERR_NETWORK_SECTION;
        if (target == MST_PACKED_EXTERNAL) {
            if (count > header[MST_PACKED_EXTERNAL_BYTES])
                return MST_ERR_NETWORK_SECTION;
        } else if (target <= MST_TARGET_NONE || target >= MST_TARGET_DISCARD) {
            return MST_ERR_NETWORK_SECTION;
        }
    }
    return MST_OK;
}

/* One section to its memory. */
static mst_status load_section(mst_machine *m, uint32_t target, const uint8_t *bytes, uint32_t count)
{
    packet p = {0, 0};
    mst_status status = MST_OK;
    uint32_t i;
    if (target == MST_PACKED_EXTERNAL) {
        for (i = 0; i < count; i++)
            m->memory[i] = bytes[i];
        return MST_OK;
    }
    put(m, MST_IRQ_STATUS_OFFSET, MST_IRQ_STATUS_LOADED_MASK);
    put(m, MST_LOAD_ADDRESS_OFFSET, 0);
    put(m, MST_LOAD_TARGET_OFFSET, target);
    p.left = count / 4;
    for (i = 0; i < count && !status; i += 4)
        status = send_word(m, &p, word_at(bytes + i));
    if (!status)
        status = wait_for(m, MST_IRQ_STATUS_OFFSET, MST_IRQ_STATUS_LOADED_MASK);
    put(m, MST_LOAD_TARGET_OFFSET, MST_TARGET_NONE);
    return status;
}

mst_status mst_load(mst_machine *m, const void *network, uint32_t size)
{
    uint32_t header[MST_PACKED_WORDS], i;
    const uint8_t *bytes = network;
    mst_status status;
    if (!m || !network)
        return MST_ERR_ARGUMENT;
    if (!m->bus_bytes)
        return MST_ERR_NOT_PROBED;
    m->classes = 0;
    if (get(m, MST_STATUS_OFFSET) & (MST_STATUS_BUSY_MASK | MST_STATUS_LOADING_MASK | MST_STATUS_INPUT_MASK))
        return MST_ERR_STILL_BUSY; /* an image that waits would be taken for the program */
    status = check_network(m, bytes, size, header);
    if (status)
        return status;
    for (i = 0; i < header[MST_PACKED_SECTIONS]; i++) {
        const uint8_t *entry = bytes + 4 * (MST_PACKED_WORDS + MST_SECTION_WORDS * i);
        status = load_section(m, word_at(entry + 4 * MST_SECTION_TARGET), bytes + word_at(entry + 4 * MST_SECTION_OFFSET),
                              word_at(entry + 4 * MST_SECTION_BYTES));
        if (status)
            return status;
    }
    m->side = header[MST_PACKED_IMAGE_SIDE];
    m->channels = header[MST_PACKED_IMAGE_CHANNELS];
    m->patch = header[MST_PACKED_PATCH];
    m->classes = header[MST_PACKED_CLASSES];
    put(m, MST_MASK_SEED_OFFSET, header[MST_PACKED_MASK_SEED]);
    put(m, MST_MASK_CTRL_OFFSET, header[MST_PACKED_MASK_CTRL]);
    return MST_OK;
}

mst_status mst_set_mask(mst_machine *m, uint32_t seed, int enable, int ratio)
{
    uint32_t word = 0;
    if (!m || ratio < -1 || ratio > 255)
        return MST_ERR_ARGUMENT;
    if (!m->bus_bytes)
        return MST_ERR_NOT_PROBED;
    if (enable)
        word |= MST_MASK_CTRL_ENABLE_MASK;
    if (ratio >= 0)
        word |= MST_MASK_CTRL_OVERRIDE_MASK | (uint32_t)ratio << MST_MASK_CTRL_RATIO_SHIFT;
    put(m, MST_MASK_SEED_OFFSET, seed);
    put(m, MST_MASK_CTRL_OFFSET, word);
    return MST_OK;
}

mst_status mst_set_steps(mst_machine *m, uint32_t steps)
{
    if (!m)
        return MST_ERR_ARGUMENT;
    if (!m->bus_bytes)
        return MST_ERR_NOT_PROBED;
    if (!steps || steps > FIELD(get(m, MST_CAP_FIRING_OFFSET), CAP_FIRING_STEPS))
        return MST_ERR_ARGUMENT;
    put(m, MST_STEPS_OFFSET, steps);
    return MST_OK;
}

/* -- running -------------------------------------------------------------------------------------------------------- */

mst_status mst_start(mst_machine *m, uint32_t images, uint32_t first)
{
    mst_status status = mst_check(m);
    if (status)
        return status;
    if (!images)
        return MST_ERR_ARGUMENT;
    if (!m->classes)
        return MST_ERR_NOT_LOADED;
    if (get(m, MST_STATUS_OFFSET) & MST_STATUS_BUSY_MASK)
        return MST_ERR_STILL_BUSY;
    put(m, MST_IRQ_STATUS_OFFSET, ALL_CAUSES); /* of a load, too: the interrupt is the run's from now on */
    put(m, MST_IMAGES_OFFSET, images);
    put(m, MST_IMAGE_INDEX_OFFSET, first);
    put(m, MST_PROGRAM_START_OFFSET, 0);
    put(m, MST_CTRL_OFFSET, MST_CTRL_START_MASK);
    return MST_OK;
}

mst_status mst_send_image(mst_machine *m, const uint8_t *pixels, uint32_t bytes)
{
    uint32_t row, column, y, i, per_token, filled, word = 0;
    packet p = {0, 0};
    if (!m || !pixels)
        return MST_ERR_ARGUMENT;
    if (!m->classes)
        return MST_ERR_NOT_LOADED;
    if (bytes != m->side * m->side * m->channels)
        return MST_ERR_IMAGE_SIZE;
    /* tokens in raster order; each the rows of its patch, filled up to whole beats with zeros */
    per_token = (m->patch * m->patch * m->channels + m->bus_bytes - 1) / m->bus_bytes * (m->bus_bytes / 4);
    p.left = m->side / m->patch * (m->side / m->patch) * per_token;
    for (row = 0; row < m->side; row += m->patch)
        for (column = 0; column < m->side; column += m->patch) {
            filled = 0;
            for (y = 0; y < m->patch; y++) {
                const uint8_t *line = pixels + ((row + y) * m->side + column) * m->channels;
                for (i = 0; i < m->patch * m->channels; i++) {
                    word |= (uint32_t)line[i] << 8 * (filled % 4);
                    if (++filled % 4 == 0) {
                        mst_status status = send_word(m, &p, word);
                        if (status)
                            return status;
                        word = 0;
                    }
                }
            }
            for (; filled < 4 * per_token; filled = (filled / 4 + 1) * 4) {
                mst_status status = send_word(m, &p, word);
                if (status)
                    return status;
                word = 0;
            }
        }
    return MST_OK;
}

mst_status mst_poll(mst_machine *m, int *ready)
{
    mst_status status = mst_check(m);
    if (!ready)
        return MST_ERR_ARGUMENT;
    *ready = !status && get(m, MST_RESULT_OFFSET) & MST_RESULT_VALID_MASK;
    return status;
}

mst_status mst_take_result(mst_machine *m, int32_t *logits, uint32_t count)
{
    mst_status status;
    uint32_t i, found;
    if (!m || !logits)
        return MST_ERR_ARGUMENT;
    if (!m->classes)
        return MST_ERR_NOT_LOADED;
    if (count != m->classes)
        return MST_ERR_ARGUMENT;
    status = wait_for(m, MST_RESULT_OFFSET, MST_RESULT_VALID_MASK);
    if (status)
        return status;
    found = FIELD(get(m, MST_RESULT_OFFSET), RESULT_COUNT);
    for (i = 0; i < count && i < found; i++)
        logits[i] = (int32_t)get(m, MST_LOGITS_OFFSET + 4 * i);
    put(m, MST_RESULT_OFFSET, MST_RESULT_VALID_MASK);
    return found == count ? MST_OK : MST_ERR_RESULT;
}

mst_status mst_finish(mst_machine *m)
{
    mst_status status = mst_check(m);
    if (!status)
        status = wait_for(m, MST_IRQ_STATUS_OFFSET, MST_IRQ_STATUS_DONE_MASK);
    return status;
}

mst_status mst_classify(mst_machine *m, const uint8_t *pixels, uint32_t bytes, uint32_t index, int32_t *logits, uint32_t count)
{
    mst_status status;
    if (!m || !pixels || !logits || (m->classes && count != m->classes))
        return MST_ERR_ARGUMENT;
    if (m->classes && bytes != m->side * m->side * m->channels)
        return MST_ERR_IMAGE_SIZE; /* before anything is started */
    status = mst_start(m, 1, index);
    if (!status)
        status = mst_send_image(m, pixels, bytes);
    if (!status)
        status = mst_take_result(m, logits, count);
    if (!status)
        status = mst_finish(m);
    return status;
}

uint32_t mst_class(const int32_t *logits, uint32_t count)
{
    uint32_t i, best = 0;
    for (i = 1; i < count; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

mst_status mst_read_counters(mst_machine *m, mst_counters *counters)
{
    if (!m || !counters)
        return MST_ERR_ARGUMENT;
    if (!m->bus_bytes)
        return MST_ERR_NOT_PROBED;
    counters->cycles = get_wide(m, MST_CYCLES_LO_OFFSET, MST_CYCLES_HI_OFFSET);
    counters->events = get_wide(m, MST_EVENTS_LO_OFFSET, MST_EVENTS_HI_OFFSET);
    counters->stalls = get_wide(m, MST_STALLS_LO_OFFSET, MST_STALLS_HI_OFFSET);
    counters->layer = get(m, MST_LAYER_OFFSET);
    counters->image = get(m, MST_IMAGE_INDEX_OFFSET);
    return MST_OK;
}

/* -- errors --------------------------------------------------------------------------------------------------------- */

mst_status mst_clear(mst_machine *m)
{
    if (!m || !m->bus_bytes)
        return m ? MST_ERR_NOT_PROBED : MST_ERR_ARGUMENT;
    put(m, MST_ERROR_OFFSET, MST_ERROR_CODE_MASK);
    put(m, MST_IRQ_STATUS_OFFSET, ALL_CAUSES);
    return MST_OK;
}

mst_status mst_abort(mst_machine *m)
{
    wait w;
    mst_status status = MST_ERR_TIMEOUT;
    if (!m || !m->bus_bytes)
        return m ? MST_ERR_NOT_PROBED : MST_ERR_ARGUMENT;
    put(m, MST_CTRL_OFFSET, MST_CTRL_ABORT_MASK);
    put(m, MST_LOAD_TARGET_OFFSET, MST_TARGET_DISCARD);
    put(m, MST_WINDOW_STATUS_OFFSET, MST_WINDOW_STATUS_OVERFLOW_MASK);
    w = wait_begin(m);
    do {
        /* each stage is read after the one in front of it, so nothing can slip through between two reads */
        uint32_t window = get(m, MST_WINDOW_STATUS_OFFSET), state = get(m, MST_STATUS_OFFSET), result = get(m, MST_RESULT_OFFSET);
        uint32_t free = FIELD(window, WINDOW_STATUS_FREE);
        if (result & MST_RESULT_VALID_MASK)
            put(m, MST_RESULT_OFFSET, MST_RESULT_VALID_MASK);
        if (window & MST_WINDOW_STATUS_OPEN_MASK) {
            if (free)
                put(m, MST_SEND_LAST_OFFSET, 0); /* end the packet that was begun */
        } else if (free == m->beats && !(result & (MST_RESULT_VALID_MASK | MST_RESULT_RECEIVING_MASK)) &&
                   !(state & (MST_STATUS_BUSY_MASK | MST_STATUS_LOADING_MASK | MST_STATUS_INPUT_MASK | MST_STATUS_OUTPUT_MASK))) {
            status = MST_OK;
            break;
        }
    } while (wait_more(m, &w));
    put(m, MST_LOAD_TARGET_OFFSET, MST_TARGET_NONE);
    mst_clear(m);
    return status;
}

const char *mst_name(mst_status status)
{
    switch (status) {
    case MST_OK: return "OK";
#define CASE(name, code, meaning) case MST_ERR_##name: return #name;
    MST_DRIVER_ERRORS(CASE)
    MST_MACHINE_ERRORS(CASE)
#undef CASE
    default: return "UNKNOWN";
    }
}

const char *mst_meaning(mst_status status)
{
    switch (status) {
    case MST_OK: return "no error";
#define CASE(name, code, meaning) case MST_ERR_##name: return meaning;
    MST_DRIVER_ERRORS(CASE)
    MST_MACHINE_ERRORS(CASE)
#undef CASE
    default: return "a status that this driver does not know";
    }
}
