/*
 * A stand-in for libnvidia-ml.so.1 with the layouts of nvml.h. It reports two GPUs and needs none. -DCODE= is the result of
 * nvmlInit, and -DCC= the state of confidential computing. -DOLD leaves out the calls for confidential computing. -DDEAF makes
 * the first wait for an event fail.
 */
#include <string.h>
#include <unistd.h>

typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char text[32]; } pci_t;
typedef struct { unsigned version, environment, feature, devtools, multi; } settings_t;
typedef struct { unsigned size, attestation_size; unsigned char chain[0x1000], attestation[0x1400]; } certificate_t;
typedef struct {
    unsigned cec, size, cec_size;
    unsigned char nonce[32], report[0x2000], cec_report[0x1000];
} report_t;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory_t;
typedef struct { void *device; unsigned long long type, data; unsigned gpu, compute; } event_t;

static unsigned ready;
static volatile int due;

int nvmlInit_v2(void) { return CODE; }
int nvmlShutdown(void) { return 0; }
int nvmlSystemGetDriverVersion(char *out, unsigned size) { strncpy(out, "580.65.06", size); return 0; }
int nvmlDeviceGetCount_v2(unsigned *out) { *out = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **out) { *out = (void *)(long)(index + 1); return index < 2 ? 0 : 2; }
int nvmlDeviceGetMinorNumber(void *device, unsigned *out) { *out = (unsigned)(long)device - 1; return 0; }
int nvmlDeviceGetPciInfo_v3(void *device, pci_t *out) {
    memset(out, 0, sizeof *out);
    out->bus = 0x1a + (unsigned)(long)device;
    out->id = 0x233010de;
    return 0;
}
int nvmlDeviceGetVbiosVersion(void *device, char *out, unsigned size) { strncpy(out, "96.00.5E.00.01", size); return 0; }
int nvmlDeviceSetPersistenceMode(void *device, int mode) { return 4; }
#ifndef OLD
int nvmlSystemGetConfComputeSettings(settings_t *out) {
    if (out->version != (sizeof *out | 1 << 24)) return 25;
    out->feature = CC;
    return 0;
}
int nvmlSystemSetConfComputeGpusReadyState(unsigned value) { ready = value; due = value; return 0; }
int nvmlSystemGetConfComputeGpusReadyState(unsigned *out) { *out = ready; return 0; }
int nvmlDeviceGetConfComputeGpuCertificate(void *device, certificate_t *out) {
    static const char text[] = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    out->attestation_size = sizeof text;
    memcpy(out->attestation, text, sizeof text);
    return 0;
}
int nvmlDeviceGetConfComputeGpuAttestationReport(void *device, report_t *out) {
    out->size = 37;
    out->report[0] = 0x11;
    out->report[1] = 0xe0;
    memcpy(out->report + 4, out->nonce, 32);
    out->report[36] = (unsigned char)(long)device;
    return 0;
}
#endif
int nvmlDeviceGetMemoryInfo_v2(void *device, memory_t *out) {
    if (out->version != (sizeof *out | 2 << 24)) return 25;
    out->total = 80ull << 30;
    out->used = (unsigned long long)(long)device << 30;
    return 0;
}
/* Refused for the second GPU, as a driver may do in confidential computing. */
int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *out) {
    *out = 41;
    return sensor == 0 && device == (void *)1 ? 0 : 3;
}
int nvmlEventSetCreate(void **out) { *out = &ready; return 0; }
int nvmlEventSetFree(void *set) { return 0; }
int nvmlDeviceRegisterEvents(void *device, unsigned long long types, void *set) { return types == 8 ? 0 : 2; }
int nvmlEventSetWait_v2(void *set, event_t *out, unsigned milliseconds) {
#ifdef DEAF
    /* Only the first wait fails. */
    static int failed;
    if (!failed++) return 999;
#endif
    for (unsigned i = 0; i < milliseconds; i++) {
        if (due) {
            due = 0;
            memset(out, 0, sizeof *out);
            out->device = (void *)2;
            out->type = 8;
            out->data = 79;
            return 0;
        }
        usleep(1000);
    }
    return 10;
}
