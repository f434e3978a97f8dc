/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The wire protocol between the host and the agent in the guest: frames, TLVs,
 * limits and numbers. docs/agent-protocol.md is its specification.
 *
 * Theory of operation
 *
 * A connection is a stream of frames: a fixed header of 16 bytes, then `len`
 * bytes of payload. Everything is little-endian. The host (client) sends HELLO
 * first and the agent answers with HELLO; from then on the connection carries
 * one request at a time. A request starts with a request frame (EXEC, ...) and
 * ends with a final frame from the agent (RESULT, ERROR, EXIT, END), all with
 * the request's id; then the connection is idle and can be used again.
 *
 * While a request is served, the client may send frames that belong to it
 * (STDIN, ACK, DATA, ...). They may cross the final frame on the wire, so an
 * idle agent drops them silently.
 *
 * Neither side believes the other: lengths are checked before anything is
 * allocated or copied, tags are looked up in tables.
 */
#ifndef LIB_PROTO_H
#define LIB_PROTO_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/cursor.h"
#include "lib/err.h"

#define PROTO_VERSION	 1u
#define PROTO_AGENT_PORT 1024u /* vsock port the agent listens on */
#define PROTO_KNOCK_PORT 1025u /* host port the agent connects to, once, when it is ready */

#define PROTO_REQUEST_MAX (4u << 20)		 /* payload of a request frame, bytes */
#define PROTO_FRAME_MAX	  (64u << 10)		 /* payload of any other frame, bytes */
#define PROTO_DATA_MAX	  (PROTO_FRAME_MAX - 8u) /* bytes of a stream in one frame */
#define PROTO_LABEL_MAX	  4096u
#define PROTO_WINDOW	  (256u << 10) /* bytes of one stream in flight and not acknowledged */

/* The header of every frame, as it is on the wire. */
struct proto_header {
	uint8_t version; /* PROTO_VERSION */
	uint8_t type;	 /* enum proto_type */
	uint16_t flags;	 /* none defined: 0, else refused */
	uint32_t len;	 /* of the payload, bytes */
	uint64_t id;	 /* of the request; chosen by the client, never 0 after HELLO */
};
#define PROTO_HEADER_LEN 16u
static_assert(sizeof(struct proto_header) == PROTO_HEADER_LEN, "no padding");
static_assert(offsetof(struct proto_header, version) == 0, "wire layout");
static_assert(offsetof(struct proto_header, type) == 1, "wire layout");
static_assert(offsetof(struct proto_header, flags) == 2, "wire layout");
static_assert(offsetof(struct proto_header, len) == 4, "wire layout");
static_assert(offsetof(struct proto_header, id) == 8, "wire layout");

/* The payload of a request, and of most answers, is a sequence of these. */
struct proto_tlv_header {
	uint16_t tag;	/* enum proto_tag */
	uint16_t flags; /* PROTO_MANDATORY or 0 */
	uint32_t len;	/* of the value, bytes; no padding follows */
};
#define PROTO_TLV_LEN 8u
static_assert(sizeof(struct proto_tlv_header) == PROTO_TLV_LEN, "no padding");
static_assert(offsetof(struct proto_tlv_header, flags) == 2, "wire layout");
static_assert(offsetof(struct proto_tlv_header, len) == 4, "wire layout");

/* A receiver that does not know the tag must refuse the frame (else: skip it). */
#define PROTO_MANDATORY 1u

enum proto_type {
	/* Requests, client to agent; payload: TLVs. 0x01-0x3f */
	PROTO_HELLO = 0x01, /* also the agent's answer to it */
	PROTO_PING = 0x02,  /* answer: RESULT */
	PROTO_EXEC = 0x03,
	PROTO_ATTACH = 0x04,
	PROTO_CONNECT = 0x05,  /* only if the agent said PROTO_HELLO_CONNECT */
	PROTO_SESSIONS = 0x06, /* only if the agent said PROTO_HELLO_SESSIONS; ENTRIES..., END */
	PROTO_FILE_READ = 0x10,
	PROTO_FILE_WRITE = 0x11,
	PROTO_FILE_LIST = 0x12,
	PROTO_FILE_MKDIR = 0x13,
	PROTO_FILE_REMOVE = 0x14,
	PROTO_FILE_STAT = 0x15,
	PROTO_SYNC = 0x20,
	PROTO_SHUTDOWN = 0x21,
	/* These three only if the agent said PROTO_HELLO_RENEW. Answer: RESULT. */
	PROTO_FREEZE = 0x22,
	PROTO_THAW = 0x23,
	PROTO_RENEW = 0x24,

