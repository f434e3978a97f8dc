/* SPDX-License-Identifier: Apache-2.0 */
/* The version that --version and "info" show. */
#ifndef VMM_VERSION_H
#define VMM_VERSION_H

#define DORMOUSE_VERSION "0.1.0"

#endif
