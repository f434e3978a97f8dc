/* SPDX-License-Identifier: Apache-2.0 */
/* What the readers of requests share: config.c, config_travel.c. */
#ifndef VMM_CONFIG_INT_H
#define VMM_CONFIG_INT_H

#include "lib/json.h"
#include "vmm/vm.h"

#define CONFIG_BIND(obj, fields, out, e)                                                           \
	json_bind(obj, fields, sizeof(fields) / sizeof((fields)[0]), JSON_REFUSE_UNKNOWN, out, e)

/* NULL stays NULL. */
int config_copy(char **out, const char *s, struct err *e);
int config_read_disks(json_t *list, struct vm_config *c, struct err *e);
int config_saved(const char *state, const char *ram, const char *format, struct vm_saved *s,
		 struct err *e);

/* @obj: NULL: no network device */
int config_read_net(json_t *obj, struct vm_net_config *c, struct err *e);

#endif
