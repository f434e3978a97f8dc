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
