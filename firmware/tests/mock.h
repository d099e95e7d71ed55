/* A machine of registers alone, for the driver's tests: it answers as the RTL does, and fails on demand. */
#ifndef MOCK_H
#define MOCK_H

#include "../mst.h"

enum { MOCK_BEATS = 4, MOCK_SENT = 4096 };

typedef struct {
    uint32_t registers[MST_MAP_BYTES / 4];
    uint32_t sent[MOCK_SENT], count; /* words of all packets */
    uint32_t packets, target[16];    /* packets that ended, and the load target of each */
    uint32_t queued;                 /* words in the window: only while `stuck` */
    int open, running, sections;
    uint32_t logits; /* of a result */
    /* failures */
    int mute;                /* loads, runs and aborts get no answer */
    int stuck;               /* the input stream takes nothing */
    int overflow;            /* WINDOW_STATUS.overflow */
    uint32_t load_error;     /* ERROR.code of every load */
    uint32_t start_error;    /* ERROR.code of every start */
    uint32_t image_error;    /* ERROR.code of every image, at its end; the run ends */
    uint32_t closing;        /* results that an abort leaves: one waits, more come */
    uint32_t pauses, ticks;  /* calls of the hooks */
} mock;

void mock_reset(mock *m);
void mock_pause(void *user);
uint32_t mock_now(void *user);

#endif
