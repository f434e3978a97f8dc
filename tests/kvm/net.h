/* SPDX-License-Identifier: Apache-2.0 */
/* Tests of the network device: net.c. */
#ifndef TESTS_KVM_NET_H
#define TESTS_KVM_NET_H

void net_frames_go_both_ways(void);
void net_bad_requests(void);
void net_over_a_checkpoint(void);

#endif
