/* SPDX-License-Identifier: Apache-2.0 */
/* From what a controller or a command line says to a struct vm_config. */
#ifndef VMM_CONFIG_H
#define VMM_CONFIG_H

#include <jansson.h>

#include "vmm/vm.h"

/**
 * config_from_json() - Read the body of a "configure" request
 * @body:	With "id" and "op" still in it
 * @out:	vm_config_fini() frees it, after a failure too
 *
 * Return: 0, -EINVAL with the field that is wrong, or -ENOMEM
 */
int config_from_json(json_t *body, struct vm_config *out, struct err *e);

/*
 * Bodies of other requests, as config_from_json(). What they fill must be released, after a
 * failure too: vm_config_fini(), vm_saved_fini(), vm_ends_fini(), vm_checkpoint_config_fini().
 */
int config_shell_from_json(json_t *body, struct vm_shape *out, struct vm_ends *ends, struct err *e);
int config_restore_from_json(json_t *body, struct vm_config *c, struct vm_saved *s, bool *resume,
			     struct err *e);
/* @c: only its disks */
int config_rollback_from_json(json_t *body, struct vm_config *c, struct vm_saved *s, struct err *e);
int config_checkpoint_from_json(json_t *body, struct vm_checkpoint_config *c, struct err *e);

/**
 * config_from_args() - Read the command line of "dormouse-vmm run"
 * @argc:	Of what follows "run"
 * @socket:	Set to the argument of --socket, or NULL; borrowed from @argv
 *
 * Return: 0, or -EINVAL with the option that is wrong
 */
int config_from_args(int argc, char **argv, struct vm_config *out, const char **socket,
		     struct err *e);

#endif
