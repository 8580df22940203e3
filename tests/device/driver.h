/* The stand-in's driver API: what its parts share. Everything runs under the one lock that the
 * exported functions of driver.c take; nothing here is called without it.
 *
 * Work is put into the queue of its stream and done by nobody until a call has to wait for it: a
 * caller who forgets to wait sees what was there before, every time. */
#ifndef ATTN_TESTS_DEVICE_DRIVER_H
#define ATTN_TESTS_DEVICE_DRIVER_H

#include "tests/device/cuda_types.h"
#include "tests/device/device.h"

enum { MAX_DEVICES = 16 };

/* ---- what a context holds ---- */

enum object_kind {
  OBJECT_MEMORY,
  OBJECT_HOST_MEMORY,
  OBJECT_STREAM,
  OBJECT_EVENT,
  OBJECT_MODULE,
  OBJECT_LINK,
  OBJECT_GRAPH,
  OBJECT_GRAPH_EXEC
};
/* The first member of everything with a handle. */
struct object {
  struct object *next;
  struct context *context;
  enum object_kind kind;
  uint64_t id;         /* never used twice */
  const char *made_by; /* the function, for the report of leaks */
  bool hidden;         /* the caller has given it back, or never had it */
};

struct memory {
  struct object object;
  uint64_t address; /* the host's for OBJECT_HOST_MEMORY */
  size_t bytes;
  bool freeing; /* cuMemFreeAsync was called */
};

struct event {
  struct object object;
  unsigned flags;
  bool recorded;             /* ever */
  bool pending;              /* its latest record has not been reached */
  uint64_t stream, sequence; /* of the latest record: the stream's id and the place in its queue */
  double time;               /* seconds, of the latest record reached */
  uint64_t capture;          /* the latest record was captured by the capture of this id; or 0 */
  uint32_t *nodes;           /* there: what came before */
  uint32_t node_count;
};

enum command_kind {
  COMMAND_TO_DEVICE,
  COMMAND_TO_HOST,
  COMMAND_WITHIN_DEVICE,
  COMMAND_SET,
  COMMAND_LAUNCH,
  COMMAND_RECORD,
  COMMAND_WAIT,
  COMMAND_FREE,
  COMMAND_GRAPH
};
struct command {
  struct command *next;
  uint64_t sequence; /* grows over all streams */
  enum command_kind kind;
  union {
    struct {
      void *to_host;
      const void *from_host;
      uint64_t to, from; /* device addresses */
      size_t bytes;
    } copy;
    struct {
      uint64_t to;
      unsigned value;
      size_t width, count; /* bytes of an element, elements */
    } set;
    struct {
      struct function *function;
      uint32_t grid[3], block[3], shared;
      unsigned char *params; /* a copy of the parameter block, owned */
    } launch;
    uint64_t event; /* id */
    struct {
      uint64_t stream, sequence;
    } wait;
    uint64_t address;
    struct graph_nodes *graph; /* a reference */
  };
};

struct stream {
  struct object object;
  unsigned flags;
  unsigned thread; /* of CU_STREAM_PER_THREAD, else 0 */
  struct command *head, *tail;
  uint32_t length;
  struct capture *capture;
  uint32_t *nodes; /* while it captures: what its next node depends on */
  uint32_t node_count;
};

struct function {
  struct function *next;
  struct module *module;
  const struct ptx_entry *entry;
  char *name;
  uint32_t required[3]; /* threads of .reqntid; zeros where there is none */
  uint32_t max_dynamic; /* bytes of dynamic shared memory that a launch may ask for */
  size_t param_bytes;
};

/* Unloaded modules stay, hidden and without `ptx`, so that work in the queues can name its
 * function. */
struct module {
  struct object object;
  struct ptx_module *ptx;
  char *text;
  int isa, target; /* as in struct image */
  struct function *functions;
};

struct context {
  uint32_t ordinal;
  uint32_t retained; /* it is alive where this is not 0 */
  unsigned flags;
  CUresult fault; /* what every call returns from here on */
  struct object *objects;
  struct stream *legacy; /* the NULL stream, a hidden object */
};

/* ---- driver.c ---- */

/* The context of the calling thread, which may be NULL where the table does not say CONTEXT. */
struct context *driver_context(void);
struct context *driver_device_context(uint32_t ordinal);
unsigned driver_thread(void); /* a number of the calling thread, from 1 */
/* How the current context is changed: see cuCtxSetCurrent, Push and Pop. */
bool driver_current_push(struct context *context);
void driver_current_set(struct context *context);
struct context *driver_current_pop(void);

/* Adds an object to its context. `made_by` is the exported function of the call. */
void object_add(struct object *object, struct context *context, enum object_kind kind);
void object_remove(struct object *object); /* the caller frees it */
/* What the handle stands for, or NULL: hidden objects and other kinds are not found. */
void *object_find(const void *handle, enum object_kind kind);
void *object_find_id(uint64_t id, enum object_kind kind); /* hidden ones too */

/* Whether a context that met the error is beyond use. */
bool driver_is_sticky(CUresult error);
void driver_fail(struct context *context, CUresult error);

