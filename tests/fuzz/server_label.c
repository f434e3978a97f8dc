/* SPDX-License-Identifier: Apache-2.0 */
/* Labels of sessions, which the guest may have made up. */
#include <stdlib.h>
#include <string.h>

#include "server/manager/session_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct exec_session *x = label_parse(data, size, "sb-00000000");

	if (!x)
		return 0;
	/* Checked: so these hold. */
	if (strlen(exec_id(x)) != 8 || exec_kind(x) > EXEC_AGENT || x->keep < PROTO_DATA_MAX ||
	    x->keep > EXEC_KEEP_BYTES || x->max_alone_s < 0 || !json_is_array(exec_args(x)))
		abort();
	exec_put(x);
	return 0;
}
