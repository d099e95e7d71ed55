#include "mock.h"

#include <string.h>

#define R(name) m->registers[MST_##name##_OFFSET / 4]

void mock_reset(mock *m)
{
    memset(m, 0, sizeof *m);
    R(ID) = MST_ID_VALUE;
    R(VERSION) = MST_VERSION_VALUE;
    R(BUILD_ID) = 0xC0FFEE42u;
    R(CAP_ARRAY) = 8u | 4u << MST_CAP_ARRAY_FIRE_LANES_SHIFT | 3u << MST_CAP_ARRAY_PLANES_SHIFT;
    R(CAP_ATTENTION) = 16;
    R(CAP_FORMAT) = 8u | 8u << MST_CAP_FORMAT_BUS_BYTES_SHIFT | MST_CAP_FORMAT_LOADABLE_MASK;
    R(CAP_WEIGHT_ROWS) = R(CAP_SPIKE_WORDS) = R(CAP_STREAM_WORDS) = R(CAP_PARAM_WORDS) = 10;
    R(CAP_ROM_WORDS) = R(CAP_DESCRIPTORS) = R(CAP_TRANSFERS) = 10;
    R(WINDOW_ID) = MST_WINDOW_ID_VALUE;
    R(WINDOW_CAP) = MOCK_BEATS | 8u << MST_WINDOW_CAP_LOGITS_SHIFT;
    m->logits = 3;
}

static void fail(mock *m, uint32_t code)
{
    R(ERROR) = code;
    R(IRQ_STATUS) |= MST_IRQ_STATUS_ERROR_MASK;
}

static void result(mock *m)
{
    uint32_t i;
    R(RESULT) = m->logits | MST_RESULT_VALID_MASK;
    for (i = 0; i < m->logits; i++)
        m->registers[MST_LOGITS_OFFSET / 4 + i] = (uint32_t)-5 + 7 * i;
}

static void packet_ends(mock *m)
{
    m->target[m->packets++ % 16] = R(LOAD_TARGET);
    if (m->mute)
        return;
    if (R(LOAD_TARGET) == MST_TARGET_NONE && m->running) {
        if (m->image_error)
            fail(m, m->image_error);
        else
            result(m);
        m->running = 0;
        R(IRQ_STATUS) |= MST_IRQ_STATUS_DONE_MASK;
    } else if (m->load_error) {
        fail(m, m->load_error);
    } else {
        R(IRQ_STATUS) |= MST_IRQ_STATUS_LOADED_MASK;
    }
}

static void send(mock *m, uint32_t word, int last)
{
    m->sent[m->count++ % MOCK_SENT] = word;
    m->open = !last;
    if (m->stuck)
        m->queued++;
    if (last)
        packet_ends(m);
}

uint32_t mst_read32(void *user, uint32_t offset)
{
    mock *m = user;
    switch (offset) {
    case MST_WINDOW_STATUS_OFFSET:
        if (R(LOAD_TARGET) == MST_TARGET_DISCARD && !m->mute)
            m->queued = 0; /* withdrawn */
        return (MOCK_BEATS - (m->queued + 1) / 2) | (m->open ? MST_WINDOW_STATUS_OPEN_MASK : 0) |
               (m->overflow ? MST_WINDOW_STATUS_OVERFLOW_MASK : 0);
    case MST_STATUS_OFFSET:
        return (m->running ? MST_STATUS_BUSY_MASK : 0) | (m->closing ? MST_STATUS_OUTPUT_MASK : 0) |
               (m->queued && !m->running ? MST_STATUS_INPUT_MASK : 0);
    default: return m->registers[offset / 4];
    }
}

void mst_write32(void *user, uint32_t offset, uint32_t value)
{
    mock *m = user;
    switch (offset) {
    case MST_SEND_OFFSET: send(m, value, 0); break;
    case MST_SEND_LAST_OFFSET: send(m, value, 1); break;
    case MST_IRQ_STATUS_OFFSET: R(IRQ_STATUS) &= ~value; break;
    case MST_ERROR_OFFSET: R(ERROR) = 0; break;
    case MST_WINDOW_STATUS_OFFSET: m->overflow = 0; break;
    case MST_RESULT_OFFSET:
        R(RESULT) = 0;
        if (m->closing && --m->closing)
            result(m);
        break;
    case MST_CTRL_OFFSET:
        if (value & MST_CTRL_ABORT_MASK) {
            m->running = m->mute && m->running;
            if (m->closing)
                result(m);
        } else if (m->start_error) {
            fail(m, m->start_error);
        } else {
            m->running = 1;
        }
        break;
    default: m->registers[offset / 4] = value;
    }
}

void mock_pause(void *user)
{
    mock *m = user;
    m->pauses++;
}

uint32_t mock_now(void *user)
{
    mock *m = user;
    return 0xFFFFFFF0u + m->ticks++; /* wraps around soon */
}
