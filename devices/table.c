/* SPDX-License-Identifier: Apache-2.0 */
/* Every kind of virtio device that there is. */
#include "devices/virtio.h"

const struct device_ops *const device_table[DEVICE_KINDS] = {
    [DEVICE_BLK] = &blk_ops,	     [DEVICE_VSOCK] = &vsock_ops, [DEVICE_RNG] = &rng_ops,
    [DEVICE_BALLOON] = &balloon_ops, [DEVICE_MEM] = &mem_ops,	  [DEVICE_NET] = &net_ops,
};