	/* Belonging to a running request, client to agent. 0x40-0x7f */
	PROTO_STDIN = 0x40,	/* u64 offset, bytes */
	PROTO_STDIN_EOF = 0x41, /* u64 offset: the length of the whole stream */
	PROTO_SIGNAL = 0x42,	/* u32 signal number, to the process group; ends a tunnel */
	PROTO_ACK = 0x43,	/* u64 stdout, u64 stderr: bytes below need no replay */
	PROTO_DATA = 0x44,	/* bytes of a FILE_WRITE */
	PROTO_DATA_END = 0x45,	/* the file is complete */
	PROTO_WINSIZE = 0x46,	/* u16 rows, u16 cols: of a session's terminal, not 0 */

	/* Agent to client. 0x80-0xff */
	PROTO_RESULT = 0x80,	/* final; TLVs */
	PROTO_ERROR = 0x81,	/* final; TLVs: errno, message */
	PROTO_STARTED = 0x82,	/* EXEC, ATTACH: TLVs: pid, stdin offset */
	PROTO_STDOUT = 0x83,	/* u64 offset, bytes; none: a tunnel's port has ended */
	PROTO_STDERR = 0x84,	/* u64 offset, bytes */
	PROTO_STDIN_ACK = 0x85, /* u64: bytes of stdin the process (or its pipe) has taken */
	PROTO_EXIT = 0x86,	/* final; TLVs */
	PROTO_FILE_INFO = 0x87, /* FILE_READ: before the data; TLVs as of STAT */
	PROTO_CHUNK = 0x88,	/* FILE_READ: bytes; never empty */
	PROTO_ENTRIES =
	    0x89,	  /* FILE_LIST, SESSIONS: TLVs PROTO_TAG_ENTRY, PROTO_TAG_SESSION_ENTRY */
	PROTO_END = 0x8a, /* final; FILE_READ, FILE_LIST, SESSIONS: all was sent */
};

/* Numbers are 4 or 8 bytes as named; strings are without NUL, of the length of the TLV. */
enum proto_tag {
	/* HELLO */
	PROTO_TAG_VERSION_MIN = 0x01, /* u32, client: lowest protocol version it speaks */
	PROTO_TAG_VERSION_MAX = 0x02, /* u32, client: highest */
	PROTO_TAG_VERSION = 0x03,     /* u32, agent: the one in use */
	PROTO_TAG_AGENT = 0x04,	      /* string, agent: its build version */
	PROTO_TAG_BOOT_ID = 0x05,     /* 16 bytes, agent: differs after each boot */
	PROTO_TAG_HELLO_FLAGS = 0x06, /* u32, agent: PROTO_HELLO_* */

	/* EXEC */
	PROTO_TAG_SESSION = 0x10, /* u64, chosen by the client, not 0 */
	PROTO_TAG_ARG = 0x11,	  /* string, repeated: argv in order, at least one */
	PROTO_TAG_SANDBOX_ENV =
	    0x12,		     /* string NAME=value, repeated; over the image's environment */
	PROTO_TAG_ENV = 0x13,	     /* string NAME=value, repeated; over everything */
	PROTO_TAG_CWD = 0x14,	     /* string; relative to the home directory */
	PROTO_TAG_USER = 0x15,	     /* string: name or decimal uid */
	PROTO_TAG_TIMEOUT_MS = 0x16, /* u32, 0: none */
	PROTO_TAG_EXEC_FLAGS = 0x17, /* u32, PROTO_EXEC_* */
	PROTO_TAG_LABEL = 0x18, /* at most PROTO_LABEL_MAX bytes: SESSIONS lists it with them */
	PROTO_TAG_ROWS = 0x19,	/* u32, with PROTO_EXEC_PTY: 1-65535, default 24 */
	PROTO_TAG_COLS = 0x1a,	/* u32, likewise; default 80 */

	/* CONNECT: session, and */
	PROTO_TAG_PORT = 0x1b, /* u32, 1-65535: TCP port of the guest's loopback */

	/*
	 * ATTACH: session, and the first offsets the client lacks: acknowledges those below;
	 * without offsets: from the oldest bytes kept. STARTED: the first offsets that are going to
	 * be sent
	 */
	PROTO_TAG_STDOUT_OFFSET = 0x20, /* u64; in EXIT: total length */
	PROTO_TAG_STDERR_OFFSET = 0x21, /* u64; in EXIT: total length */
	PROTO_TAG_STDIN_OFFSET =
	    0x22, /* u64, STARTED: bytes the agent has; the client goes on there */

	PROTO_TAG_STDOUT_END = 0x24,  /* u64, STARTED: length of the stream so far */
	PROTO_TAG_STDERR_END = 0x25,  /* u64, likewise */
	PROTO_TAG_STDIN_ENDED = 0x23, /* u32, STARTED: 1 if the agent knows the end of stdin */

