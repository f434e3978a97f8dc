/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Image manifests (api.md 9.1): what a client sends to have an image built.
 *
 * They are checked as a whole before anything is done, so a mistake in the last step costs no
 * build; each message names the step. What is left to fail in a build is the guest's.
 */
#ifndef SERVER_MANAGER_MANIFEST_H
#define SERVER_MANAGER_MANIFEST_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "lib/err.h"
#include "server/store/store.h"

#define MANIFEST_STEPS_MAX   100
#define MANIFEST_FILES_MAX   10000	  /* in all steps */
#define MANIFEST_BYTES_MAX   (50u << 20)  /* of files, decoded, in all steps */
#define MANIFEST_SCRIPT_MAX  (120u << 10) /* of a run step: one argument of a process */
#define MANIFEST_TEXT_MAX    (1u << 20)
#define MANIFEST_BUILDER_MIB 4096

enum step_type {
	STEP_APT_INSTALL,
	STEP_PIP_INSTALL,
	STEP_RUN,
	STEP_ENV,
	STEP_WORKDIR,
	STEP_ADD_FILE,
	STEP_ADD_DIR,
};

struct step {
	enum step_type type;
	json_t *args;		/* owned; an object, its members are as the type wants them */
	char digest[HASH_SIZE]; /* of type and arguments, in whatever order these came */
};

struct manifest {
	json_t *json;	    /* owned; base and steps borrow from it */
	const char *base;   /* "" and the aliases of base are fine */
	struct step *steps; /* owned */
	size_t n_steps;
	int64_t builder_mib;  /* 0: nothing was said */
	int64_t runtime_mib;  /* the least that its sandboxes get; 0: nothing was said */
	char hash[HASH_SIZE]; /* contentHash: of the text of base and steps, as it was received */
	/* Owned; the object as it was received, without blanks, or, if that is longer than
	 * MANIFEST_TEXT_MAX, with the contents of files left out. */
	char *text;
};

/**
 * manifest_parse() - Check a manifest
 * @text:	Of the JSON object, as it was received
 * @image:	The same, parsed; anything but an object is refused
 * @out:	manifest_fini() after success
 *
 * Return: 0; -EINVAL and @e names the step; -ENOMEM
 */
int manifest_parse(const char *text, size_t len, json_t *image, struct manifest *out,
		   struct err *e);
void manifest_fini(struct manifest *m);

/* The word of the API. Static. */
const char *step_type_name(enum step_type type);

/**
 * json_text_member() - Where in the text of a JSON object a member's value is
 * @text:	Of @len bytes; need not be an object, nor valid
 * @value:	Set to its first byte, without blanks around it; the last one if it is there twice
 *
 * Names are compared as they are written. Return: its length; 0 if there is none
 */
size_t json_text_member(const char *text, size_t len, const char *name, const char **value);

/* A file of a STEP_ADD_FILE or STEP_ADD_DIR. */
struct manifest_file {
	char *path;    /* owned; absolute */
	uint8_t *data; /* owned */
	size_t len;
};

/* How many files a step has, and the @i-th: decoded; the caller frees. 0 or -ENOMEM. */
size_t step_files(const struct step *s);
int step_file(const struct step *s, size_t i, struct manifest_file *f);

/* `run`: its commands as one script for bash, "cd" carries over, stops at the first failure.
 * The caller frees; NULL without memory. */
char *step_script(const struct step *s);

/**
 * environment_merge() - The text of /etc/environment with variables set
 * @old:	May be NULL
 * @vars:	Checked by manifest_parse()
 * @shell:	Write lines of a shell script (/etc/profile.d) instead
 *
 * Lines that set one of these are replaced. Return: new text, the caller frees; NULL without memory
 */
char *environment_merge(const char *old, const json_t *vars, bool shell);

#endif