/* ---- settings.c: the environment, read at the first call ---- */

struct settings {
  bool valid; /* cuInit fails where it is not */
  uint32_t devices;
  int capability; /* 10 * major + minor */
  int version;    /* of the driver: 1000 * major + 10 * minor */
  size_t memory;  /* bytes of each device */
  uint64_t seed;
};
const struct settings *settings_load(void);

/* A line into the file of ATTN_DEVICE_LOG; `say` writes it to stderr too. */
void report_log(const char *format, ...) __attribute__((format(printf, 1, 2)));
void report_say(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- properties.c ---- */

uint32_t property_shared_opt_in(void);  /* bytes of shared memory that a block may have */
uint32_t property_shared_default(void); /* and without cuFuncSetAttribute */
/* The largest .version of PTX that the driver knows, 10 * major + minor. */
int property_ptx_version(void);
uint32_t property_blocks_per_multiprocessor(uint32_t threads, uint32_t shared);

/* ---- inject.c ---- */

/* The error that the call of this function has to return; CUDA_SUCCESS for none. */
CUresult inject_next(const char *function);

/* ---- contexts.c ---- */

void context_report_leaks(const struct context *context);
/* Ends the work of the context, reports leaks and frees what it holds. */
void context_destroy(struct context *context);

/* ---- memory_calls.c ---- */

void memory_release(struct memory *memory);

/* ---- streams.c ---- */

/* The stream of a handle, which may be one of the special ones; an error of its context. */
CUresult stream_find(CUstream handle, struct stream **stream);
void stream_free(struct stream *stream);
void event_free(struct event *event);

/* ---- queue.c ---- */

struct command *command_new(enum command_kind kind); /* NULL without memory */
void command_free(struct command *command);
/* Does it now. An error is one of the context. */
CUresult command_run(struct context *context, const struct command *command);

/* Puts the command into the stream, or into the graph that the stream captures, and owns it. NULL
 * (there was no memory) is an error too. */
CUresult queue_push(struct stream *stream, struct command *command);
/* Does what the stream holds up to the place in the sequence, and all that this waits for. */
CUresult queue_run(struct stream *stream, uint64_t sequence);
CUresult queue_run_stream(uint64_t id, uint64_t sequence); /* of any context */
/* All that the stream holds; for the legacy stream, what the streams hold that it waits for too. */
CUresult queue_run_now(struct stream *stream);
CUresult queue_run_all(struct context *context);
uint64_t queue_sequence(void); /* the latest given out */
/* Does one command of what queue_run_now would do; false where nothing is left. */
bool queue_step(struct stream *stream);
/* Streams that were destroyed with work in them go when that is done. */
void queue_sweep(struct context *context);
/* Forgets all work of the context. */
void queue_drop(struct context *context);

/* ---- capture.c ---- */

struct graph_nodes;
/* Adds the command, which it owns, to the graph that the stream captures. */
CUresult capture_add(struct stream *stream, struct command *command);
CUresult capture_record(struct stream *stream, struct event *event);
/* `stream` may become part of the capture that recorded the event. */
CUresult capture_wait(struct stream *stream, const struct event *event);
/* A call that may not happen while the stream, or any one under a mode that forbids it, captures:
 * it spoils the capture and is refused. */
CUresult capture_forbid_wait(struct stream *stream);
CUresult capture_forbid_unsafe(void);
/* A use of the legacy stream while a stream that waits for it captures. */
CUresult capture_forbid_legacy(const struct context *context);
void capture_end(struct stream *stream); /* its stream goes away */
void graph_release(struct graph_nodes *nodes);
CUresult graph_run(struct context *context, const struct graph_nodes *nodes);
void graph_free(struct object *object);

/* ---- images.c: what cuModuleLoadData takes ---- */

struct image {
  char *text;      /* PTX, owned by the caller */
  int isa, target; /* 10 * major + minor of .version and .target */
  bool exact;      /* .target sm_NNa: for this capability only */
};
/* `log` gets a line on an error. `size` is SIZE_MAX where the caller does not say. */
CUresult image_read(const void *data, size_t size, struct image *image, char *log, size_t log_size);
/* The cubin of a PTX text, from malloc. */
void *image_make(const struct image *image, size_t *size);

/* ---- jit.c: options of the compiler, and cuLink ---- */

enum { JIT_LOG = 2048 };
struct jit_options {
  unsigned count;
  CUjit_option *options;
  void **values;
};
/* Whether the options are known and go together. */
bool jit_options_valid(const struct jit_options *options);
/* Fills the buffers that the options give and says how much of them is used. */
void jit_options_write(const struct jit_options *options, const char *info, const char *error);
void link_free(struct object *object);

/* ---- modules.c ---- */

void module_free(struct module *module);
struct function *function_find(CUfunction handle);

/* Every function NAME of the table is implemented by do_NAME; driver.c has what is around it. */
#define FUNCTION(name, needs, parameters, arguments) CUresult do_##name parameters;
#include "tests/device/cuda_functions.def"
#undef FUNCTION

#endif