	/* STARTED, EXIT */
	PROTO_TAG_PID = 0x28,	     /* u32 */
	PROTO_TAG_EXIT_CODE = 0x29,  /* u32, 0-255; absent after a signal */
	PROTO_TAG_SIGNAL = 0x2a,     /* u32; absent after an exit */
	PROTO_TAG_EXIT_FLAGS = 0x2b, /* u32, PROTO_EXIT_* */

	/* FILE_* */
	PROTO_TAG_PATH = 0x30,	/* string; relative to the home directory; ".." taken lexically */
	PROTO_TAG_MODE = 0x31,	/* u32, st_mode with file type */
	PROTO_TAG_SIZE = 0x32,	/* u64, bytes */
	PROTO_TAG_UID = 0x33,	/* u32 */
	PROTO_TAG_GID = 0x34,	/* u32 */
	PROTO_TAG_MTIME = 0x35, /* u64, ns since 1970 */
	PROTO_TAG_ENTRY = 0x36, /* u32 mode, u64 size, u64 mtime ns, name */

	/* SHUTDOWN */
	PROTO_TAG_SHUTDOWN_MODE = 0x40, /* u32, enum proto_shutdown */

	/* FREEZE */
	PROTO_TAG_FREEZE_FLAGS = 0x41, /* u32, PROTO_FREEZE_* */

	/* RENEW */
	PROTO_TAG_GENERATION = 0x48,  /* 16 bytes; the answer repeats it */
	PROTO_TAG_REALTIME = 0x49,    /* u64, ns since 1970, at the time of sending */
	PROTO_TAG_HOSTNAME = 0x4a,    /* string; absent: stays as it is */
	PROTO_TAG_MACHINE_ID = 0x4b,  /* string of 32 hexadecimal digits; absent: stays */
	PROTO_TAG_ENTROPY = 0x4c,     /* 1-PROTO_ENTROPY_MAX bytes that nobody else has */
	PROTO_TAG_RENEW_FLAGS = 0x4d, /* u32, PROTO_RENEW_* */
	PROTO_TAG_ROOT_BYTES = 0x4e,  /* u64: size the root disk has now, or is about to */

	/* ERROR */
	PROTO_TAG_ERRNO = 0x50,	  /* u32, Linux errno, positive */
	PROTO_TAG_MESSAGE = 0x51, /* string, for people */

	/* RESULT of RENEW */
	PROTO_TAG_FAILURE = 0x52, /* string, repeated: a part that failed, and why; for people */

	/* SESSIONS */
	PROTO_TAG_SESSION_ENTRY = 0x60, /* u64 id, u32 1 while it runs, label */
};

#define PROTO_SESSION_ENTRY_LEN 12u /* fixed part of PROTO_TAG_SESSION_ENTRY */
#define PROTO_ENTRY_LEN		20u /* fixed part of PROTO_TAG_ENTRY */

#define PROTO_GENERATION_LEN 16u
#define PROTO_MACHINE_ID_LEN 32u
#define PROTO_HOSTNAME_MAX   64u
#define PROTO_ENTROPY_MAX    256u
#define PROTO_FREEZE_MS	     10000u /* a frozen guest thaws itself after so long */

/* PROTO_TAG_HELLO_FLAGS; unknown bits are ignored */
#define PROTO_HELLO_NO_SANDBOX_USER 1u	/* the image has no user `sandbox`: root is the default */
#define PROTO_HELLO_TEST	    2u	/* the agent is an ordinary process, not a guest's init */
#define PROTO_HELLO_RENEW	    4u	/* the agent knows FREEZE, THAW and RENEW */
#define PROTO_HELLO_SESSIONS	    8u	/* the agent knows SESSIONS and PROTO_TAG_LABEL */
#define PROTO_HELLO_PTY		    16u /* the agent knows PROTO_EXEC_PTY and WINSIZE */
#define PROTO_HELLO_CONNECT	    32u /* the agent knows CONNECT */

/* PROTO_TAG_EXEC_FLAGS; unknown bits are refused */
#define PROTO_EXEC_STDIN	 1u /* stdin is a pipe (else /dev/null) */
#define PROTO_EXEC_DIE_WITH_CONN 2u /* kill the process group when the connection ends */
#define PROTO_EXEC_PTY		 4u /* the process runs on a terminal: all output is stdout */
#define PROTO_EXEC_FLAGS	 7u

/* PROTO_TAG_FREEZE_FLAGS; unknown bits are refused */
#define PROTO_FREEZE_SYNC  1u /* sync(2), too: then the disk alone has everything */
#define PROTO_FREEZE_FLAGS 1u

