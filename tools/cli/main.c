/* SPDX-License-Identifier: Apache-2.0 */
/* dormouse: the command line. */
#include "tools/cli/cli.h"

int main(int argc, char **argv)
{
	/* A closed pipe is an error to report, not a silent death in the middle of a copy. */
	signal(SIGPIPE, SIG_IGN);
	return cli_main(argc, argv);
}