/* PROTO_TAG_RENEW_FLAGS; unknown bits are refused */
#define PROTO_RENEW_GROW_ROOT 1u /* grow the root file system to the size of its disk */
#define PROTO_RENEW_FLAGS     1u

/* PROTO_TAG_EXIT_FLAGS */
#define PROTO_EXIT_TIMED_OUT 1u /* the agent killed the process group after timeout_ms */
#define PROTO_EXIT_HELD_OPEN 2u /* a surviving child kept a pipe open; its later output is lost */

enum proto_shutdown { PROTO_POWEROFF = 0, PROTO_REBOOT = 1 };

enum proto_side { PROTO_FROM_CLIENT, PROTO_FROM_AGENT };

/* Name of a frame type for messages; "unknown" if it is none. Static. */
const char *proto_type_name(unsigned int type);

/* True for the frames that start a request (0x01-0x3f that exist). */
bool proto_is_request(unsigned int type);

/* Write the 16 bytes of @h to @out. */
void proto_header_encode(const struct proto_header *h, uint8_t out[PROTO_HEADER_LEN]);

/**
 * proto_header_decode() - Read and check a header
 * @in:		The bytes as received
 * @from:	Who sent them: decides which types and lengths are legal
 * @h:		Set also on failure (for the id of an error answer)
 *
 * Return: 0, -EPROTONOSUPPORT for another version, -EMSGSIZE for a payload over
 *	   the limit of its type, -EPROTO for an unknown type, wrong direction or flags
 */
int proto_header_decode(const uint8_t in[PROTO_HEADER_LEN], enum proto_side from,
			struct proto_header *h, struct err *e);

/* One TLV, borrowed from the payload. */
struct proto_tlv {
	uint16_t tag, flags;
	uint32_t len;
	const uint8_t *value;
};

/**
 * proto_tlv_next() - Take the next TLV
 * @r:	Over the payload
 *
 * Return: 1, 0 at the end, -EPROTO if the payload is cut short or has unknown flags
 */
int proto_tlv_next(struct reader *r, struct proto_tlv *t, struct err *e);

/* 0 for a tag to be skipped, -EOPNOTSUPP (and a message with the tag) for a mandatory one. */
int proto_tlv_unknown(const struct proto_tlv *t, struct err *e);

/* Numbers: 0, or -EPROTO if the length is another. */
int proto_tlv_u32(const struct proto_tlv *t, uint32_t *v, struct err *e);
int proto_tlv_u64(const struct proto_tlv *t, uint64_t *v, struct err *e);

/**
 * proto_tlv_str() - Copy a string out
 * @max:	Longer ones are refused
 * @out:	malloc'ed and NUL-terminated; the caller frees it. A former string there is freed
 *
 * Return: 0, -ENAMETOOLONG, -EINVAL for one with a NUL inside, -ENOMEM
 */
int proto_tlv_str(const struct proto_tlv *t, size_t max, char **out, struct err *e);

/*
 * A frame (or several) being built. Grows up to PROTO_REQUEST_MAX; a failure
 * sticks (`failed`, as with struct writer), and is checked once at the end.
 * Zero-initialise; release with proto_buf_fini().
 */
struct proto_buf {
	uint8_t *data; /* owned */
	size_t len, cap;
	size_t frame; /* where the frame being built starts */
	int failed;   /* 0, -EMSGSIZE or -ENOMEM */
};

void proto_buf_fini(struct proto_buf *b);
/* Empty it, keep the memory. */
void proto_buf_reset(struct proto_buf *b);
void proto_begin(struct proto_buf *b, enum proto_type type, uint64_t id);
/* Completes the header. Return: 0 or what failed on the way; then the frame is taken back. */
int proto_end(struct proto_buf *b);
void proto_put_bytes(struct proto_buf *b, const void *src, size_t len);
void proto_put_u64(struct proto_buf *b, uint64_t v);
/* @len bytes to be filled by the caller, who takes from b->len what stays unused; or NULL. */
uint8_t *proto_put_space(struct proto_buf *b, size_t len);
void proto_put_tlv(struct proto_buf *b, enum proto_tag tag, unsigned int flags, const void *value,
		   size_t len);
void proto_put_tlv_u32(struct proto_buf *b, enum proto_tag tag, unsigned int flags, uint32_t v);
void proto_put_tlv_u64(struct proto_buf *b, enum proto_tag tag, unsigned int flags, uint64_t v);
void proto_put_tlv_str(struct proto_buf *b, enum proto_tag tag, unsigned int flags, const char *s);

#endif
